# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What all shots and seeds of a category cost, as a multiple of one setting.

    OMP_NUM_THREADS=1 python benchmarks/one_pass_cost.py --images 120

The backbone's size decides, not its weights: they are random, nothing is downloaded. Both models and the training-free
floor are measured, maps included, in CPU seconds of this process; on a GPU in wall-clock seconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from rich.table import Table

from anomalib_inctrl import InCTRLDemo
from anomalib_inctrl.benchmark.config import ModelConfig
from anomalib_inctrl.benchmark.jobs import build
from anomalib_inctrl.benchmark.one_pass import Category, measure_category
from anomalib_inctrl.data.dataset import GeneralistDataset
from anomalib_inctrl.data.source import read_parts
from anomalib_inctrl.prompts.selection import create_selector


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print the ratio.

    Args:
        argv: Arguments without the program's name; those of the process if None.

    Returns:
        0.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="ViT-B-16-plus-240", help="OpenCLIP model")
    parser.add_argument(
        "--images", type=int, default=120, help="test images of the category; MVTec AD has 115, VisA 180"
    )
    parser.add_argument("--k_shots", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", default=["InCTRLv2"], choices=["InCTRL", "InCTRLv2"])
    args = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    modules = {}
    for name in args.models:
        model = ModelConfig(class_path=name, init_args={"backbone": args.backbone, "pretrained": None})
        modules[name] = build(model, None).to(device).eval()
        modules[name].model.backbone = modules[args.models[0]].model.backbone
        modules[name].model.heads_trained = True  # random heads cost what trained ones do
    with TemporaryDirectory() as root:
        counts = {"test_normal_count": args.images // 2, "test_anomalous_count": args.images - args.images // 2}
        datamodule = InCTRLDemo(root=root, category="washer", train_count=200, **counts)
        datamodule.prepare_data()
        parts = read_parts("washer", datamodule, "data")
        candidates = sorted(parts["train"].samples.image_path)

        def measure(settings: list[tuple[int, int]]) -> float:
            clock = time.perf_counter if device == "cuda" else time.process_time
            begin = clock()
            measure_category(
                modules,
                Category(GeneralistDataset.merge([("washer", parts["test"])]), "washer", "washer"),
                dict.fromkeys(modules, settings),
                lambda k, seed, encode: create_selector("random", seed).select(candidates, k, encode),
            )
            return clock() - begin

        all_settings = [(k, seed) for k in args.k_shots for seed in args.seeds]
        measure([(1, 0)]) if args.images <= 20 or device == "cuda" else None  # warm-up, where it would show
        singles = {k: measure([(k, args.seeds[0])]) for k in (args.k_shots[0], args.k_shots[-1])}
        everything = measure(all_settings)
    table = Table(title=f"{args.backbone}, {args.images} images, {', '.join(args.models)}, {device}")
    for column in ("settings", "seconds", f"all {len(all_settings)} as a multiple"):
        table.add_column(column, justify="right")
    for k, seconds in singles.items():
        table.add_row(f"K = {k}, one seed", f"{seconds:.1f}", f"{everything / seconds:.2f}")
    table.add_row(f"all {len(all_settings)}", f"{everything:.1f}", "1.00")
    Console(width=100).print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
