# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What the callbacks share: the check of the model, and the file for a run without a logger."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from anomalib_inctrl.io.files import write_text_atomic
from anomalib_inctrl.models.components.few_shot_module import FewShotModule

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer


def few_shot_module(pl_module: LightningModule, callback: Callback) -> FewShotModule:
    """The model that a callback was given; refuses those of other packages with a :class:`ValueError`."""
    if not isinstance(pl_module, FewShotModule):
        msg = (
            f"{type(callback).__name__} works with InCTRL and InCTRLv2, not with {type(pl_module).__name__}: remove "
            "the callback."
        )
        raise ValueError(msg)
    return pl_module


def write_table(trainer: Trainer, rows: Sequence[dict[str, float]], name: str) -> None:
    """Write rows, values by column, to a file in the run's folder, from the first process; nothing in a dry run.

    anomalib's engine has no logger unless it is given one, hence a file.
    """
    if rows and trainer.is_global_zero and not (trainer.fast_dev_run or trainer.barebones):  # type: ignore[attr-defined]
        text = pd.DataFrame(rows).to_csv(index=False, float_format="%.9g", lineterminator="\n")
        write_text_atomic(Path(trainer.default_root_dir) / name, text)
