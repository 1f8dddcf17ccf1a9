# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""A file for what would go to a logger, if there were one: anomalib's engine has none unless it is given one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from anomalib_inctrl.io.files import write_text_atomic

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def write_table(trainer: Trainer, rows: Sequence[dict[str, float]], name: str) -> None:
    """Write rows to a file in the run's folder, from the first process, unless the run is to leave no traces.

    Args:
        trainer: The run.
        rows: Values by column; a value that a row lacks stays empty. Nothing is written if there are none.
        name: Name of the file.
    """
    if rows and trainer.is_global_zero and not (trainer.fast_dev_run or trainer.barebones):  # type: ignore[attr-defined]
        text = pd.DataFrame(rows).to_csv(index=False, float_format="%.9g", lineterminator="\n")
        write_text_atomic(Path(trainer.default_root_dir) / name, text)
