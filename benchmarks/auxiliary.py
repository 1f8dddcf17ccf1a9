# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What the number of auxiliary products, the metric and the fusion of the score do for unseen product families.

    python benchmarks/auxiliary.py --output results/auxiliary

Heads are trained on random products with the demonstration encoder, several times each, and tested with K prompts and
several draws of them. Rows are kept in `rows.csv`; a training whose rows are there is not run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from timing import MODELS, parse, script_parser, train_heads

from anomalib_inctrl import GeneralistDataModule, InCTRLDemo
from anomalib_inctrl.backbones.packaged import DEMO_BACKBONE, DEMO_PRETRAINED
from anomalib_inctrl.benchmark import run_benchmark
from anomalib_inctrl.benchmark.config import BenchmarkConfig
from anomalib_inctrl.data import DataSource
from anomalib_inctrl.demo import CONFIRMATION_CATEGORIES, RANDOM_PRODUCTS, UNSEEN_CATEGORIES
from anomalib_inctrl.io.files import write_text_atomic

COUNTS = {"train_count": 6, "test_normal_count": 1, "test_anomalous_count": 6}
METRICS = ["image_AUROC", "pixel_AUROC", "pixel_AUPRO"]
KEYS = ["families", "model", "metric", "fusion", "products"]
UNTRAINED: dict[str, dict[str, Any]] = {"training-free baseline": {}, "patch score alone": {"use_text": False}}
TARGETS = {"development": UNSEEN_CATEGORIES, "confirmation": CONFIRMATION_CATEGORIES}


def main(argv: Sequence[str] | None = None) -> None:
    """Train, test and print the table."""
    parser = script_parser(__doc__)
    parser.add_argument("--products", type=int, nargs="+", default=[9, 30, 100, 300], help="numbers of products")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--fusions", nargs="+", default=["paper", "standardized", "logistic"])
    parser.add_argument("--metrics", nargs="+", default=["cosine"], help="patch_metric of the models: cosine, learned")
    parser.add_argument("--backbone", default=DEMO_BACKBONE)
    parser.add_argument("--pretrained", default=DEMO_PRETRAINED, help="tag or file of the backbone's weights")
    parser.add_argument("--families", nargs="+", choices=TARGETS, default=["confirmation"])
    parser.add_argument("--trainings", type=int, default=3, help="trainings of each, with seeds 0, 1, ...")
    parser.add_argument("--epochs", type=int, default=3, help="of 100 steps")
    parser.add_argument("--shots", type=int, default=4, help="prompts of each category")
    parser.add_argument("--data", type=Path, default=Path("datasets/InCTRLDemo"))
    parser.add_argument("--output", type=Path, default=Path("results/auxiliary"))
    args = parse(parser, argv)
    path = args.output / "rows.csv"
    rows = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=[*KEYS, "training"])
    runs: list[tuple[str, str, str, int, int]] = [(name, "cosine", "paper", 0, 0) for name in UNTRAINED]
    for seed in range(args.trainings):
        runs += [
            (name, metric, fusion, products, seed)
            for products in args.products
            for name in args.models
            for metric in args.metrics
            for fusion in args.fusions
        ]
    for name, metric, fusion, products, seed in runs:
        known = rows[(rows.model == name) & (rows.metric == metric) & (rows.fusion == fusion)]
        known = known[known.products == products]
        missing = set(args.families) - set(known[known.training == seed].families)
        if missing:
            if name in UNTRAINED:
                options = {"backbone": args.backbone, "pretrained": args.pretrained} | UNTRAINED[name]
                chosen: dict[str, Any] = {"class_path": "InCTRLv2", "init_args": options}
            else:
                weights = train(args, name, metric, fusion, products, seed)
                chosen = {"class_path": name, "weights": str(weights)}
            measured = measure(
                args, chosen, sorted(missing), args.output / f"{name}-{metric}-{fusion}-{products}-{seed}"
            )
            measured = measured.assign(model=name, metric=metric, fusion=fusion, products=products, training=seed)
            rows = pd.concat([rows, measured], ignore_index=True) if len(rows) else measured
            write_text_atomic(path, rows.to_csv(index=False))
            print(summary(rows).to_string(), flush=True)
    print(summary(rows).to_string())


def train(args: argparse.Namespace, model: str, metric: str, fusion: str, products: int, seed: int) -> Path:
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
    module = MODELS[model](
        backbone=args.backbone, pretrained=args.pretrained, patch_metric=metric, fusion=fusion, seed=seed
    )
    return train_heads(module, datamodule, args.output, accelerator="cpu", max_epochs=args.epochs)


def measure(args: argparse.Namespace, chosen: dict[str, Any], families: Sequence[str], output: Path) -> pd.DataFrame:
    """Test a model on unseen families; one row per category and draw of prompts."""
    for name in [name for family in families for name in TARGETS[family]]:
        InCTRLDemo(root=args.data, category=name).prepare_data()
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
    return run_benchmark(config, console=Console(quiet=True)).rename(columns={"target": "families"})


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over categories in percent, with standard errors over trainings and draws of prompts."""
    runs = rows.groupby([*KEYS, "training", "seed"])[METRICS].mean().mul(100).groupby(KEYS)
    return pd.concat({"mean": runs.mean(), "standard error": runs.sem()}, axis=1).round(2)


if __name__ == "__main__":
    main()
