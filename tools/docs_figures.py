# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Draw the figures of the documentation from a run on the demo data with the demonstration encoder.

    python tools/docs_figures.py --output docs/images

Heads are trained for 25 steps; give `--heads CHECKPOINT` to use others.
"""

from __future__ import annotations

import argparse
import io
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from anomalib.engine import Engine
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle
from PIL import Image, ImageOps
from sklearn.metrics import roc_auc_score
from torch import Tensor

from anomalib_inctrl import Detector, GeneralistDataModule, InCTRLDemo, InCTRLv2
from anomalib_inctrl.backbones.packaged import DEMO_BACKBONE, DEMO_PRETRAINED
from anomalib_inctrl.backbones.preprocessing import BackbonePreProcessor
from anomalib_inctrl.data import DataSource
from anomalib_inctrl.demo import AUXILIARY_CATEGORIES, UNSEEN_CATEGORIES
from anomalib_inctrl.io.files import write_image_atomic
from anomalib_inctrl.io.images import read_image
from anomalib_inctrl.models import InCTRLv2Model
from anomalib_inctrl.models.components.residuals import unit

ENCODER: Any = {"backbone": DEMO_BACKBONE, "pretrained": DEMO_PRETRAINED}
QUIET: Any = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
K_SHOT = 4
COLOURS = ("#d1495b", "#2e86ab", "#edae49")
EXPLAINED = "brick", "thread"  # category and defect
RESULTS = ("washer", "brick")  # a rendered part, and a photograph with composited defects
NORMAL, ABNORMAL = "#2e86ab", "#d1495b"


def prompts_of(root: Path, category: str) -> list[Path]:
    """The normal images of a category that are shown to the model."""
    return sorted((root / category / "train" / "good").glob("*.png"))[:K_SHOT]


def median(rows: Sequence[int], score: Tensor) -> int:
    """The row of the median score: neither the best nor the worst case."""
    return sorted(rows, key=lambda row: float(score[row]))[len(rows) // 2]


class Example:
    """A category whose prompts are set in a model, and its test images."""

    def __init__(self, model: InCTRLv2Model, root: Path, category: str) -> None:
        self.model, self.category, self.prompts = model, category, prompts_of(root, category)
        data = InCTRLDemo(root=root, category=category)
        data.setup()
        samples = data.test_data.samples
        self.paths, self.masks = list(samples.image_path), list(samples.mask_path)
        self.labels = samples.label_index.to_numpy()
        model.set_prompts(self._preprocess(self.prompts), category)
        with torch.inference_mode():
            self.components = model.score_components(self._preprocess(self.paths), category)
        self.abnormal = median(np.flatnonzero(self.labels).tolist(), self.components.patch_score)
        self.normal = int(self.labels.argmin())

    def _preprocess(self, paths: Sequence[str | Path]) -> Tensor:
        transform = BackbonePreProcessor(self.model.backbone.image_size[0]).transform
        return transform(torch.stack([read_image(path) for path in paths])).as_subclass(Tensor)

    def patches(self) -> Tensor:
        """Patch tokens ``(L, P, D_v)`` of the abnormal image."""
        with torch.inference_mode():
            return self.model.backbone.encode_image(self._preprocess([self.paths[self.abnormal]])).patches[0]

    def outline(self, axis: Any) -> None:
        """Draw the border of the defect of the abnormal image."""
        axis.contour(plt.imread(self.masks[self.abnormal]), levels=[0.5], colors="white", linewidths=1)


def train_heads(root: Path, results: Path) -> Path:
    """Train InCTRLv2's heads for 25 steps on the auxiliary categories; gives the checkpoint."""
    data = GeneralistDataModule(
        auxiliary=[DataSource("InCTRLDemo", root=str(root), categories=list(AUXILIARY_CATEGORIES))],
        k_shot=2,
        train_batch_size=16,
        steps_per_epoch=25,
        num_workers=0,
    )
    engine = Engine(max_epochs=1, default_root_dir=results, **QUIET)
    engine.fit(InCTRLv2(**ENCODER, k_shot=K_SHOT), datamodule=data)
    return Path(str(engine.best_model_path))


def show(axis: Any, image: Any, title: str, **options: Any) -> Any:
    """Draw an image, given as its file or its values, without ticks."""
    axis.set_title(title, fontsize=9)
    axis.set(xticks=[], yticks=[])
    return axis.imshow(plt.imread(image) if isinstance(image, str | Path) else image, **options)


