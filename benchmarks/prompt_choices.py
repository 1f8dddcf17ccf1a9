# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What the choice of prompts does: number, strategy, offsets, defects among them, another product, the class name.

    python benchmarks/prompt_choices.py --output docs/measured/prompts.md

Measured on the unseen demo categories by the training-free baseline, so that nothing but the prompts differs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from anomalib_inctrl.backbones import ImageFeatures, backbone_preprocessing, create_backbone
from anomalib_inctrl.backbones.preprocessing import BackbonePreProcessor
from anomalib_inctrl.benchmark.encoding import ImageEncoder
from anomalib_inctrl.demo import UNSEEN_CATEGORIES, InCTRLDemo
from anomalib_inctrl.io.files import write_text_atomic
from anomalib_inctrl.io.images import read_image
from anomalib_inctrl.models.components.residuals import nearest_prompt_similarity, residual_of, text_score, unit
from anomalib_inctrl.prompts import create_selector

METRICS = ("score", "patches alone", "map")
K_SHOTS = (1, 2, 4, 8)
SHIFTS = (1, 2, 4)
_STRIDE = 4
_SHIFT_SEEDS = 3  # every offset is encoded anew


class Category:
    """One category: its test images encoded, and their cosines with every image that serves as a prompt.

    Args:
        root: Folder of the demo data.
        name: The category.
        encoder: The backbone.
        options: Further arguments of ``InCTRLDemo``.
    """

    def __init__(self, root: Path, name: str, encoder: ImageEncoder, options: dict[str, int]) -> None:
        data = InCTRLDemo(root=root, category=name, **options)
        data.prepare_data()
        data.setup()
        self.name, self.encoder = name, encoder
        self.candidates = sorted(Path(path) for path in data.train_data.samples.image_path)
        tests = data.test_data.samples.sort_values("image_path")
        self.paths = [Path(path) for path in tests.image_path]
        self.labels = tests.label_index.to_numpy(dtype=int)
        self.query = encoder.encode_files(self.paths)
        self.masks = torch.stack([self._mask(row) for row in tests.itertuples()])
        self._cosines: dict[tuple[Path, int], Tensor] = {}
        self.features = encoder.encode_files(self.candidates)

    def _mask(self, row: object) -> Tensor:
        side = self.encoder.backbone.image_size
        path = getattr(row, "mask_path", None)
        if not path or not getattr(row, "label_index", 0):
            return torch.zeros(side, dtype=torch.bool)[::_STRIDE, ::_STRIDE]
        mask = F.interpolate(read_image(path)[None, :1], size=side, mode="nearest-exact")[0, 0]
        return (mask > 0.5)[::_STRIDE, ::_STRIDE]

    def encode(self, files: Sequence[Path]) -> Tensor:
        """Class embeddings of candidates, for strategies that look at them."""
        return self.features.embedding[[self.candidates.index(file) for file in files]]

    def cosines(self, path: Path, shifts: int = 1) -> Tensor:
        """Cosine of every test patch with its nearest patch of one image, at all its offsets ``(N, L, P)``."""
        if (path, shifts) not in self._cosines:
            found = self._encoded(path) if shifts == 1 else self.encoder.encode_files([path], shifts)
            self._cosines[path, shifts] = nearest_prompt_similarity(unit(self.query.patches), unit(found.patches))
        return self._cosines[path, shifts]

    def _encoded(self, path: Path) -> ImageFeatures:
        for paths, features in ((self.candidates, self.features), (self.paths, self.query)):
            if path in paths:
                row = paths.index(path)
                return features.rows(slice(row, row + 1))
        return self.encoder.encode_files([path])

    def measure(
        self,
        prompts: Sequence[Path],
        class_name: str | None = None,
        leave_out: Sequence[Path] = (),
        shifts: int = 1,
    ) -> dict[str, float]:
        """Score the test images by the training-free baseline and take metrics in percent.

        Args:
            prompts: Images that serve as prompts.
            class_name: What the text prompts say; the category by default.
            leave_out: Test images that are not judged.
            shifts: Offsets along each axis at which prompts are seen.

        Returns:
            AUROC of the score, of the patch score alone, and of the map's pixels.
        """
        maps = residual_of(torch.stack([self.cosines(path, shifts) for path in prompts]).amax(dim=0))
        by_text = text_score(self.query.embedding, self.encoder.backbone.text_prototypes(class_name or self.name))
        patches = maps.amax(dim=-1)
        keep = np.array([path not in leave_out for path in self.paths])
        grid = maps.unflatten(-1, self.encoder.backbone.grid).unsqueeze(1)
        large = F.interpolate(grid, size=self.encoder.backbone.image_size, mode="bilinear", align_corners=False)
        pixels = large[:, 0, ::_STRIDE, ::_STRIDE][keep].flatten().numpy()
        labels = self.labels[keep]
        return {
            "score": 100 * float(roc_auc_score(labels, ((by_text + patches) / 2)[keep].double().numpy())),
            "patches alone": 100 * float(roc_auc_score(labels, patches[keep].double().numpy())),
            "map": 100 * float(roc_auc_score(self.masks[keep].flatten().numpy(), pixels)),
        }


