# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The demonstration: train heads on random products, test few-shot on families never seen, show the results."""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

import pandas as pd
from anomalib.engine import Engine
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from rich.progress import track
from rich.table import Table

from anomalib_inctrl.backbones.packaged import DEMO_BACKBONE, DEMO_PRETRAINED
from anomalib_inctrl.benchmark import run_benchmark
from anomalib_inctrl.benchmark.config import BenchmarkConfig
from anomalib_inctrl.data import DataSource, GeneralistDataModule
from anomalib_inctrl.demo.datamodule import InCTRLDemo
from anomalib_inctrl.demo.render import CONFIRMATION_CATEGORIES, RANDOM_PRODUCTS
from anomalib_inctrl.models import InCTRL, InCTRLv2

_METRICS = {"image_AUROC": "image AUROC", "pixel_AUROC": "pixel AUROC", "pixel_AUPRO": "AUPRO"}
_K_SHOTS = (1, 2, 4, 8)
_SEEDS = range(3)
_TARGETS = {"rendered": CONFIRMATION_CATEGORIES, "photographs": ("brick", "grass", "gravel")}
_UNSEEN = (*_TARGETS["rendered"], *_TARGETS["photographs"])
_EXPLAINED = ("nut", "brick")
_STEPS = 250
# Many products with few images each: heads learn what a defect is only from many.
_PRODUCTS = tuple(RANDOM_PRODUCTS)[:100]
_COUNTS = {"train_count": 6, "test_normal_count": 1, "test_anomalous_count": 6}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration with the arguments `argv`, by default those of the process, and print its tables."""
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
        "nothing is downloaded: this shows how the package works, not how well the models can perform.\n"
        "It takes three to four minutes on two cores that have nothing else to do."
    )
    console.print(f"1. Rendering {len(_PRODUCTS)} products to train on and {len(_UNSEEN)} to test on, to {args.data}")
    categories = dict.fromkeys(_PRODUCTS, _COUNTS) | {name: {} for name in _UNSEEN}
    with ProcessPoolExecutor() as pool:
        rendered = pool.map(_render, repeat(args.data), categories, categories.values())
        for _ in track(rendered, "   rendering", total=len(categories), console=console):
            pass
    console.print(f"2. Training the heads of both models on {len(_PRODUCTS)} products")
    weights = {model.__name__: _train(args, model) for model in (InCTRLv2, InCTRL)}
    console.print(f"3. Explaining InCTRLv2 on {' and '.join(_EXPLAINED)}, never trained on, K={args.k_shot}")
    for category in track(_EXPLAINED, "   testing", console=console):
        model = InCTRLv2(weights=str(weights["InCTRLv2"]), k_shot=args.k_shot, seed=args.seed)
        datamodule = InCTRLDemo(root=args.data, category=category)
        datamodule.setup(TrainerFn.TESTING)
        datamodule.test_data.subsample(range(0, len(datamodule.test_data), 3), inplace=True)
        _engine(args, enable_progress_bar=False).test(model, datamodule=datamodule, verbose=False)
    config = _benchmark(args, weights)
    console.print(f"4. Measuring for K = {', '.join(map(str, config.k_shots))} and {len(_SEEDS)} draws of prompts")
    measured = run_benchmark(config, console=console)
    for target, rows in measured.groupby("target", sort=False):
        title = f"Unseen categories, {target}: mean in %, ± over draws of prompts"
        console.print(_table(title, rows, ["model", "k_shot"]))
    shown = measured[(measured.model == "InCTRLv2") & (measured.k_shot == args.k_shot)]
    console.print(_table(f"InCTRLv2, K={args.k_shot}, by category", shown, ["category"]))
    figures = args.results / "InCTRLv2" / "InCTRLDemo"
    console.print(f"Explanation figures: {figures}/<category>/latest/explanations", soft_wrap=True)
    console.print(f"Report:   {config.output / 'report.html'}", soft_wrap=True)
    console.print(f"Weights:  {weights['InCTRLv2']}", soft_wrap=True)
    console.print(f"{time.monotonic() - start:.0f} s in all")
    return 0


def _render(root: Path, category: str, counts: dict[str, int]) -> None:
    InCTRLDemo(root=root, category=category, **counts).prepare_data()


def _train(args: argparse.Namespace, model_class: type[InCTRL | InCTRLv2]) -> Path:
    datamodule = GeneralistDataModule(
        auxiliary=[DataSource("InCTRLDemo", root=str(args.data), categories=list(_PRODUCTS), options=dict(_COUNTS))],
        k_shot=2,
        train_batch_size=16,
        steps_per_epoch=_STEPS,
        num_workers=0,
        feature_store=str(args.results / "features"),  # encoded for the first model, read by the second
        seed=args.seed,
    )
    model = model_class(backbone=DEMO_BACKBONE, pretrained=DEMO_PRETRAINED, k_shot=args.k_shot, seed=args.seed)
    engine = _engine(args, max_epochs=1)
    engine.fit(model, datamodule=datamodule)
    return Path(str(engine.best_model_path))


def _engine(args: argparse.Namespace, **options: Any) -> Engine:
    return Engine(default_root_dir=args.results, accelerator="cpu", logger=False, enable_model_summary=False, **options)


def _benchmark(args: argparse.Namespace, weights: dict[str, Path]) -> BenchmarkConfig:
    """Both models, the training-free baseline and the patch score alone, on all unseen categories."""
    baseline = {"backbone": DEMO_BACKBONE, "pretrained": DEMO_PRETRAINED}
    models = {name: {"class_path": name, "weights": str(path)} for name, path in weights.items()} | {
        "training-free baseline": {"class_path": "InCTRLv2", "init_args": baseline},
        # What is left of it without the text score shows how much of a result is the encoder's.
        "patch score alone": {"class_path": "InCTRLv2", "init_args": {**baseline, "use_text": False}},
    }
    return BenchmarkConfig.model_validate(
        {
            "title": f"Demonstration: heads trained on {len(_PRODUCTS)} random products, tested on unseen families",
            # In the folder of this training: the benchmark does not mix its rows with those of other weights.
            "output": weights["InCTRLv2"].parents[2] / "benchmark",
            "models": models,
            "targets": {
                name: {"datamodule": "InCTRLDemo", "root": str(args.data), "categories": list(categories)}
                for name, categories in _TARGETS.items()
            },
            "k_shots": sorted({*_K_SHOTS, args.k_shot}),
            "seeds": [args.seed + number for number in _SEEDS],
        }
    )


def _table(title: str, measured: pd.DataFrame, keys: list[str]) -> Table:
    """Means over categories, with standard deviations over draws of prompts."""
    draws = measured.groupby([*keys, "seed"], sort=False)[list(_METRICS)].mean().mul(100).groupby(keys, sort=False)
    mean, deviation = (values.round(1).astype(str) for values in (draws.mean(), draws.std()))
    cells = (mean + " ± " + deviation).reset_index()
    table = Table(*(_METRICS.get(name, "K" if name == "k_shot" else name) for name in cells), title=title)
    for row in cells.astype(str).itertuples(index=False):
        table.add_row(*row)
    return table
