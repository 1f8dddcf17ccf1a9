# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What the number of auxiliary products and the fusion of the score do for unseen product families.

    python benchmarks/auxiliary.py --output results/auxiliary

Heads are trained on random products with the demonstration encoder, several times each, and tested with K prompts and
several draws of them. Rows are kept in `rows.csv`; a training whose rows are there is not run again.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from anomalib.engine import Engine
from rich.console import Console

from anomalib_inctrl import GeneralistDataModule, InCTRL, InCTRLDemo, InCTRLv2
from anomalib_inctrl.backbones.packaged import DEMO_BACKBONE, DEMO_PRETRAINED
from anomalib_inctrl.benchmark.config import BenchmarkConfig
from anomalib_inctrl.benchmark.generalist import Benchmark
from anomalib_inctrl.data import DataSource
from anomalib_inctrl.demo import CONFIRMATION_CATEGORIES, RANDOM_PRODUCTS, UNSEEN_CATEGORIES
from anomalib_inctrl.io.files import write_text_atomic

COUNTS = {"train_count": 6, "test_normal_count": 1, "test_anomalous_count": 6}
METRICS = ["image_AUROC", "pixel_AUROC", "pixel_AUPRO"]
KEYS = ["families", "model", "fusion", "products"]
MODELS = {"InCTRL": InCTRL, "InCTRLv2": InCTRLv2}
TARGETS = {"development": UNSEEN_CATEGORIES, "confirmation": CONFIRMATION_CATEGORIES}


def main(argv: Sequence[str] | None = None) -> None:
    """Train, test and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=int, nargs="+", default=[9, 30, 100, 300], help="numbers of products")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--fusions", nargs="+", default=["paper", "standardized", "logistic"])
    parser.add_argument("--families", nargs="+", choices=TARGETS, default=["confirmation"])
    parser.add_argument("--trainings", type=int, default=3, help="trainings of each, with seeds 0, 1, ...")
    parser.add_argument("--epochs", type=int, default=3, help="of 100 steps")
    parser.add_argument("--shots", type=int, default=4, help="prompts of each category")
    parser.add_argument("--data", type=Path, default=Path("datasets/InCTRLDemo"))
    parser.add_argument("--output", type=Path, default=Path("results/auxiliary"))
    args = parser.parse_args(argv)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    path = args.output / "rows.csv"
    rows = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=[*KEYS, "training"])
    runs: list[tuple[str | None, str, int, int]] = [(None, "paper", 0, 0)]
    for seed in range(args.trainings):
        runs += [(m, f, n, seed) for n in args.products for m in args.models for f in args.fusions]
    for model, fusion, products, seed in runs:
        name = model or "training-free baseline"
        known = rows[(rows.model == name) & (rows.fusion == fusion) & (rows.products == products)]
        missing = set(args.families) - set(known[known.training == seed].families)
        if missing:
            weights = train(args, model, fusion, products, seed) if model else None
            measured = measure(
                args, weights, model, sorted(missing), args.output / f"{name}-{fusion}-{products}-{seed}"
            )
            measured = measured.assign(model=name, fusion=fusion, products=products, training=seed)
            rows = pd.concat([rows, measured], ignore_index=True) if len(rows) else measured
            write_text_atomic(path, rows.to_csv(index=False))
            print(summary(rows).to_string(), flush=True)
    print(summary(rows).to_string())


def train(args: argparse.Namespace, model: str, fusion: str, products: int, seed: int) -> Path:
    """Train heads on random products; gives the checkpoint."""
    names = list(RANDOM_PRODUCTS)[:products]
    for name in names:
        InCTRLDemo(root=args.data, category=name, **COUNTS).prepare_data()
    datamodule = GeneralistDataModule(
        auxiliary=[DataSource("InCTRLDemo", root=str(args.data), categories=names, options=dict(COUNTS))],
        k_shot=2,
        train_batch_size=16,
        num_workers=0,
        feature_store=str(args.output / "features"),
        seed=seed,
    )
    module = MODELS[model](backbone=DEMO_BACKBONE, pretrained=DEMO_PRETRAINED, fusion=fusion, seed=seed)
    options: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_model_summary": False}
    engine = Engine(default_root_dir=args.output, max_epochs=args.epochs, enable_progress_bar=False, **options)
    engine.fit(module, datamodule=datamodule)
    return Path(str(engine.best_model_path))


def measure(
    args: argparse.Namespace, weights: Path | None, model: str | None, families: Sequence[str], output: Path
) -> pd.DataFrame:
    """Test on unseen families; one row per category and draw of prompts."""
    for name in [name for family in families for name in TARGETS[family]]:
        InCTRLDemo(root=args.data, category=name).prepare_data()
    init_args = {"backbone": DEMO_BACKBONE, "pretrained": DEMO_PRETRAINED}
    chosen = (
        {"class_path": model, "weights": str(weights)} if model else {"class_path": "InCTRLv2", "init_args": init_args}
    )
    config = BenchmarkConfig.model_validate(
        {
            "output": output,
            "models": {"model": chosen},
            "targets": {
                family: {"datamodule": "InCTRLDemo", "root": str(args.data), "categories": list(TARGETS[family])}
                for family in families
            },
            "k_shots": [args.shots],
            "seeds": [0, 1, 2],
        }
    )
    return Benchmark(config, Console(quiet=True)).run().rename(columns={"target": "families"})


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over categories in percent, with standard errors over trainings and draws of prompts."""
    runs = rows.groupby([*KEYS, "training", "seed"])[METRICS].mean().mul(100).groupby(KEYS)
    return pd.concat({"mean": runs.mean(), "standard error": runs.sem()}, axis=1).round(2)


if __name__ == "__main__":
    main()
