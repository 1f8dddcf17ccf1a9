# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Training with the feature store and without: time of a step and of an epoch, and what rounding does.

    python benchmarks/epochs.py --output results/speed/epochs.json

The model trains through the engine on rendered categories; an epoch's time is taken between the engine's own hooks. The
store's first epoch encodes, later ones read. Both runs end with a test, to see what half precision does to metrics.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from anomalib.engine import Engine
from lightning.pytorch import Callback
from timing import MINIATURE, NOT_RUN, parser_of, prepare, report

from anomalib_inctrl import GeneralistDataModule, InCTRL, InCTRLDemo, InCTRLv2
from anomalib_inctrl.data import DataSource

_MODELS: dict[str, Any] = {"InCTRL": InCTRL, "InCTRLv2": InCTRLv2}


class EpochTimer(Callback):
    """Notes how long each training epoch takes, the store's filling included."""

    def __init__(self, clock: str) -> None:
        self._now = time.process_time if clock == "cpu" else time.perf_counter
        self.seconds: list[float] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        """Start; callbacks come before the model, which fills the store."""
        self.seconds.append(-self._now())

    def on_train_epoch_end(self, *_: Any) -> None:
        """Stop."""
        self.seconds[-1] += self._now()


def train(args: Any, name: str, store: str | None, root: Path) -> tuple[list[float], dict[str, float]]:
    """Train and, unless asked not to, test.

    Args:
        args: The run's arguments.
        name: Of the model.
        store: See ``GeneralistDataModule``.
        root: Folder for data and results.

    Returns:
        Seconds of each epoch, and metrics.
    """
    counts = {"train_count": args.images, "test_normal_count": 10, "test_anomalous_count": 10}

    def source(category: str) -> list[DataSource]:
        InCTRLDemo(root=root, category=category, **counts).prepare_data()
        return [DataSource("InCTRLDemo", str(root), [category], counts)]

    datamodule = GeneralistDataModule(
        auxiliary=source("tile"), targets=source("wood") if args.test else None, train_batch_size=args.batch,
        steps_per_epoch=args.steps, k_shot=args.shots, num_workers=0, feature_store=store,
    )  # fmt: skip
    model = _MODELS[name](
        backbone=args.backbone, pretrained=args.pretrained, k_shot=args.shots, visualizer=False,
    )  # fmt: skip
    timer = EpochTimer(args.clock)
    engine = Engine(
        max_epochs=args.epochs, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0, default_root_dir=root / "results", callbacks=[timer],
    )  # fmt: skip
    engine.fit(model, datamodule=datamodule)
    metrics = engine.test(model, datamodule=datamodule, verbose=False)[0] if args.test else {}
    return timer.seconds, {key: float(value) for key, value in metrics.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Time training with and without the store.

    Args:
        argv: Arguments without the program's name; those of the process if None.

    Returns:
        0.
    """
    parser = parser_of(__doc__, rounds=1)
    parser.add_argument("--pretrained", help="OpenCLIP tag or weights file; random weights if not given")
    parser.add_argument("--models", nargs="+", choices=tuple(_MODELS), default=list(_MODELS))
    parser.add_argument("--images", type=int, default=30, help="normal training images")
    parser.add_argument("--batch", type=int, default=8, help="balanced queries a step")
    parser.add_argument("--steps", type=int, default=10, help="steps an epoch")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--shots", type=int, default=2, help="prompts of each query")
    parser.add_argument("--test", action="store_true", help="also test, for the effect of rounding on metrics")
    parser.set_defaults(backbone=MINIATURE)
    args = parser.parse_args(argv)
    prepare(args)
    rows: list[dict[str, Any]] = []
    metrics: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            plain = 0.0
            for store in (None, "memory", str(Path(folder) / "store")):
                seconds, found = train(args, name, store, Path(folder))
                later = median(seconds[1:])
                plain = plain or later
                where = {None: "none", "memory": "memory"}.get(store, "folder")
                metrics[f"{name}, {where}"] = found
                rows.append(
                    {
                        "model": name, "store": where, "first epoch s": seconds[0], "later epoch s": later,
                        "step ms": 1000 * later / args.steps, "times faster": plain / later,
                        "image_AUROC": found.get("image_AUROC", NOT_RUN),
                        "pixel_AUROC": found.get("pixel_AUROC", NOT_RUN),
                    }
                )  # fmt: skip
    report(args, f"Training, {args.backbone}", rows, metrics=metrics)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
