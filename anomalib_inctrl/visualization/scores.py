# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The scores of a run as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch.distributed as dist
from lightning.pytorch import Callback

from anomalib_inctrl.io.files import write_text_atomic
from anomalib_inctrl.visualization.outputs import image_rows

if TYPE_CHECKING:
    from anomalib.data import ImageBatch
    from lightning.pytorch import LightningModule, Trainer


class ScoreTable(Callback):
    """Writes one row per image of `test` and `predict` to `scores.csv` in the run's folder.

    Columns: `image_path`, `class_name`, `score` (raw), `pred_score` (after post-processing), `pred_label` and
    `gt_label` (1 anomalous, 0 normal), `p_value` (with `threshold="auto"`), then every component of the score. A column
    that no image has a value for is left out, as `pred_label` is where no threshold is known. Rows are sorted by path
    and class name, whatever the order and size of the batches and the number of processes. Numbers have nine
    significant digits, enough to restore a 32-bit value exactly.

    The callback must stand after the post-processor in the model's list, else `pred_score` is raw too.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[dict[str, Any]] = []

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a new table."""
        del trainer, pl_module
        self._rows = []

    on_predict_start = on_test_start

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add a batch's rows."""
        del outputs, batch_idx, dataloader_idx
        self._rows += image_rows(batch, trainer, pl_module)

    on_predict_batch_end = on_test_batch_end

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the table, from the first process where there are several."""
        del pl_module
        rows = self._rows
        if dist.is_available() and dist.is_initialized():
            gathered: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(gathered, rows)
            rows = [row for part in gathered for row in part]
        if not trainer.is_global_zero or not rows:
            return
        table = pd.DataFrame(rows).dropna(axis="columns", how="all")
        # A distributed sampler repeats images to give every process the same number.
        repeated = table.duplicated(["image_path", "class_name"]) & (table.image_path != "")
        table = table[~repeated].sort_values(["image_path", "class_name"], kind="stable")
        labels = [name for name in ("pred_label", "gt_label") if name in table]
        table[labels] = table[labels].astype(float).astype("Int64")
        text = table.to_csv(index=False, float_format="%.9g", lineterminator="\n")
        write_text_atomic(Path(trainer.default_root_dir) / "scores.csv", text)

    on_predict_epoch_end = on_test_epoch_end
