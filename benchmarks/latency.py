# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Time of scoring, relative to OpenCLIP's ``encode_image`` of the same batch.

    python benchmarks/latency.py --output latency.json

Weights are random; the cost is the same. On a GPU: --device cuda --precision bfloat16 --batches 64 --shots 4
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
    parse,
    parser_of,
    random_clip,
    ratio,
    report,
    time_interleaved,
)

_PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def main(argv: Sequence[str] | None = None) -> None:
    """Time both models."""
    parser = parser_of(__doc__, rounds=9)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="batch sizes")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 2, 4, 8], help="numbers of prompts")
    parser.add_argument("--prompt_shifts", type=int, default=1, help="offsets along each axis of prompts")
    parser.add_argument("--precision", choices=tuple(_PRECISIONS), default="float32")
    parser.add_argument("--compile", action="store_true", help="torch.compile the backbone and the models")
    args = parse(parser, argv)
    title = f"Scoring relative to the backbone, {args.backbone}, {args.precision}"
    on_gpu = args.device.startswith("cuda")
    if on_gpu and not torch.cuda.is_available():
        report(args, title, [{"device": args.device, "result": NOT_RUN}])
        return
    clip = random_clip(args.backbone, args.device)
    models = {(name, k): make_model(name, clip, k, args.prompt_shifts) for name in MODELS for k in args.shots}
    rows = []
    for batch in args.batches:
        images = torch.randn(batch, 3, *clip.visual.image_size, device=args.device)
        candidates = {"backbone": _call(clip.encode_image, args, images)}
        candidates |= {f"{name} K={k}": _call(model, args, images, CLASS_NAME) for (name, k), model in models.items()}
        seconds = time_interleaved(candidates, args)
        for name, call in candidates.items():
            row: dict[str, Any] = {"batch": batch, "candidate": name, "ms": 1000 * median(seconds[name])}
            row |= {"images/s": batch / median(seconds[name]), "over backbone": ratio(seconds, name, "backbone")}
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
                call()
                row["peak MB"] = torch.cuda.max_memory_allocated() / 1e6
            rows.append(row)
    report(args, title, rows)


def _call(function: Any, args: Any, *inputs: Any) -> Callable[[], Any]:
    run = torch.compile(function) if args.compile else function
    dtype = _PRECISIONS[args.precision]

    def call() -> Any:
        with torch.no_grad(), torch.autocast(args.device.partition(":")[0], dtype=dtype, enabled=dtype is not None):
            return run(*inputs)

    return call


if __name__ == "__main__":
    main()
