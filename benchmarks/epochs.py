# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Training with and without the feature store: time of a step and of an epoch, and the effect of rounding.

    python benchmarks/epochs.py --output epochs.json

The models train through the engine on rendered categories. The store's first epoch encodes, later ones read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import lightning
from anomalib.engine import Engine
from timing import MINIATURE, NOT_RUN, clock_of, parse, parser_of, report

from anomalib_inctrl import GeneralistDataModule, InCTRL, InCTRLDemo, InCTRLv2
from anomalib_inctrl.data import DataSource

_MODELS: dict[str, Any] = {"InCTRL": InCTRL, "InCTRLv2": InCTRLv2}


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


def main(argv: Sequence[str] | None = None) -> None:
    """Time training with and without the store."""
    parser = parser_of(__doc__)
    parser.add_argument("--pretrained", help="OpenCLIP tag or weights file; random weights if not given")
    parser.add_argument("--models", nargs="+", choices=tuple(_MODELS), default=list(_MODELS))
    parser.add_argument("--images", type=int, default=30, help="normal training images")
    parser.add_argument("--batch", type=int, default=8, help="balanced queries a step")
    parser.add_argument("--steps", type=int, default=10, help="steps an epoch")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--shots", type=int, default=2, help="prompts of each query")
    parser.add_argument("--test", action="store_true", help="also test, for the effect of rounding on metrics")
    parser.set_defaults(backbone=MINIATURE)
    args = parse(parser, argv)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            without = 0.0
            for title, store in (("none", None), ("memory", "memory"), ("folder", f"{folder}/store")):
                seconds, metrics = _train(args, name, store, Path(folder))
                later = median(seconds[1:])
                without = without or later
                rows.append(
                    {
                        "model": name, "store": title, "first epoch s": seconds[0], "later epoch s": later,
                        "step ms": 1000 * later / args.steps, "times faster": without / later,
                        **{key: metrics.get(key, NOT_RUN) for key in ("image_AUROC", "pixel_AUROC")},
                    }
                )  # fmt: skip
    report(args, f"Training, {args.backbone}", rows)


def _train(args: Any, name: str, store: str | None, root: Path) -> tuple[list[float], dict[str, float]]:
    counts = {"train_count": args.images, "test_normal_count": 10, "test_anomalous_count": 10}

    def source(category: str) -> list[DataSource]:
        InCTRLDemo(root=root, category=category, **counts).prepare_data()
        return [DataSource("InCTRLDemo", str(root), [category], counts)]

    datamodule = GeneralistDataModule(
        auxiliary=source("tile"), targets=source("wood") if args.test else None, train_batch_size=args.batch,
        steps_per_epoch=args.steps, k_shot=args.shots, num_workers=0, feature_store=store,
    )  # fmt: skip
    model = _MODELS[name](backbone=args.backbone, pretrained=args.pretrained, k_shot=args.shots, visualizer=False)
    timer = EpochTimer(clock_of(args))
    engine = Engine(
        max_epochs=args.epochs, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0, default_root_dir=root / "results", callbacks=[timer],
    )  # fmt: skip
    engine.fit(model, datamodule=datamodule)
    metrics = engine.test(model, datamodule=datamodule, verbose=False)[0] if args.test else {}
    return timer.seconds, {key: float(value) for key, value in metrics.items()}


if __name__ == "__main__":
    main()
