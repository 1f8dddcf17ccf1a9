# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Costs of training that grow with the number of images, simulated for 100 to 100000.

    python benchmarks/growth.py --output growth.json

Timed are identifying all files, drawing an epoch, and the look-up of a batch in the feature store, whose size is
computed. The image files are empty, the features small.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import torch
from timing import FULL_SIZE, parse, parser_of, report, time_interleaved

from anomalib_inctrl.backbones import ImageFeatures, default_blocks
from anomalib_inctrl.data import BalancedSampler
from anomalib_inctrl.models.components.feature_store import ImageKeys, MemoryStore

_BATCH = 216  # of 48 + 24 queries and two prompts each
_BYTES = 2 * (len(default_blocks(12)) * 225 * 896 + 640)  # of an image's features, at full size


class _Dataset:
    """As much of a dataset as the sampler uses."""

    def __init__(self, count: int) -> None:
        rows = np.arange(count)
        self.samples = pd.DataFrame({"label_index": rows % 4 == 0, "class_name": [f"c{row % 10}" for row in rows]})

    def __len__(self) -> int:
        return len(self.samples)


def main(argv: Sequence[str] | None = None) -> None:
    """Simulate."""
    parser = parser_of(__doc__, rounds=5)
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 1000, 10_000, 100_000])
    args = parse(parser, argv)
    rows = [_measure(args, count) for count in args.counts]
    report(args, {f"Growth with the number of images; sizes for {FULL_SIZE}": rows})


def _measure(args: Any, count: int) -> dict[str, Any]:
    dataset: Any = _Dataset(count)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number:06}.png" for number in range(count)]
        for path in paths:
            path.write_text(path.name)
        key, store = ImageKeys(), MemoryStore({})
        features = ImageFeatures(torch.zeros(1, 1, 1), torch.zeros(1))
        for path in paths:
            store.put(key(path), features)
        batch = paths[:: max(1, count // _BATCH)][:_BATCH]
        calls = {
            "files, first time s": lambda: list(map(ImageKeys(), paths)),
            "files, later s": lambda: list(map(key, paths)),
            "look-up of a batch s": lambda: store.get(list(map(key, batch))),
            "drawing an epoch s": lambda: list(BalancedSampler(dataset, 48, k_shot=2)),
        }
        seconds = time_interleaved(calls, args)
    return {"images": count} | {name: median(seconds[name]) for name in calls} | {"store GB": count * _BYTES / 1e9}


if __name__ == "__main__":
    main()
