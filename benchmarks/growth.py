# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What grows with the number of images: simulated for 100 to 100000.

    python benchmarks/growth.py --output results/speed/growth.json

Scoring is the same for every image, so a data set takes its number of images times that, which ``tower.py`` measures.
Timed here is what a training run does with the whole list: hashing nothing but names and times of known files, drawing
an epoch, looking up a batch in the store, whose size is computed. The pictures are empty files, the features small.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from timing import FULL_SIZE, parser_of, prepare, report

from anomalib_inctrl.backbones import ImageFeatures, default_blocks
from anomalib_inctrl.data import BalancedSampler
from anomalib_inctrl.models.components.feature_store import ImageKeys, MemoryStore

_BATCH = 216  # of 48 + 24 queries and two prompts each


class _Table:
    """As much of a dataset as the sampler asks for."""

    def __init__(self, count: int) -> None:
        rows = np.arange(count)
        self.samples = pd.DataFrame({"label_index": rows % 4 == 0, "class_name": [f"c{row % 10}" for row in rows]})

    def __len__(self) -> int:
        return len(self.samples)


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate.

    Args:
        argv: Arguments without the program's name; those of the process if None.

    Returns:
        0.
    """
    parser = parser_of(__doc__, rounds=5)
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 1000, 10_000, 100_000])
    args = parser.parse_args(argv)
    prepare(args)
    tokens, width, embedding = 225, 896, 640
    size = 2 * (len(default_blocks(12)) * tokens * width + embedding)
    rows = [_measure(args, count, size) for count in args.counts]
    report(args, f"Growth over images; sizes for {FULL_SIZE}", rows)
    return 0


def _measure(args: Any, count: int, size: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / f"{number:06}.png") for number in range(count)]
        for number, path in enumerate(paths):
            Path(path).write_text(str(number))
        key, store = ImageKeys(), MemoryStore({})
        one = ImageFeatures(torch.zeros(1, 1, 1), torch.zeros(1))
        first = _seconds(lambda: [store.put(key(path), one) for path in paths], 1, args.clock)
        again = _seconds(lambda: [key(path) for path in paths], args.rounds, args.clock)
        batch = paths[:: max(1, count // _BATCH)][:_BATCH]
        look_up = _seconds(lambda: store.get([key(path) for path in batch]), args.rounds, args.clock)
        table: Any = _Table(count)
        draw = _seconds(lambda: list(BalancedSampler(table, 48, k_shot=2)), 1, args.clock)
    return {
        "images": count, "first pass s": first, "known files s": again, "look-up of a batch ms": 1000 * look_up,
        "drawing an epoch s": draw, "store GB": count * size / 1e9,
    }  # fmt: skip


def _seconds(call: Callable[[], Any], rounds: int, clock: str) -> float:
    now = time.process_time if clock == "cpu" else time.perf_counter
    times = []
    for _ in range(rounds):
        start = now()
        call()
        times.append(now() - start)
    return float(np.median(times))


if __name__ == "__main__":
    raise SystemExit(main())
