# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What all shots and seeds of a category cost, as a multiple of one setting.

    OMP_NUM_THREADS=1 python benchmarks/one_pass_cost.py --images 120

The backbone's size decides, not its weights: they are random, nothing is downloaded. All is measured, reading and
pixel metrics included, in CPU seconds of this process; on a GPU in wall-clock seconds. Three runs (one setting, as many
settings with one prompt, all settings) tell the cost of encoding an image, of comparing it with a prompt, and of a
setting; from these follows what other numbers of test images would cost.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from anomalib_inctrl import InCTRLDemo
from anomalib_inctrl.benchmark.config import ModelConfig
from anomalib_inctrl.benchmark.jobs import build
from anomalib_inctrl.benchmark.one_pass import measure_category
from anomalib_inctrl.data.dataset import GeneralistDataset
from anomalib_inctrl.data.sources import read_parts
from anomalib_inctrl.prompts.selection import create_selector


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print the ratio.

    Args:
        argv: Arguments without the program's name; those of the process if None.

    Returns:
        0.
    """
    args = _arguments(argv)
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

        def measure(settings: list[tuple[int, int]], choose: Callable[..., list[Path]]) -> float:
            clock = time.perf_counter if device == "cuda" else time.process_time
            begin = clock()
            dataset = GeneralistDataset.merge([("washer", parts["test"])])
            measure_category(modules, dataset, "washer", dict.fromkeys(modules, settings), choose, where="washer")
            return clock() - begin

        def draw(k: int, seed: int, encode: Callable[[Sequence[Path]], Tensor]) -> list[Path]:
            return create_selector("random", seed).select(candidates, k, encode)

        settings = [(k, seed) for k in args.k_shots for seed in args.seeds]
        one = settings[:1]
        measure(one, draw)  # warm-up
        alone = measure(one, draw)
        same_prompt = measure(settings, lambda *_: candidates[:1])
        everything = measure(settings, draw)
        union = len({path for k, seed in settings for path in draw(k, seed, lambda _: torch.empty(0))})
    # alone = encode * (n + 1) + compare * n + setting * n, and the others alike.
    n, first = args.images, args.k_shots[0]
    setting = (same_prompt - alone) / (len(settings) - 1) / n
    left = [alone - setting * n, everything - setting * len(settings) * n]
    encode, compare = np.linalg.solve([[n + first, first * n], [n + union, union * n]], left)

    def cost(images: int, prompts: int, count: int) -> float:
        return float(encode * (images + prompts) + compare * images * prompts + setting * count * images)

    console = Console(width=100)
    title = f"{args.backbone}, {', '.join(args.models)}, {device}: {len(settings)} settings, {union} prompts in all"
    table = Table(title=title)
    last = max(args.k_shots)
    for column in ("test images", f"K = {first}, s", f"K = {last}, s", "all, s", "multiple of each"):
        table.add_column(column, justify="right")
    table.add_row(f"{n}, measured", f"{alone:.1f}", "", f"{everything:.1f}", f"{everything / alone:.2f}")
    most = last * len(args.seeds)
    for images in args.sizes:
        few, many, large = cost(images, first, 1), cost(images, last, 1), cost(images, most, len(settings))
        multiples = f"{large / few:.2f}, {large / many:.2f}"
        table.add_row(f"{images}, by the parts", f"{few:.1f}", f"{many:.1f}", f"{large:.1f}", multiples)
    console.print(table)
    parts_of = {"an image encoded": encode, "an image compared with a prompt": compare, "an image's setting": setting}
    console.print(", ".join(f"{name}: {1000 * seconds:.2f} ms" for name, seconds in parts_of.items()))
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="ViT-B-16-plus-240", help="OpenCLIP model")
    parser.add_argument("--images", type=int, default=120, help="test images of the category")
    parser.add_argument("--k_shots", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", default=["InCTRLv2"], choices=["InCTRL", "InCTRLv2"])
    parser.add_argument("--sizes", type=int, nargs="*", default=[115, 180], help="other numbers of test images")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
