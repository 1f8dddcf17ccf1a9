# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Effect of the choice of prompts: number, strategy, offsets, defects among them, another product, the class name.

    python benchmarks/prompt_choices.py --output docs/measured/prompts.md

Measured on the unseen demo categories by the training-free baseline, so that nothing but the prompts differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path

import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from timing import markdown, script_parser
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from anomalib_inctrl.backbones import Backbone, backbone_preprocessing, create_backbone
from anomalib_inctrl.backbones.preprocessing import BackbonePreProcessor
from anomalib_inctrl.benchmark.one_pass import encode_files
from anomalib_inctrl.demo import UNSEEN_CATEGORIES, InCTRLDemo
from anomalib_inctrl.io.files import write_text_atomic
from anomalib_inctrl.io.images import read_image
from anomalib_inctrl.models.components.residuals import nearest_prompt_similarity, residual_of, text_score, unit
from anomalib_inctrl.prompts import create_selector

METRICS = ("score", "patches alone", "map")
K_SHOTS = (1, 2, 4, 8)
SHIFTS = (1, 2, 4)
_STRIDE = 4
_SHIFT_SEEDS = 3  # every offset is encoded again


class Category:
    """The encoded test images of a category, and their cosines with every image that serves as a prompt.

    Args:
        root: Folder of the demo data.
        name: The category.
        backbone: The backbone.
        pre_processor: Its preprocessing.
        options: Further arguments of ``InCTRLDemo``.
    """

    def __init__(
        self, root: Path, name: str, backbone: Backbone, pre_processor: BackbonePreProcessor, options: dict[str, int]
    ) -> None:
        data = InCTRLDemo(root=root, category=name, **options)
        data.prepare_data()
        data.setup()
        tests = data.test_data.samples.sort_values("image_path")
        self.name, self.backbone = name, backbone
        self.encode = partial(encode_files, backbone, pre_processor)
        self.candidates = sorted(Path(path) for path in data.train_data.samples.image_path)
        self.paths = [Path(path) for path in tests.image_path]
        self.labels = torch.tensor(tests.label_index.to_numpy(dtype=int)).bool()
        masks = zip(tests.mask_path, self.labels.tolist(), strict=True)
        self.masks = torch.stack([self._mask(path if abnormal else None) for path, abnormal in masks])
        self.query = self.encode(self.paths)
        # Prompts are encoded once, and compared once with the test images.
        self.cosines = cache(self._cosines)
        self.embeddings = cache(lambda path: self.encode([path]).embedding[0])

    def _mask(self, path: str | None) -> Tensor:
        side = self.backbone.image_size
        mask = torch.zeros(1, *side) if path is None else read_image(path)[:1]
        return (F.interpolate(mask[None], size=side, mode="nearest-exact")[0, 0] > 0.5)[::_STRIDE, ::_STRIDE]

    def _cosines(self, path: Path, shifts: int) -> Tensor:
        prompts = self.encode([path], shifts)
        return nearest_prompt_similarity(unit(self.query.patches), unit(prompts.patches))

    def choose(
        self, count: int, seed: int, strategy: str = "random", files: Sequence[Path] | None = None
    ) -> list[Path]:
        """Choose prompts among the category's candidates, or other files."""
        selector = create_selector(strategy, seed)
        return selector.select(files or self.candidates, count, lambda some: torch.stack([*map(self.embeddings, some)]))

    def measure(
        self,
        prompts: Sequence[Path],
        class_name: str | None = None,
        leave_out: Sequence[Path] = (),
        shifts: int = 1,
    ) -> dict[str, float]:
        """Score the test images by the training-free baseline and take metrics in percent."""
        backbone = self.backbone
        keep = torch.tensor([path not in leave_out for path in self.paths])
        maps = residual_of(torch.stack([self.cosines(path, shifts) for path in prompts]).amax(dim=0))[keep]
        by_text = text_score(self.query.embedding, backbone.text_prototypes(class_name or self.name))[keep]
        grid = maps.unflatten(-1, backbone.grid).unsqueeze(1)
        large = F.interpolate(grid, size=backbone.image_size, mode="bilinear", align_corners=False)
        patches, pixels = maps.amax(dim=-1), large[:, 0, ::_STRIDE, ::_STRIDE]
        pairs = (((by_text + patches) / 2).double(), self.labels), (patches.double(), self.labels), (pixels, self.masks)
        values = (100 * float(roc_auc_score(truth[keep].flatten(), found.flatten())) for found, truth in pairs)
        return dict(zip(METRICS, values, strict=True))