def measure_all(categories: Sequence[Category], seeds: int) -> pd.DataFrame:
    """Measure every experiment: a line per experiment, row, seed and category.

    Args:
        categories: Where to measure.
        seeds: Number of random draws.

    Returns:
        Columns ``experiment``, ``row``, ``k_shot``, ``seed``, ``category`` and the metrics.
    """
    lines: list[dict[str, object]] = []

    def note(experiment: str, row: str, k_shot: int, seed: int, category: Category, found: dict[str, float]) -> None:
        where = {"experiment": experiment, "row": row, "k_shot": k_shot, "seed": seed, "category": category.name}
        lines.append(where | found)

    for place, category in enumerate(tqdm(categories, desc="Measuring", unit="category")):
        other = categories[(place + 1) % len(categories)]
        for strategy, draws in (("random", seeds), ("first", 1), ("representative", 1)):
            for seed in range(draws):
                # Choices are nested: the first of eight are the choice of fewer.
                chosen = create_selector(strategy, seed).select(category.candidates, max(K_SHOTS), category.encode)
                for k_shot in K_SHOTS:
                    note("strategy", strategy, k_shot, seed, category, category.measure(chosen[:k_shot]))
        for seed in range(min(seeds, _SHIFT_SEEDS)):
            chosen = create_selector("random", seed).select(category.candidates, 4, category.encode)
            for k_shot in (1, 4):
                for shifts in SHIFTS:
                    found = category.measure(chosen[:k_shot], shifts=shifts)
                    note(f"shifts, K = {k_shot}", f"{shifts} x {shifts}", k_shot, seed, category, found)
        defective = [path for path, label in zip(category.paths, category.labels, strict=True) if label]
        for seed in range(seeds):
            good = create_selector("random", seed).select(category.candidates, 4, category.encode)
            bad = create_selector("random", seed).select(defective, 4, category.encode)
            for count in (0, 1, 2):
                prompts = good[: 4 - count] + bad[:count]
                found = category.measure(prompts, leave_out=bad)
                note("defects", f"{count} of 4", 4, seed, category, found)
            strangers = create_selector("random", seed).select(other.candidates, 4, other.encode)
            note("product", "of the same product", 4, seed, category, category.measure(good))
            note("product", "of another product", 4, seed, category, category.measure(strangers))
            for row, name in (("its own", category.name), ("object", "object"), ("of another", other.name)):
                note("name", row, 4, seed, category, category.measure(good, class_name=name))
    return pd.DataFrame(lines)


