# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The demonstration: train on one half of the demo categories, test few-shot on the other half, show the results."""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from anomalib.engine import Engine
from rich.console import Console
from rich.progress import track
from rich.table import Table

from anomalib_inctrl.backbones.packaged import DEMO_BACKBONE, DEMO_PRETRAINED
from anomalib_inctrl.benchmark.config import BenchmarkConfig
from anomalib_inctrl.benchmark.generalist import Benchmark
from anomalib_inctrl.data import DataSource, GeneralistDataModule
from anomalib_inctrl.demo.datamodule import InCTRLDemo
from anomalib_inctrl.demo.render import AUXILIARY_CATEGORIES, UNSEEN_CATEGORIES
from anomalib_inctrl.models import InCTRL, InCTRLv2

_METRICS = {"image_AUROC": "image AUROC", "pixel_AUROC": "pixel AUROC", "pixel_AUPRO": "AUPRO"}
_PHOTOGRAPHS = ("brick", "grass", "gravel")
_K_SHOTS = (1, 2, 4, 8)
_SEEDS = range(3)
_EPOCHS = 3
_TRAIN_K_SHOT = 2
_STEPS_PER_EPOCH = 100


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration and print its tables.

    Args:
        argv: Arguments without the program's name; those of the process if None.

    Returns:
        0.
    """
    parser = argparse.ArgumentParser(prog="anomalib-inctrl demo", description=__doc__)
    parser.add_argument("--k_shot", type=int, default=4, help="normal images shown of each unseen category")
    parser.add_argument("--seed", type=int, default=0, help="decides weights, batches and prompts")
    parser.add_argument("--data", type=Path, default=Path("datasets/InCTRLDemo"), help="folder to render the images to")
    parser.add_argument("--results", type=Path, default=Path("results/demo"), help="folder of the results")
    args = parser.parse_args(argv)

    # Notices of Lightning and anomalib would bury the progress bars.
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    console = Console()
    start = time.monotonic()
    console.rule("InCTRLv2 and InCTRL on rendered categories")
    console.print(
        "The backbone is the package's demonstration encoder, a small CLIP trained on rendered images, so that\n"
        "nothing is downloaded: this shows how the package works, not how well the models can perform."
    )
    console.print(f"1. Rendering {len(AUXILIARY_CATEGORIES) + len(UNSEEN_CATEGORIES)} categories to {args.data}")
    for category in track((*AUXILIARY_CATEGORIES, *UNSEEN_CATEGORIES), "   rendering", console=console):
        InCTRLDemo(root=args.data, category=category).prepare_data()
    console.print(f"2. Training the heads on {len(AUXILIARY_CATEGORIES)} categories: {', '.join(AUXILIARY_CATEGORIES)}")
    weights = {model.__name__: _train(args, model) for model in (InCTRLv2, InCTRL)}
    console.print(f"3. Explaining InCTRLv2 on {len(UNSEEN_CATEGORIES)} categories never trained on, K={args.k_shot}")
    for category in track(UNSEEN_CATEGORIES, "   testing", console=console):
        _explain(args, category, weights["InCTRLv2"])
    k_shots = sorted({*_K_SHOTS, args.k_shot})
    console.print(f"4. Measuring for K = {', '.join(map(str, k_shots))} and {len(_SEEDS)} draws of prompts")
    # In the folder of this training: the benchmark does not mix its rows with those of other weights.
    report = weights["InCTRLv2"].parents[2] / "benchmark"
    with console.status("   measuring"):
        measured = _measure(args, weights, k_shots, report)
    by_model = [_by_model(measured, target) for target in measured.target.unique()]
    console.print(_by_category(measured, args.k_shot), *by_model)
    figures = args.results / "InCTRLv2" / "InCTRLDemo"
    console.print(f"Explanation figures: {figures}/<category>/latest/explanations", soft_wrap=True)
    console.print(f"Report:   {report / 'report.html'}", soft_wrap=True)
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
    model = model_class(backbone=DEMO_BACKBONE, pretrained=DEMO_PRETRAINED, k_shot=args.k_shot, seed=args.seed)
    engine = _engine(args, max_epochs=_EPOCHS)
    engine.fit(model, datamodule=datamodule)
    return Path(str(engine.best_model_path))


def _explain(args: argparse.Namespace, category: str, weights: Path) -> None:
    """Test one category with trained heads, which writes the explanation figures."""
    model = InCTRLv2(weights=str(weights), k_shot=args.k_shot, seed=args.seed)
    datamodule = InCTRLDemo(root=args.data, category=category)
    _engine(args, enable_progress_bar=False).test(model, datamodule=datamodule, verbose=False)


def _engine(args: argparse.Namespace, **options: Any) -> Engine:
    return Engine(default_root_dir=args.results, accelerator="cpu", logger=False, enable_model_summary=False, **options)


def _measure(args: argparse.Namespace, weights: dict[str, Path], k_shots: Sequence[int], output: Path) -> pd.DataFrame:
    """Measure both models and the training-free baseline on all unseen categories, and write a report."""
    models: dict[str, object] = {name: {"class_path": name, "weights": str(path)} for name, path in weights.items()}
    models["training-free baseline"] = {
        "class_path": "InCTRLv2",
        "init_args": {"backbone": DEMO_BACKBONE, "pretrained": DEMO_PRETRAINED},
    }
    targets = {
        "rendered": [name for name in UNSEEN_CATEGORIES if name not in _PHOTOGRAPHS],
        "photographs": [name for name in UNSEEN_CATEGORIES if name in _PHOTOGRAPHS],
    }
    config = BenchmarkConfig.model_validate(
        {
            "title": "Demonstration: heads trained on nine rendered categories, tested on nine unseen ones",
            "output": output,
            "models": models,
            "targets": {
                name: {"datamodule": "InCTRLDemo", "root": str(args.data), "categories": categories}
                for name, categories in targets.items()
                if categories
            },
            "k_shots": k_shots,
            "seeds": [args.seed + number for number in _SEEDS],
        }
    )
    return Benchmark(config, Console(quiet=True)).run()


def _by_category(measured: pd.DataFrame, k_shot: int) -> Table:
    chosen = measured[(measured.model == "InCTRLv2") & (measured.k_shot == k_shot)]
    found = chosen.groupby("category")[list(_METRICS)].mean().mul(100)
    found.loc["mean"] = found.mean()
    return _table(f"InCTRLv2 on unseen categories, K={k_shot}, in %", found.round(1).astype(str))


def _by_model(measured: pd.DataFrame, target: str) -> Table:
    """Means over the categories of a target, with standard deviations over draws of prompts."""
    keys = ["model", "k_shot"]
    chosen = measured[measured.target == target]
    by_seed = chosen.groupby([*keys, "seed"], sort=False)[list(_METRICS)].mean().mul(100)
    by_k = by_seed.groupby(keys, sort=False)
    mean, deviation = (values.round(1).astype(str) for values in (by_k.mean(), by_k.std()))
    return _table(f"Unseen categories, {target}: mean in %, ± over draws of prompts", mean + " ± " + deviation)


def _table(title: str, cells: pd.DataFrame) -> Table:
    table = Table(title=title)
    for name in cells.reset_index().columns:
        table.add_column(_METRICS.get(name, "K" if name == "k_shot" else name), no_wrap=True)
    for row in cells.reset_index().astype(str).itertuples(index=False):
        table.add_row(*row)
    return table