def draw_residual(example: Example, path: Path) -> None:
    """Draw the residual map of every block, their mean, and the nearest prompt patches of three patches."""
    backbone = example.model.backbone
    context = example.model.bank.select(example.category)
    # Cosine of every query patch with every prompt patch of its block (L, P, K * P).
    cosines = torch.einsum("lpd,klqd->lpkq", unit(example.patches()), context.patches).flatten(2)
    nearest, where = cosines.max(dim=-1)
    maps = (1 - nearest) / 2
    order = maps.mean(dim=0).argsort().tolist()
    block, columns = 1, backbone.grid[1]
    side = backbone.image_size[1] / columns

    def mark(axis: Any, patch: int, colour: str, text: str = "") -> None:
        y, x = divmod(patch, columns)
        axis.add_patch(Rectangle((x * side, y * side), side, side, fill=False, edgecolor=colour, linewidth=2.5))
        box = {"facecolor": colour, "edgecolor": "none", "pad": 1} if text else None
        at = min(x, columns - 3) * side, max(y * side - 6, 10)
        axis.text(*at, text, color="white", fontsize=8, bbox=box)

    figure, axes = plt.subplots(2, 5, figsize=(11, 4.9), layout="constrained")
    show(axes[0, 0], example.paths[example.abnormal], f"query: {example.category}\nwhite: ground truth")
    show(axes[1, 0], example.paths[example.abnormal], "three patches ...")
    example.outline(axes[0, 0])
    titles = [*(f"block {number}" for number in backbone.blocks), "mean over blocks, $M_x$"]
    for axis, values, title in zip(axes[0, 1:], [*maps, maps.mean(dim=0)], titles, strict=True):
        limits = f"{title}\nmax {values.max():.3f}"
        drawn = show(axis, values.reshape(backbone.grid), limits, cmap="inferno", vmin=0, vmax=float(maps.max()))
    figure.colorbar(drawn, ax=axes[0, 1:], shrink=0.8, pad=0.01)
    for number, (axis, prompt) in enumerate(zip(axes[1, 1:], example.prompts, strict=True), start=1):
        show(axis, prompt, f"prompt {number}")
    axes[1, 1].set_ylabel(f"... and their nearest in block {backbone.blocks[block]}", fontsize=8)
    for colour, patch in zip(COLOURS, (order[-1], order[len(order) // 2], order[0]), strict=True):
        mark(axes[1, 0], patch, colour)
        prompt, position = divmod(int(where[block, patch]), backbone.num_patches)
        mark(axes[1, 1 + prompt], position, colour, f"{nearest[block, patch]:.3f}")
    _save(figure, path)


def draw_branches(example: Example, path: Path) -> None:
    """Draw the residual map, both branches and the fused maps of an abnormal and a normal image."""
    components = example.components
    maps = {
        "$M_x$": components.patch_map,
        "$S_a$ (DASL)": components.dasl_map,
        "$S'_a$ (OASL)": components.oasl_map,
        "$M_p=(M_x+S_a)/2$": example.model.dasl_mean(components),
        "$M_n=(M_x+S'_a)/2$": example.model.oasl_mean(components),
        "fused map": components.anomaly_map,
    }
    rows = [example.abnormal, example.normal]
    figure, axes = plt.subplots(2, 1 + len(maps), figsize=(11, 3.8), layout="constrained")
    for axis, row, title in zip(axes[:, 0], rows, ("abnormal", "normal"), strict=True):
        show(axis, example.paths[row], title)
    example.outline(axes[0, 0])
    for column, (title, values) in zip(axes.T[1:], maps.items(), strict=True):
        shown = values[rows].unflatten(1, components.grid)
        for axis, grid in zip(column, shown, strict=True):
            limits = f"{title}\n{grid.min():.3f} to {grid.max():.3f}"
            show(axis, grid, limits, cmap="inferno", vmin=float(shown.min()), vmax=float(shown.max()))
    _save(figure, path)


def draw_components(example: Example, path: Path) -> None:
    """Draw every component of the score over the test images of a category, normal beside abnormal."""
    components = example.components
    columns = {
        "text score $s_q$": components.text_score,
        "image residual $s_I$": components.image_score,
        "patch residual $s_p$": components.patch_score,
        "baseline $(s_q+s_p)/2$": (components.text_score + components.patch_score) / 2,
        "score $s$": components.score,
    }
    rng = np.random.default_rng(0)
    figure, axes = plt.subplots(1, len(columns), figsize=(11, 2.9), layout="constrained")
    for axis, (name, values) in zip(axes, columns.items(), strict=True):
        for label, colour in enumerate((NORMAL, ABNORMAL)):
            own = values.numpy()[example.labels == label]
            axis.scatter(label + rng.uniform(-0.22, 0.22, len(own)), own, s=9, color=colour, alpha=0.7, linewidths=0)
            axis.hlines(np.median(own), label - 0.32, label + 0.32, color=colour, linewidth=2)
        axis.set_title(f"{name}\nAUROC {100 * roc_auc_score(example.labels, values):.1f}", fontsize=9)
        axis.set_xticks([0, 1], ["normal", "abnormal"], fontsize=8)
        axis.tick_params(axis="y", labelsize=7)
        axis.set_xlim(-0.6, 1.6)
    _save(figure, path)


def draw_temperature(model: InCTRLv2Model, path: Path) -> None:
    """Draw the reachable values of a branch at each temperature, by the distance of the prototypes."""
    pairs = [model.backbone.text_prototypes(name) for name in UNSEEN_CATEGORIES]
    measured = float(torch.stack([(normal - abnormal).norm() for normal, abnormal in pairs]).mean())
    taus = np.geomspace(0.005, 2, 100)
    figure, axis = plt.subplots(figsize=(6.2, 2.9), layout="constrained")
    for label, distance, colour in (
        ("opposite: 2 apart", 2.0, "#777777"),
        (f"demonstration encoder: {measured:.2f} apart", measured, NORMAL),
        ("close together: 0.05 apart", 0.05, ABNORMAL),
    ):
        reach = 1 / (1 + np.exp(-distance / taus))
        axis.fill_between(taus, 1 - reach, reach, color=colour, alpha=0.18, linewidth=0)
        axis.plot(taus, reach, color=colour, label=label)
        axis.plot(taus, 1 - reach, color=colour)
    axis.axvline(0.07, color="black", linewidth=1, linestyle=":")
    axis.text(0.072, 0.02, "default", fontsize=8)
    axis.set(xscale="log", xlabel=r"temperature_patch $\tau$", ylabel="reachable $S_a$", ylim=(0, 1))
    axis.legend(fontsize=8, loc="center left", framealpha=0.9)
    _save(figure, path)


def draw_explanation(root: Path, results: Path, heads: Path, path: Path) -> None:
    """Draw the explanation figure of a defect, with a threshold from four normal images."""
    category, defect = EXPLAINED
    prompts = [str(file) for file in prompts_of(root, category)]
    model = InCTRLv2(**ENCODER, weights=str(heads), prompts=prompts, class_name=category, threshold="auto")
    engine = Engine(default_root_dir=results, **QUIET)
    engine.predict(model, data_path=root / category / "test" / defect)
    figure = min((Path(engine.trainer.default_root_dir) / "explanations").rglob("*.png"))
    write_image_atomic(path, ImageOps.contain(Image.open(figure), (1000, 1000)))


def draw_results(root: Path, path: Path) -> None:
    """Draw a normal image, a defective one and its heat map of two categories, with scores and thresholds."""
    detector = Detector(**ENCODER, device="cpu", threshold="auto")
    figure, axes = plt.subplots(1, 6, figsize=(11, 2.2), layout="constrained")
    for (good, bad, heat), category in zip(axes.reshape(2, 3), RESULTS, strict=True):
        detector.set_prompts(prompts_of(root, category), category)
        tests = root / category / "test"
        defects = list(detector.predict(path for path in tests.glob("*/*.png") if path.parent.name != "good"))
        defect = defects[median(range(len(defects)), torch.tensor([found.score for found in defects]))]
        normal = detector.predict(min((tests / "good").glob("*.png")))[0]
        show(heat, defect.heat_map(), "heat map")
        heat.set_xlabel("anomalous" if defect.label else "normal", fontsize=9)
        for axis, title, found in ((good, "good", normal), (bad, "defective", defect)):
            show(axis, found.image, title)
            axis.set_xlabel(f"{found.score:.3f} {'>' if found.label else '≤'} {found.threshold:.3f}", fontsize=9)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    plt.close(figure)
    image = Image.open(buffer).convert("RGB")
    if path.suffix == ".png":  # 192 colours are enough for these figures
        image = image.quantize(192, dither=Image.Dither.FLOYDSTEINBERG)
    write_image_atomic(path, image)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    parser.add_argument("--data", type=Path, default=Path("datasets/InCTRLDemo"))
    parser.add_argument("--results", type=Path, default=Path("results/docs"))
    parser.add_argument("--heads", type=Path, help="checkpoint with trained heads")
    args = parser.parse_args(argv)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    mpl.use("Agg")
    args.output.mkdir(parents=True, exist_ok=True)
    for category in ("capsule", *RESULTS, EXPLAINED[0]):
        InCTRLDemo(root=args.data, category=category).prepare_data()
    heads = args.heads or train_heads(args.data, args.results)
    draw_results(args.data, args.output / "results.jpg")
    draw_explanation(args.data, args.results, heads, args.output / "explanation.png")
    model = InCTRLv2(**ENCODER, weights=str(heads)).model.eval()
    draw_temperature(model, args.output / "temperature.png")
    example = Example(model, args.data, "capsule")
    draw_residual(example, args.output / "residual.png")
    draw_branches(example, args.output / "branches.png")
    draw_components(example, args.output / "components.png")
    print(f"Heads: {heads}\nFigures: {args.output}")


if __name__ == "__main__":
    main()