def report(results: pd.DataFrame, encoder: ImageEncoder, command: str) -> str:
    """Write what was measured as Markdown.

    Args:
        results: What :func:`measure_all` gave.
        encoder: The backbone.
        command: Command that measures it again.

    Returns:
        The page's part.
    """
    by_seed = results.groupby(["experiment", "row", "k_shot", "seed"], sort=False)[list(METRICS)].mean().reset_index()
    seeds = results.seed.nunique()
    categories = results.category.nunique()
    backbone = encoder.backbone

    def cell(rows: pd.DataFrame, metric: str) -> str:
        values = rows[metric]
        spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
        return f"{values.mean():.1f}{spread}"

    def table(experiment: str, title: str, rows: Sequence[str]) -> str:
        found = by_seed[by_seed.experiment == experiment]
        head = [f"| {title} | score | patches alone | map |", "| --- | ---: | ---: | ---: |"]
        cells = ([row, *(cell(found[found.row == row], metric) for metric in METRICS)] for row in rows)
        return "\n".join([*head, *(f"| {' | '.join(line)} |" for line in cells)])

    strategy = by_seed[by_seed.experiment == "strategy"]

    def strategies(metric: str) -> str:
        lines = [f"| {metric} |" + "".join(f" K = {k} |" for k in K_SHOTS), "| --- |" + " ---: |" * len(K_SHOTS)]
        for row in ("random", "first", "representative"):
            own = strategy[strategy.row == row]
            cells = (cell(own[own.k_shot == k_shot], metric) for k_shot in K_SHOTS)
            lines.append(f"| {row} | " + " | ".join(cells) + " |")
        return "\n".join(lines)

    draws = results[(results.experiment == "strategy") & (results.row == "random")]
    spread = draws.groupby(["k_shot", "category"])["patches alone"].agg(lambda values: values.max() - values.min())
    ranges = [
        f"| {k_shot} | {spread[k_shot].mean():.1f} | {spread[k_shot].max():.1f} ({spread[k_shot].idxmax()}) |"
        for k_shot in K_SHOTS
    ]
    return f"""<!-- Written by benchmarks/prompt_choices.py; do not edit. -->

```bash
{command}
```

AUROC in percent, mean over {categories} unseen demo categories; mean ± standard deviation of {seeds} draws where chance
decides. *Score* is the training-free baseline, *patches alone* the largest patch residual, *map* the pixels of $M_x$.
Backbone `{backbone.name}` (`{backbone.pretrained}`, fingerprint `{backbone.fingerprint}`).

### Number and strategy

{strategies("patches alone")}

{strategies("score")}

{strategies("map")}

How far apart the best and the worst of the {seeds} random draws are, *patches alone*, in points:

| K | mean over categories | largest |
| ---: | ---: | ---: |
{chr(10).join(ranges)}

### Prompts seen at several offsets

`prompt_shifts`, {min(seeds, _SHIFT_SEEDS)} draws: 1 x 1 is each prompt as it is, 4 x 4 shows it at 16 offsets within a
patch of {backbone.patch_size} pixels.

{table("shifts, K = 1", "K = 1", [f"{n} x {n}" for n in SHIFTS])}

{table("shifts, K = 4", "K = 4", [f"{n} x {n}" for n in SHIFTS])}

### Defects among the prompts

The defective pictures that serve as prompts are not judged, in any of the rows.

{table("defects", "defective prompts", [f"{count} of 4" for count in (0, 1, 2)])}

### Prompts of another product

{table("product", "prompts", ["of the same product", "of another product"])}

### The class name

{table("name", "class name", ["its own", "object", "of another"])}
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write.

    Args:
        argv: Arguments without the program's name; those of the process if None.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/prompts.md"))
    parser.add_argument("--data", type=Path, default=Path("datasets/InCTRLDemo"))
    parser.add_argument("--categories", nargs="+", default=list(UNSEEN_CATEGORIES))
    parser.add_argument("--counts", nargs=3, type=int, metavar=("TRAIN", "GOOD", "BAD"), default=None)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--backbone", default="mini-clip-16-240")
    parser.add_argument("--pretrained", default="demo")
    args = parser.parse_args(argv)
    names = ("train_count", "test_normal_count", "test_anomalous_count")
    options = dict(zip(names, args.counts, strict=True)) if args.counts else {}
    preprocessing = backbone_preprocessing(args.backbone, args.pretrained, None)
    encoder = ImageEncoder(
        create_backbone(args.backbone, args.pretrained),
        BackbonePreProcessor(preprocessing.image_size, "squash", preprocessing.mean, preprocessing.std),
    )
    with torch.inference_mode():
        encoded = tqdm(args.categories, desc="Encoding", unit="category")
        categories = [Category(args.data, name, encoder, options) for name in encoded]
        results = measure_all(categories, args.seeds)
    command = f"python benchmarks/prompt_choices.py --output {args.output}"
    write_text_atomic(args.output, report(results, encoder, command))
    print(f"Written: {args.output}")


if __name__ == "__main__":
    main()
