# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Scoring over OpenCLIP's bare ``encode_image`` of the same batch.

    python benchmarks/tower.py --output results/speed/tower.json

Random weights: they cost what others do. On a GPU: --device cuda --precision bfloat16 --batches 64 --shots 4
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from timing import (
    CLASS_NAME,
    MODELS,
    NOT_RUN,
    make_model,
    over,
    parser_of,
    prepare,
    random_clip,
    report,
    time_interleaved,
)

_PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def main(argv: Sequence[str] | None = None) -> int:
    """Time both models.

    Args:
        argv: Arguments without the program's name; those of the process if None.

    Returns:
        0.
    """
    parser = parser_of(__doc__, rounds=9)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="batch sizes")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 2, 4, 8], help="numbers of prompts")
    parser.add_argument(
        "--prompt_shifts", type=int, default=1, help="offsets along each axis at which prompts are seen"
    )
    parser.add_argument("--precision", choices=tuple(_PRECISIONS), default="float32")
    parser.add_argument("--compile", action="store_true", help="torch.compile the tower and the models")
    args = parser.parse_args(argv)
    prepare(args)
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        report(args, "Scoring over the bare tower", [{"device": args.device, "result": NOT_RUN}])
        return 0
    clip = random_clip(args.backbone, args.device)
    models = {
        (name, k_shot): make_model(name, clip, k_shot, prompt_shifts=args.prompt_shifts)
        for name in MODELS
        for k_shot in args.shots
    }
    rows = []
    for batch in args.batches:
        images = torch.randn(batch, 3, *clip.visual.image_size, device=args.device)
        candidates = {"tower": _call(clip.encode_image, args, images)}
        candidates |= {f"{name} K={k}": _call(model, args, images, CLASS_NAME) for (name, k), model in models.items()}
        seconds = time_interleaved(candidates, args.rounds, args.clock, args.device)
        for name in candidates:
            middle = median(seconds[name])
            row: dict[str, Any] = {"backbone": args.backbone, "batch": batch, "candidate": name}
            row |= {"ms": 1000 * middle, "images/s": batch / middle, "over the tower": over(seconds, name, "tower")}
            if args.device.startswith("cuda"):
                torch.cuda.reset_peak_memory_stats()
                candidates[name]()
                row["peak MB"] = torch.cuda.max_memory_allocated() / 1e6
            rows.append(row)
    report(args, f"Scoring over the bare tower, {args.precision}", rows)
    return 0


def _call(function: Any, args: Any, *inputs: Any) -> Callable[[], Any]:
    run = torch.compile(function) if args.compile else function
    dtype = _PRECISIONS[args.precision]

    def call() -> Any:
        with torch.no_grad(), torch.autocast(args.device.partition(":")[0], dtype=dtype, enabled=dtype is not None):
            return run(*inputs)

    return call


if __name__ == "__main__":
    raise SystemExit(main())
