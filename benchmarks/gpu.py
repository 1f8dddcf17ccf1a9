# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""All measurements for an accelerator in one go of at most eight minutes.

    make gpu                             # results/gpu.json and results/gpu.md
    python benchmarks/gpu.py --small     # the same on a small scale, also without a GPU

Throughput of three towers in float32, half precision and compiled, over the bare tower; changes of scores in half
precision; peak memory; training with and without the feature store; WinCLIP and AnomalyDINO beside both models. Steps
that would begin too late are reported as not run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import lightning
import torch
from counts import peak_bytes
from peers import PEERS, SMALL_PEERS, compare
from precision import add_arguments, make_detector, precisions, score_changes, throughput
from timing import TOWERS, add_prompts, bare_tower, clock_of, parse, parser_of, report, train_heads

from anomalib_inctrl import Detector, GeneralistDataModule, InCTRLDemo, InCTRLv2
from anomalib_inctrl.data import DataSource

_SMALL = {
    "towers": ["demonstration encoder"], "batches": [1, 2], "shots": [1, 4], "rounds": 1, "categories": ["capsule"],
    "images": 6, "compile": False, "steps": 1, "peer_images": 1, "peers": SMALL_PEERS,
}  # fmt: skip
Rows = list[dict[str, Any]]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure; the tables are written after each step, so that none is lost."""
    parser = parser_of(__doc__, rounds=10)
    add_arguments(parser)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 4, 8], help="numbers of prompts")
    parser.add_argument("--steps", type=int, default=10, help="steps of a training epoch")
    parser.add_argument("--peer_images", type=int, default=32, help="images that WinCLIP and AnomalyDINO predict")
    parser.add_argument("--minutes", type=float, default=8, help="no step begins later")
    parser.add_argument("--small", action="store_true", help="few images and one tower, on the CPU if there is no GPU")
    found = torch.cuda.is_available()
    categories = ["capsule", "brick"]
    parser.set_defaults(
        peers=PEERS, device="cuda", output=Path("results/gpu.json"), batches=[1, 8, 64], categories=categories
    )
    args = parse(parser, argv)
    args.openvino = False
    if args.small:
        vars(args).update(_SMALL | ({} if found else {"device": "cpu"}))
    elif args.device.startswith("cuda") and not found:
        parser.error("no CUDA GPU was found. Use --small to try the script on the CPU, or benchmarks/precision.py.")
    begin = time.monotonic()
    tables: dict[str, Rows] = {}
    with tempfile.TemporaryDirectory() as folder:
        for title, step in _steps(args, Path(folder)):
            tables.setdefault(title, [])
            if time.monotonic() - begin < 60 * args.minutes:
                tables[title] += step()
            report(args, tables)


def _steps(args: argparse.Namespace, root: Path) -> Iterator[tuple[str, Callable[[], Rows]]]:
    """Titles and measurements, the most important first; compiling takes longest."""
    compiles, args.compile = args.compile, False
    detectors = {name: make_detector(name, args) for name in args.towers}
    for name, detector in detectors.items():
        yield "Scores in half precision", lambda n=name, d=detector: score_changes(n, d, _ways(d, args), args, root)
    for name, detector in detectors.items():
        model: Any = add_prompts(detector.module.model, args.shots)
        yield "Throughput", lambda n=name, d=detector, m=model: throughput(n, m, _ways(d, args), args, args.shots)
        yield "Peak memory", lambda n=name, d=detector: _memory(n, d, args)
    yield "Training", lambda: _training(args, root)
    for peer in args.peers:
        yield "Models of anomalib, K = 4", lambda peer=peer: compare(*peer, args, args.peer_images, batch=8, shots=4)
    args.compile = compiles
    for name, detector in detectors.items() if compiles else ():
        yield "Compiled", lambda n=name, d=detector: throughput(n, d.module.model, _ways(d, args), args, [4])


def _ways(detector: Detector, args: argparse.Namespace) -> dict[str, Any]:
    return precisions(detector.module.model.backbone, args)


def _memory(name: str, detector: Detector, args: argparse.Namespace) -> Rows:
    """Peak of the memory that a call takes beside the weights."""
    model, rows = detector.module.model, []
    for way, each in _ways(detector, args).items():
        for batch in args.batches:
            images = torch.randn(batch, 3, *model.backbone.image_size, device=args.device)
            row: dict[str, Any] = {"tower": name, "precision": way, "batch": batch}
            row["bare tower MB"] = _peak(each.call(bare_tower(model.backbone), images), args)
            for k_shot in args.shots:
                row[f"K = {k_shot}, MB"] = _peak(each.call(model, images, f"K = {k_shot}"), args)
            rows.append(row)
    return rows


def _peak(call: Callable[[], Any], args: argparse.Namespace) -> float:
    if args.device == "cpu":
        return peak_bytes(call) / 1e6
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


class EpochTimer(lightning.Callback):
    """Times each training epoch; callbacks come before the model, which fills the store."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.seconds: list[float] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        """Start."""
        self.seconds.append(-self._now())

    def on_train_epoch_end(self, *_: Any) -> None:
        """Stop."""
        self.seconds[-1] += self._now()


def _training(args: argparse.Namespace, root: Path) -> Rows:
    """Epochs of InCTRLv2 with and without the feature store; its first epoch encodes, later ones read."""
    counts = {"train_count": 30, "test_normal_count": 10, "test_anomalous_count": 10}
    InCTRLDemo(root=root / "training", category="tile", **counts).prepare_data()
    settings = TOWERS[args.towers[0]]
    rows: Rows = []
    for store in (None, "memory"):
        datamodule = GeneralistDataModule(
            auxiliary=[DataSource("InCTRLDemo", str(root / "training"), ["tile"], counts)], train_batch_size=8,
            steps_per_epoch=args.steps, k_shot=2, num_workers=0, feature_store=store,
        )  # fmt: skip
        timer = EpochTimer(clock_of(args))
        module = InCTRLv2(**settings, k_shot=2, visualizer=False)
        accelerator = "cpu" if args.device == "cpu" else "gpu"
        options = {"max_epochs": 3, "accelerator": accelerator, "devices": 1, "callbacks": [timer]}
        train_heads(module, datamodule, root / "results", **options)
        later = median(timer.seconds[1:])
        rows.append(
            {
                "tower": args.towers[0], "store": store or "none", "first epoch s": timer.seconds[0],
                "later epoch s": later, "times faster": rows[0]["later epoch s"] / later if rows else 1.0,
            }
        )  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