def experiments(
    category: Category, other: Category, seeds: int
) -> Iterator[tuple[str, str, int, int, dict[str, float]]]:
    """Measure every experiment on a category."""
    for strategy, draws in (("random", seeds), ("first", 1), ("representative", 1)):
        for seed in range(draws):
            # Choices are nested: the first of eight are the choice of fewer.
            chosen = category.choose(max(K_SHOTS), seed, strategy)
            for k_shot in K_SHOTS:
                yield "strategy", strategy, k_shot, seed, category.measure(chosen[:k_shot])
    for seed in range(min(seeds, _SHIFT_SEEDS)):
        chosen = category.choose(4, seed)
        for k_shot in (1, 4):
            for shifts in SHIFTS:
                found = category.measure(chosen[:k_shot], shifts=shifts)
                yield f"shifts, K = {k_shot}", f"{shifts} x {shifts}", k_shot, seed, found
    defective = [path for path, label in zip(category.paths, category.labels, strict=True) if label]
    for seed in range(seeds):
        good, bad, strangers = (
            category.choose(4, seed),
            category.choose(4, seed, files=defective),
            other.choose(4, seed),
        )
        for count in (0, 1, 2):
            found = category.measure(good[: 4 - count] + bad[:count], leave_out=bad)
            yield "defects", f"{count} of 4", 4, seed, found
        yield "product", "of the same product", 4, seed, category.measure(good)
        yield "product", "of another product", 4, seed, category.measure(strangers)
        for row, name in (("its own", category.name), ("object", "object"), ("of another", other.name)):
            yield "name", row, 4, seed, category.measure(good, class_name=name)


def report(results: pd.DataFrame, backbone: Backbone, command: str) -> str:
    """Write the results as Markdown."""
    seeds, categories = results.seed.nunique(), results.category.nunique()
    by_seed = results.groupby(["experiment", "row", "k_shot", "seed"], sort=False)[list(METRICS)].mean()
    cells = by_seed.groupby(level=["experiment", "row", "k_shot"], sort=False).agg(_cell)

    def table(experiment: str, title: str) -> str:
        return _table([title, *METRICS], cells.loc[experiment].droplevel("k_shot").itertuples())

    def strategies(metric: str) -> str:
        found = cells.loc["strategy"][metric].unstack(sort=False)
        return _table([metric, *(f"K = {k}" for k in found)], found.itertuples())

    draws = results[(results.experiment == "strategy") & (results.row == "random")]
    spread = draws.groupby(["k_shot", "category"])["patches alone"].agg(lambda values: values.max() - values.min())
    ranges = [(str(k), f"{spread[k].mean():.1f}", f"{spread[k].max():.1f} ({spread[k].idxmax()})") for k in K_SHOTS]
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

{_table(["K", "mean over categories", "largest"], ranges)}

### Prompts seen at several offsets

`prompt_shifts`, {min(seeds, _SHIFT_SEEDS)} draws: 1 x 1 is each prompt as it is, 4 x 4 shows it at 16 offsets within a
patch of {backbone.patch_size} pixels.

{table("shifts, K = 1", "K = 1")}

{table("shifts, K = 4", "K = 4")}

### Defects among the prompts

The defective images that serve as prompts are not scored, in any of the rows.

{table("defects", "defective prompts")}

### Prompts of another product

{table("product", "prompts")}

### The class name

{table("name", "class name")}
"""


def _cell(values: pd.Series) -> str:
    return f"{values.mean():.1f}" + (f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else "")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return markdown(header, rows, header[:1]).rstrip()


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = script_parser(__doc__)
    parser.add_argument("--output", type=Path, default=Path("results/prompts.md"))
    parser.add_argument("--data", type=Path, default=Path("datasets/InCTRLDemo"))
    parser.add_argument("--categories", nargs="+", default=list(UNSEEN_CATEGORIES))
    parser.add_argument("--counts", nargs=3, type=int, metavar=("TRAIN", "GOOD", "BAD"), default=None)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--backbone", default="mini-clip-16-240")
    parser.add_argument("--pretrained", default="demo", help="weights of the backbone; empty for random ones")
    args = parser.parse_args(argv)
    names = ("train_count", "test_normal_count", "test_anomalous_count")
    options = dict(zip(names, args.counts, strict=True)) if args.counts else {}
    pretrained = args.pretrained or None
    preprocessing = backbone_preprocessing(args.backbone, pretrained, None)
    backbone = create_backbone(args.backbone, pretrained)
    pre_processor = BackbonePreProcessor(preprocessing.image_size, "squash", preprocessing.mean, preprocessing.std)
    lines = []
    with torch.inference_mode():
        categories = [
            Category(args.data, name, backbone, pre_processor, options)
            for name in tqdm(args.categories, desc="Encoding")
        ]
        for place, category in enumerate(tqdm(categories, desc="Measuring")):
            other = categories[(place + 1) % len(categories)]
            lines += [(*found, category.name) for found in experiments(category, other, args.seeds)]
    results = pd.DataFrame(lines, columns=["experiment", "row", "k_shot", "seed", "metrics", "category"])
    results = results.join(pd.DataFrame(results.pop("metrics").tolist()))
    command = f"python benchmarks/prompt_choices.py --output {args.output}"
    write_text_atomic(args.output, report(results, backbone, command))
    print(f"Written: {args.output}")


if __name__ == "__main__":
    main()
