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

from anomalib_inctrl.benchmark.config import BenchmarkConfig
from anomalib_inctrl.benchmark.generalist import Benchmark
from anomalib_inctrl.data import DataSource, GeneralistDataModule
from anomalib_inctrl.demo import AUXILIARY_CATEGORIES, UNSEEN_CATEGORIES, InCTRLDemo
from anomalib_inctrl.io.files import write_text_atomic
from anomalib_inctrl.models import InCTRL, InCTRLv2

BACKBONE, PRETRAINED = "mini-clip-16-240", "demo"
_METRICS = {"image_AUROC": "image AUROC", "pixel_AUROC": "pixel AUROC", "pixel_AUPRO": "AUPRO"}
_PHOTOGRAPHS = ("brick", "grass", "gravel")
_K_SHOTS = (1, 2, 4, 8)
_SEEDS = range(3)
_EPOCHS = 3
_TRAIN_K_SHOT = 2
_STEPS_PER_EPOCH = 100


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
    console.rule("InCTRLv2 and InCTRL on rendered categories")
    console.print(
        "The backbone is the package's demonstration encoder, a small CLIP trained on rendered pictures, so that\n"
        "nothing is downloaded: this shows how things work, not how well they can."
    )
    console.print(f"1. Rendering {len(AUXILIARY_CATEGORIES) + len(UNSEEN_CATEGORIES)} categories to {args.data}")
    for category in track((*AUXILIARY_CATEGORIES, *UNSEEN_CATEGORIES), "   rendering", console=console):
        InCTRLDemo(root=args.data, category=category).prepare_data()
    console.print(f"2. Training the heads on {len(AUXILIARY_CATEGORIES)} categories: {', '.join(AUXILIARY_CATEGORIES)}")
    weights = {model.__name__: _train(args, model) for model in (InCTRLv2, InCTRL)}
    console.print(f"3. Testing InCTRLv2 on {len(UNSEEN_CATEGORIES)} categories never trained on, K={args.k_shot}")
    rows = [
        _test(args, category, weights["InCTRLv2"])
        for category in track(UNSEEN_CATEGORIES, "   testing", console=console)
    ]
    table = pd.DataFrame(rows).set_index("category")
    table.loc["mean"] = table.mean()
    write_text_atomic(args.results / "demo.csv", table.to_csv(float_format="%.4f"))
    console.print(_render(table, args.k_shot))
    console.print(f"4. The same for K = {', '.join(map(str, _K_SHOTS))} and {len(_SEEDS)} draws of prompts")
    # In the folder of this run: the benchmark would not mix its rows with those of other weights.
    report = weights["InCTRLv2"].parents[2] / "benchmark"
    with console.status("   measuring"):
        measured = _measure(args, weights, report)
    console.print(_compare(measured))
    console.print(
        f"Pictures: {args.results / 'InCTRLv2' / 'InCTRLDemo'}/<category>/latest/explanations", soft_wrap=True
    )
    console.print(f"Report:   {report / 'report.html'}", soft_wrap=True)
    console.print(f"Table:    {args.results / 'demo.csv'}", soft_wrap=True)
    console.print(f"Weights:  {weights['InCTRLv2']}", soft_wrap=True)
    console.print(f"{time.monotonic() - start:.0f} s in all")
    return 0


def _train(args: argparse.Namespace, model_class: type[InCTRL | InCTRLv2]) -> Path:
    datamodule = GeneralistDataModule(
        auxiliary=[DataSource("InCTRLDemo", root=str(args.data), categories=list(AUXILIARY_CATEGORIES))],
        k_shot=_TRAIN_K_SHOT,
        train_batch_size=16,
        steps_per_epoch=_STEPS_PER_EPOCH,
        num_workers=0,
        seed=args.seed,
    )
    model = model_class(backbone=BACKBONE, pretrained=PRETRAINED, k_shot=args.k_shot, seed=args.seed)
    engine = Engine(
        max_epochs=_EPOCHS, default_root_dir=args.results, accelerator="cpu", logger=False, enable_model_summary=False
    )
    engine.fit(model, datamodule=datamodule)
    return Path(str(engine.best_model_path))


def _test(args: argparse.Namespace, category: str, weights: Path) -> dict[str, Any]:
    """Test one category with trained heads; what the training-free floor makes of it follows from the same components."""
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


def _measure(args: argparse.Namespace, weights: dict[str, Path], output: Path) -> pd.DataFrame:
    """Measure both models and the training-free floor for every K and draw of prompts; writes a report on the way."""
    models: dict[str, Any] = {
        name: {"class_path": name, "weights": str(checkpoint)} for name, checkpoint in weights.items()
    }
    models["training-free floor"] = {
        "class_path": "InCTRLv2",
        "init_args": {"backbone": BACKBONE, "pretrained": PRETRAINED},
    }
    unseen, photographs = set(UNSEEN_CATEGORIES), set(_PHOTOGRAPHS)
    parts = {"rendered": unseen - photographs, "photographs": unseen & photographs}
    targets = {
        name: {"datamodule": "InCTRLDemo", "root": str(args.data), "categories": sorted(categories)}
        for name, categories in parts.items()
        if categories
    }
    config = BenchmarkConfig.model_validate(
        {
            "title": "Demonstration: heads trained on nine rendered categories, tested on nine unseen ones",
            "output": output,
            "models": models,
            "targets": targets,
            "k_shots": _K_SHOTS,
            "seeds": [args.seed + number for number in _SEEDS],
        }
    )
    return Benchmark(config, Console(quiet=True)).run()


def _compare(measured: pd.DataFrame) -> Table:
    """Means over categories, with standard deviations over draws of prompts, in percent."""
    columns = list(_METRICS)
    by_seed = measured.groupby(["target", "model", "k_shot", "seed"], sort=False)[columns].mean().mul(100)
    found = by_seed.groupby(level=["target", "model", "k_shot"], sort=False).agg(["mean", "std"])
    compared = Table(title="Unseen categories, mean in %, ± over draws of prompts")
    for column in ("", "model", "K", *_METRICS.values()):
        compared.add_column(column, justify="left" if column in {"", "model"} else "right")
    keys = list(found.index)
    for number, (target, model, k_shot) in enumerate(keys):
        last = number + 1 == len(keys) or keys[number + 1][:2] != (target, model)
        values = found.loc[(target, model, k_shot)]
        shown = [f"{values[name, 'mean']:.1f} ± {values[name, 'std']:.1f}" for name in columns]
        compared.add_row(str(target), str(model), str(k_shot), *shown, end_section=last)
    return compared


def _be_quiet() -> None:
    """Leave the progress bars; notices of Lightning and anomalib would bury them."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
