# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The demonstration: train on one half of the demo categories, test few-shot on the other half, show what came out."""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from anomalib.engine import Engine
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torchmetrics.functional.classification import binary_auroc

from anomalib_inctrl.data import DataSource, GeneralistDataModule
from anomalib_inctrl.demo import AUXILIARY_CATEGORIES, UNSEEN_CATEGORIES, InCTRLDemo
from anomalib_inctrl.io import write_whole
from anomalib_inctrl.models import InCTRLv2

BACKBONE, PRETRAINED = "mini-clip-16-240", "demo"
_METRICS = {"image_AUROC": "image AUROC", "pixel_AUROC": "pixel AUROC", "pixel_AUPRO": "AUPRO"}
_EPOCHS = 3
_TRAIN_K_SHOT = 2
_STEPS_PER_EPOCH = 25


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration and print its table.

    Args:
        argv: Arguments without the program's name; those of the process if None.

    Returns:
        0.
    """
    parser = argparse.ArgumentParser(prog="anomalib-inctrl demo", description=__doc__)
    parser.add_argument("--k_shot", type=int, default=4, help="normal images shown of each unseen category")
    parser.add_argument("--seed", type=int, default=0, help="decides weights, batches and prompts")
    parser.add_argument(
        "--data", type=Path, default=Path("datasets/InCTRLDemo"), help="where the images are rendered to"
    )
    parser.add_argument("--results", type=Path, default=Path("results/demo"), help="where results go")
    args = parser.parse_args(argv)

    _be_quiet()
    console = Console()
    start = time.monotonic()
    console.rule("InCTRLv2 on rendered categories")
    console.print(
        "The backbone is the package's demonstration encoder, a small CLIP trained for an hour on rendered pictures,\n"
        "so that nothing is downloaded: this shows how things work, not how well they can."
    )
    console.print(f"1. Rendering {len(AUXILIARY_CATEGORIES) + len(UNSEEN_CATEGORIES)} categories to {args.data}")
    for category in track((*AUXILIARY_CATEGORIES, *UNSEEN_CATEGORIES), "   rendering", console=console):
        InCTRLDemo(root=args.data, category=category).prepare_data()
    console.print(f"2. Training the heads on {len(AUXILIARY_CATEGORIES)} categories: {', '.join(AUXILIARY_CATEGORIES)}")
    weights = _train(args)
    console.print(f"3. Testing on {len(UNSEEN_CATEGORIES)} categories never trained on, K={args.k_shot}")
    rows = [_test(args, category, weights) for category in track(UNSEEN_CATEGORIES, "   testing", console=console)]
    table = pd.DataFrame(rows).set_index("category")
    table.loc["mean"] = table.mean()
    write_whole(args.results / "demo.csv", table.to_csv(float_format="%.4f"))
    console.print(_render(table, args.k_shot))
    console.print(f"Pictures: {args.results / 'InCTRLv2' / 'InCTRLDemo'}/<category>/latest/explanations")
    console.print(f"Table:    {args.results / 'demo.csv'}")
    console.print(f"Weights:  {weights}   ({time.monotonic() - start:.0f} s in all)")
    return 0


def _train(args: argparse.Namespace) -> Path:
    datamodule = GeneralistDataModule(
        auxiliary=[DataSource("InCTRLDemo", root=str(args.data), categories=list(AUXILIARY_CATEGORIES))],
        k_shot=_TRAIN_K_SHOT,
        train_batch_size=16,
        steps_per_epoch=_STEPS_PER_EPOCH,
        num_workers=0,
        seed=args.seed,
    )
    model = InCTRLv2(backbone=BACKBONE, pretrained=PRETRAINED, k_shot=args.k_shot, seed=args.seed)
    engine = Engine(
        max_epochs=_EPOCHS, default_root_dir=args.results, accelerator="cpu", logger=False, enable_model_summary=False
    )
    engine.fit(model, datamodule=datamodule)
    return Path(str(engine.best_model_path))


def _test(args: argparse.Namespace, category: str, weights: Path) -> dict[str, Any]:
    """Test one category with trained heads; what the training-free floor makes of it follows from the same terms."""
    engine = Engine(
        default_root_dir=args.results,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = InCTRLv2(weights=str(weights), k_shot=args.k_shot, seed=args.seed)
    found = engine.test(model, datamodule=InCTRLDemo(root=args.data, category=category), verbose=False)[0]
    scores = pd.read_csv(Path(engine.trainer.default_root_dir) / "scores.csv")
    training_free = torch.tensor((scores.text_score + scores.patch_score).to_numpy() / 2)
    return {
        "category": category,
        **{title: found[name] for name, title in _METRICS.items()},
        "training-free image AUROC": float(binary_auroc(training_free, torch.tensor(scores.gt_label.to_numpy()))),
    }


def _render(table: pd.DataFrame, k_shot: int) -> Table:
    rendered = Table(title="Unseen categories")
    for number, column in enumerate(("category", "K", *table.columns)):
        rendered.add_column(column, justify="left" if number == 0 else "right")
    for category, row in table.iterrows():
        values = [f"{value:.3f}" for value in row]
        rendered.add_row(str(category), str(k_shot), *values, end_section=category == table.index[-2])
    return rendered


def _be_quiet() -> None:
    """Leave the progress bars; notices of Lightning and anomalib would bury them."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
