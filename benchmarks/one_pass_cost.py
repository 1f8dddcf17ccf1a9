# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Cost of measuring all shots and seeds of a category in one pass, as a multiple of one setting.

    OMP_NUM_THREADS=1 python benchmarks/one_pass_cost.py --images 120

Reading and pixel metrics are included. Three runs (one setting, as many settings with one prompt, all settings) give
the cost of encoding an image, of comparing it with a prompt, and of a setting; other numbers of test images follow from
these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from timing import FULL_SIZE, NOT_RUN, clock_of, parse, parser_of, report

from anomalib_inctrl import InCTRLDemo
from anomalib_inctrl.benchmark.config import ModelConfig
from anomalib_inctrl.benchmark.jobs import load_modules
from anomalib_inctrl.benchmark.one_pass import measure_category
from anomalib_inctrl.data.dataset import GeneralistDataset
from anomalib_inctrl.prompts.selection import create_selector


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the three runs and print the multiples."""
    parser = parser_of(__doc__)
    parser.add_argument("--backbone", default=FULL_SIZE, help="OpenCLIP model, with random weights")
    parser.add_argument("--images", type=int, default=120, help="test images of the category")
    parser.add_argument("--k_shots", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--model", default="InCTRLv2", choices=["InCTRL", "InCTRLv2"])
    parser.add_argument("--sizes", type=int, nargs="*", default=[115, 180], help="other numbers of test images")
    parser.set_defaults(clock="cpu")
    args = parse(parser, argv)
    settings = [(k, seed) for k in args.k_shots for seed in args.seeds]
    fewest, most, n = args.k_shots[0], max(args.k_shots), args.images
    with TemporaryDirectory() as root:
        one, one_prompt, everything, union = _three_runs(args, settings, root)
    # one = encode * (n + K) + compare * n * K + setting * n, and the others likewise.
    setting = (one_prompt - one) / (len(settings) - 1) / n
    left = [one - setting * n, everything - setting * len(settings) * n]
    encode, compare = np.linalg.solve([[n + fewest, fewest * n], [n + union, union * n]], left)

    def cost(images: int, prompts: int, count: int) -> float:
        return float(encode * (images + prompts) + compare * images * prompts + setting * count * images)

    keys = ("test images", f"K = {fewest}, s", f"K = {most}, s", "all, s", f"over K = {fewest}", f"over K = {most}")
    rows = [dict(zip(keys, (f"{n}, measured", one, NOT_RUN, everything, everything / one, NOT_RUN), strict=True))]
    for images in args.sizes:
        few, many, large = (
            cost(images, *each) for each in ((fewest, 1), (most, 1), (most * len(args.seeds), len(settings)))
        )
        rows.append(dict(zip(keys, (f"{images}, computed", few, many, large, large / few, large / many), strict=True)))
    parts = f"encode {1000 * encode:.1f}, compare with a prompt {1000 * compare:.2f}, setting {1000 * setting:.2f}"
    report(args, {f"{len(settings)} settings, {union} prompts; ms an image: {parts}": rows})


def _three_runs(args: Any, settings: Sequence[tuple[int, int]], root: str) -> tuple[float, float, float, int]:
    """Seconds of one setting, of all with one prompt, of all; and the number of different prompts of all."""
    config = ModelConfig(class_path=args.model, init_args={"backbone": args.backbone, "pretrained": None})
    modules = load_modules((("model", config.model_dump_json()),), "", args.device)
    modules["model"].model.heads_trained = True  # random heads cost the same as trained ones
    counts = {"test_normal_count": args.images // 2, "test_anomalous_count": args.images - args.images // 2}
    data = InCTRLDemo(root=root, category="washer", train_count=200, **counts)
    data.prepare_data()
    data.setup()
    candidates = sorted(map(Path, data.train_data.samples.image_path))
    now = clock_of(args)

    def measure(some: Sequence[tuple[int, int]], choose: Callable[..., list[Path]]) -> float:
        begin = now()
        dataset = GeneralistDataset.merge([("washer", data.test_data)])
        measure_category(modules, dataset, "washer", {"model": some}, choose, where="washer")
        return now() - begin

    def draw(k: int, seed: int, encode: Any) -> list[Path]:
        return create_selector("random", seed).select(candidates, k, encode)

    measure(settings[:1], draw)  # warm-up
    one, one_prompt = measure(settings[:1], draw), measure(settings, lambda *_: candidates[:1])
    return (
        one,
        one_prompt,
        measure(settings, draw),
        len({path for setting in settings for path in draw(*setting, None)}),
    )


if __name__ == "__main__":
    main()
