# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Draw the figures of the documentation, each from a real run on the demo data with the demonstration encoder.

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
import pandas as pd
import torch
from anomalib.engine import Engine
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from anomalib_inctrl import GeneralistDataModule, InCTRLDemo, InCTRLv2
from anomalib_inctrl.backbones.preprocessing import BackbonePreProcessor
from anomalib_inctrl.data import DataSource
from anomalib_inctrl.demo import AUXILIARY_CATEGORIES, UNSEEN_CATEGORIES
from anomalib_inctrl.io.files import write_image_atomic
from anomalib_inctrl.io.images import read_image
from anomalib_inctrl.models import InCTRLv2Model
from anomalib_inctrl.models.components.residuals import unit
from anomalib_inctrl.prompts import create_selector

BACKBONE, PRETRAINED, K_SHOT = "mini-clip-16-240", "demo", 4
COLOURS = ("#d1495b", "#2e86ab", "#edae49")
GOOD, BAD = "#2e86ab", "#d1495b"


class Shown:
    """A category with its prompts set in a model, and pictures to look at.

    Args:
        model: The model; gets the prompts.
        root: Folder of the demo data.
        category: The category.
    """

    def __init__(self, model: InCTRLv2Model, root: Path, category: str) -> None:
        data = InCTRLDemo(root=root, category=category)
        data.prepare_data()
        data.setup()
        self.model, self.category = model, category
        self.side = model.backbone.image_size[0]
        self.transform = BackbonePreProcessor(model.backbone.image_size[0]).transform
        candidates = [Path(path) for path in data.train_data.samples.image_path]
        self.prompts = create_selector("random", 0).select(candidates, K_SHOT, lambda files: torch.empty(len(files), 0))
        self.samples = data.test_data.samples.sort_values("image_path").reset_index(drop=True)
        model.set_prompts(self.tensor(self.prompts), category)

    def tensor(self, paths: Sequence[str | Path]) -> Tensor:
        """Preprocess image files to ``(N, 3, H, W)``."""
        return torch.cat([self.transform(read_image(path).unsqueeze(0)) for path in paths]).as_subclass(Tensor)

    def picture(self, path: str | Path) -> np.ndarray[Any, Any]:
        """Read an image file to be drawn, at the model's size."""
        image = F.interpolate(read_image(path).unsqueeze(0), size=self.side, mode="bilinear", antialias=True)[0]
        return image.permute(1, 2, 0).clamp(0, 1).numpy()

    def mask(self, row: int) -> np.ndarray[Any, Any]:
        """Ground truth of a test picture at the model's size."""
        path = self.samples.mask_path[row]
        if not path or not self.samples.label_index[row]:
            return np.zeros((self.side, self.side))
        return F.interpolate(read_image(path)[None, :1], size=self.side)[0, 0].numpy()

    def median_defect(self) -> int:
        """Row of the defective picture with the middle patch score: neither the best example nor the worst."""
        rows = self.samples.index[self.samples.label_index == 1]
        with torch.inference_mode():
            scores = self.model.score_components(self.tensor(self.samples.image_path[rows]), self.category).patch_score
        return int(rows[int(scores.argsort()[len(rows) // 2])])


def train_heads(root: Path, results: Path) -> Path:
    """Train InCTRLv2's heads for 25 steps on the auxiliary categories.

    Args:
        root: Folder of the demo data.
        results: Folder of the run.

    Returns:
        The checkpoint.
    """
    for category in AUXILIARY_CATEGORIES:
        InCTRLDemo(root=root, category=category).prepare_data()
    data = GeneralistDataModule(
        auxiliary=[DataSource("InCTRLDemo", root=str(root), categories=list(AUXILIARY_CATEGORIES))],
        k_shot=2,
        train_batch_size=16,
        steps_per_epoch=25,
        num_workers=0,
    )
    engine = Engine(max_epochs=1, default_root_dir=results, accelerator="cpu", logger=False, enable_progress_bar=False)
    engine.fit(InCTRLv2(backbone=BACKBONE, pretrained=PRETRAINED, k_shot=K_SHOT), datamodule=data)
    return Path(str(engine.best_model_path))


def residual_figure(shown: Shown, path: Path) -> None:
    """Maps of every block, their mean, and where three patches find their nearest ones."""
    row = shown.median_defect()
    picture = shown.picture(shown.samples.image_path[row])
    with torch.inference_mode():
        query = shown.model.backbone.encode_image(shown.tensor([shown.samples.image_path[row]]))
    context = shown.model.bank.select(shown.category)
    rows, columns = shown.model.backbone.grid
    # (L, P, K * P): every query patch with every prompt patch of its block.
    cosines = torch.einsum("lpd,klqd->lpkq", unit(query.patches[0]), context.patches).flatten(2)
    nearest, where = cosines.max(dim=-1)
    maps = (1 - nearest) / 2
    mean = maps.mean(dim=0)
    order = mean.argsort()
    picked = [int(order[-1]), int(order[len(order) // 2]), int(order[0])]
    block = 1
    side = shown.side / columns

    figure, axes = plt.subplots(2, 5, figsize=(11, 4.9), layout="constrained")
    top = float(maps.max())
    for axis, values, title in zip(
        axes[0, 1:],
        [*maps, mean],
        [*(f"block {number}" for number in shown.model.backbone.blocks), "mean over blocks, $M_x$"],
        strict=True,
    ):
        drawn = axis.imshow(values.reshape(rows, columns), cmap="magma", vmin=0, vmax=top)
        axis.set_title(f"{title}\nmax {values.max():.3f}", fontsize=9)
    figure.colorbar(drawn, ax=axes[0, 1:], shrink=0.8, pad=0.01)
    axes[0, 0].imshow(picture)
    axes[0, 0].contour(shown.mask(row), levels=[0.5], colors="white", linewidths=1)
    axes[0, 0].set_title(f"query: {shown.category}\nwhite: ground truth", fontsize=9)
    axes[1, 0].imshow(picture)
    axes[1, 0].set_title("three patches ...", fontsize=9)
    found = []
    for colour, patch in zip(COLOURS, picked, strict=True):
        place, cosine = divmod(int(where[block, patch]), rows * columns), float(nearest[block, patch])
        found.append((colour, *place, cosine))
        axes[1, 0].add_patch(_square(patch, columns, side, colour))
    for number, (axis, prompt) in enumerate(zip(axes[1, 1:], shown.prompts, strict=True)):
        axis.imshow(shown.picture(prompt))
        axis.set_title(f"prompt {number + 1}", fontsize=9)
        for colour, shot, patch, cosine in found:
            if shot == number:
                axis.add_patch(_square(patch, columns, side, colour))
                y, x = divmod(patch, columns)
                label = {"color": "white", "fontsize": 8, "bbox": {"facecolor": colour, "edgecolor": "none", "pad": 1}}
                axis.text(min(x * side, shown.side - 45), max(y * side - 6, 10), f"{cosine:.3f}", **label)
    axes[1, 1].set_ylabel(f"... and their nearest in block {shown.model.backbone.blocks[block]}", fontsize=8)
    _save(figure, axes, path)


def _square(patch: int, columns: int, side: float, colour: str) -> Rectangle:
    y, x = divmod(patch, columns)
    return Rectangle((x * side, y * side), side, side, fill=False, edgecolor=colour, linewidth=2.5)


def branches_figure(shown: Shown, path: Path) -> None:
    """The residual map, both branches and what is fused of them, for a defective and a normal picture."""
    normal = int(shown.samples.index[shown.samples.label_index == 0][0])
    chosen = [shown.median_defect(), normal]
    with torch.inference_mode():
        components = shown.model.score_components(shown.tensor(shown.samples.image_path[chosen]), shown.category)
    assert components.dasl_map is not None
    assert components.oasl_map is not None
    maps = {
        "$M_x$": components.patch_map,
        "$S_a$ (DASL)": components.dasl_map,
        "$S'_a$ (OASL)": components.oasl_map,
        "$M_p=(M_x+S_a)/2$": shown.model.dasl_mean(components),
        "$M_n=(M_x+S'_a)/2$": shown.model.oasl_mean(components),
        "fused map": components.anomaly_map,
    }
    figure, axes = plt.subplots(2, 1 + len(maps), figsize=(11, 3.8), layout="constrained")
    for line, row in enumerate(chosen):
        axes[line, 0].imshow(shown.picture(shown.samples.image_path[row]))
        if shown.samples.label_index[row]:
            axes[line, 0].contour(shown.mask(row), levels=[0.5], colors="white", linewidths=1)
        axes[line, 0].set_title("defective" if shown.samples.label_index[row] else "normal", fontsize=9)
        for axis, (title, values) in zip(axes[line, 1:], maps.items(), strict=True):
            low, high = float(values.min()), float(values.max())
            axis.imshow(values[line].reshape(shown.model.backbone.grid), cmap="magma", vmin=low, vmax=high)
            own = values[line]
            axis.set_title(f"{title}\n{own.min():.3f} to {own.max():.3f}", fontsize=8)
    _save(figure, axes, path)


def terms_figure(shown: Shown, path: Path) -> None:
    """Every term of the score over the test pictures of a category, normal beside defective."""
    with torch.inference_mode():
        components = shown.model.score_components(shown.tensor(list(shown.samples.image_path)), shown.category)
    assert components.image_score is not None
    columns = {
        "text score $s_q$": components.text_score,
        "image residual $s_I$": components.image_score,
        "patch residual $s_p$": components.patch_score,
        "floor $(s_q+s_p)/2$": (components.text_score + components.patch_score) / 2,
        "score $s$": components.score,
    }
    labels = shown.samples.label_index.to_numpy()
    table = pd.DataFrame({name: values.numpy() for name, values in columns.items()})
    rng = np.random.default_rng(0)
    figure, axes = plt.subplots(1, len(columns), figsize=(11, 2.9), layout="constrained")
    for axis, (name, values) in zip(axes, table.items(), strict=True):
        for label, colour in ((0, GOOD), (1, BAD)):
            own = values[labels == label]
            axis.scatter(label + rng.uniform(-0.22, 0.22, len(own)), own, s=9, color=colour, alpha=0.7, linewidths=0)
            axis.hlines(own.median(), label - 0.32, label + 0.32, color=colour, linewidth=2)
        above = (values[labels == 1].to_numpy()[:, None] - values[labels == 0].to_numpy()[None]).ravel()
        axis.set_title(f"{name}\nAUROC {100 * ((above > 0).mean() + (above == 0).mean() / 2):.1f}", fontsize=9)
        axis.set_xticks([0, 1], ["normal", "defective"], fontsize=8)
        axis.tick_params(axis="y", labelsize=7)
        axis.set_xlim(-0.6, 1.6)
    _write(figure, path)


def temperature_figure(model: InCTRLv2Model, path: Path) -> None:
    """How far a branch can move at each temperature, given how close the prototypes lie."""
    taus = np.geomspace(0.005, 2, 100)
    figure, axis = plt.subplots(figsize=(6.2, 2.9), layout="constrained")
    gaps = [_gap(model, name) for name in UNSEEN_CATEGORIES]
    styles = [("opposite: 2 apart", 2.0, "#777777")]
    styles += [(f"demonstration encoder: {np.mean(gaps):.2f} apart", float(np.mean(gaps)), GOOD)]
    styles += [("close together: 0.05 apart", 0.05, BAD)]
    for label, gap, colour in styles:
        reach = 1 / (1 + np.exp(-gap / taus))
        axis.fill_between(taus, 1 - reach, reach, color=colour, alpha=0.18, linewidth=0)
        axis.plot(taus, reach, color=colour, label=label)
        axis.plot(taus, 1 - reach, color=colour)
    axis.axvline(0.07, color="black", linewidth=1, linestyle=":")
    axis.text(0.072, 0.02, "default", fontsize=8)
    axis.set(xscale="log", xlabel=r"temperature_patch $\tau$", ylabel="reachable $S_a$", ylim=(0, 1))
    axis.legend(fontsize=8, loc="center left", framealpha=0.9)
    _write(figure, path)


def _gap(model: InCTRLv2Model, name: str) -> float:
    normal, abnormal = model.backbone.text_prototypes(name)
    return float((normal - abnormal).norm())


def _save(figure: Any, axes: Any, path: Path) -> None:
    for axis in np.ravel(axes):
        axis.set_xticks([])
        axis.set_yticks([])
    _write(figure, path)


def _write(figure: Any, path: Path) -> None:
    """Write a figure small: 192 colours are enough for what is drawn here."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    plt.close(figure)
    picture = Image.open(buffer).convert("RGB").quantize(192, dither=Image.Dither.FLOYDSTEINBERG)
    write_image_atomic(path, picture)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw all figures.

    Args:
        argv: Arguments without the program's name; those of the process if None.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    parser.add_argument("--data", type=Path, default=Path("datasets/InCTRLDemo"))
    parser.add_argument("--results", type=Path, default=Path("results/docs"))
    parser.add_argument("--heads", type=Path, help="checkpoint with trained heads")
    parser.add_argument("--category", default="capsule")
    args = parser.parse_args(argv)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    mpl.use("Agg")
    args.output.mkdir(parents=True, exist_ok=True)
    heads = args.heads or train_heads(args.data, args.results)
    model = InCTRLv2(backbone=BACKBONE, pretrained=PRETRAINED, weights=str(heads)).model.eval()
    shown = Shown(model, args.data, args.category)
    residual_figure(shown, args.output / "residual.png")
    branches_figure(shown, args.output / "branches.png")
    terms_figure(shown, args.output / "components.png")
    temperature_figure(model, args.output / "temperature.png")
    print(f"Heads: {heads}\nFigures: {args.output}")


if __name__ == "__main__":
    main()
