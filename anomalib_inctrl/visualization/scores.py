# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The scores of a run as a table: in a file, and after `predict` its most abnormal images on the console."""

from __future__ import annotations

import logging
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch.distributed as dist
from lightning.pytorch import Callback
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from rich.table import Table
from rich.text import Text

from anomalib_inctrl.io.files import write_text_atomic
from anomalib_inctrl.visualization.outputs import image_rows

if TYPE_CHECKING:
    from anomalib.data import ImageBatch
    from lightning.pytorch import LightningModule, Trainer

logger = logging.getLogger(__name__)

_SHOWN = 10
_SHOWN_COLUMNS = {"p_value": "p-value", "pred_label": "label", "class_name": "class", "image_path": "image"}


class ScoreTable(Callback):
    """Writes one row per image of `test` and `predict` to `scores.csv` in the run's folder.

    Columns: `image_path`, `class_name`, `score` (raw), `pred_score` (after post-processing), `pred_label` and
    `gt_label` (1 anomalous, 0 normal), `p_value` (with `threshold="auto"`), then every component of the score. A column
    that no image has a value for is left out, as `pred_label` is where no threshold is known. Rows are sorted by path
    and class name, whatever the order and size of the batches and the number of processes. Numbers have nine
    significant digits, enough to restore a 32-bit value exactly.

    Where a run fails, for example at a file that cannot be read, the images scored so far are written. After `predict`
    the ten images with the highest scores are shown, with counts and the folder, unless the trainer's progress bar is
    switched off. A dry run (`fast_dev_run`, `barebones`) neither writes nor shows anything.

    The callback must stand after the post-processor in the model's list, else `pred_score` is raw too.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[dict[str, Any]] = []
        self._table: pd.DataFrame | None = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a new table."""
        self._rows, self._table = [], None

    on_predict_start = on_test_start

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: ImageBatch, *_: Any
    ) -> None:
        """Add a batch's rows."""
        self._rows += image_rows(batch, trainer, pl_module)

    on_predict_batch_end = on_test_batch_end  # type: ignore[assignment]  # fewer arguments

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the table, from the first process where there are several."""
        rows, self._rows = self._rows, []
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            dist.all_gather_object(gathered, rows)
            rows = list(chain.from_iterable(gathered))
        self._table = self._write(rows, trainer)

    on_predict_epoch_end = on_test_epoch_end

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Show the most abnormal images, below the finished progress bar."""
        if stage == TrainerFn.PREDICTING and self._table is not None and trainer.progress_bar_callback is not None:
            _show(self._table, Path(trainer.default_root_dir))
            self._table = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the images that were scored before the error."""
        # Those of this process alone: others may wait for it.
        if (table := self._write(self._rows, trainer)) is not None:
            file = Path(trainer.default_root_dir) / "scores.csv"
            logger.warning("%d images were scored before the error: %s", len(table), file)

    def _write(self, rows: list[dict[str, Any]], trainer: Trainer) -> pd.DataFrame | None:
        dry_run = trainer.fast_dev_run or trainer.barebones  # type: ignore[attr-defined]
        if not trainer.is_global_zero or dry_run or not rows:
            return None
        table = pd.DataFrame(rows).dropna(axis="columns", how="all")
        # A distributed sampler repeats images to give every process the same number.
        repeated = table.duplicated(["image_path", "class_name"]) & (table.image_path != "")
        table = table[~repeated].sort_values(["image_path", "class_name"], kind="stable")
        labels = [name for name in ("pred_label", "gt_label") if name in table]
        table[labels] = table[labels].astype(float).astype("Int64")
        text = table.to_csv(index=False, float_format="%.9g", lineterminator="\n")
        write_text_atomic(Path(trainer.default_root_dir) / "scores.csv", text)
        return table


def _show(table: pd.DataFrame, folder: Path) -> None:
    """Print the images with the highest scores, counts and the folder."""
    score = "score" if "score" in table else "pred_score"
    columns = [name for name in (score, *_SHOWN_COLUMNS) if name in table]
    if table.class_name.nunique() == 1:
        columns.remove("class_name")
    shown = Table(*(({score: "score"} | _SHOWN_COLUMNS)[name] for name in columns))
    shown.columns[-1].overflow = "fold"
    for row in table.nlargest(_SHOWN, score)[columns].to_dict("records"):
        shown.add_row(*(_cell(name, value) for name, value in row.items()))
    count = f"{len(table)} image{'s' if len(table) > 1 else ''} scored"
    if "pred_label" not in table:
        count += ", not labelled: no threshold is known"
    else:
        unknown = int(table.pred_label.isna().sum())
        count += f", {int(table.pred_label.sum())} labelled anomalous"
        count += f", {unknown} not labelled" if unknown else ""
    console = Console(markup=False, highlight=False)
    console.print("Most abnormal images:", shown, sep="\n")
    console.print(f"{count}. Results: {folder}", soft_wrap=True)


def _cell(name: str, value: Any) -> Text:
    if name == "pred_label":
        value = "" if pd.isna(value) else "anomalous" if value else "normal"
    elif name == "image_path":
        value = Path(*Path(value).parts[-3:])
    elif isinstance(value, float):
        value = f"{value:.3f}"
    return Text(str(value), style="red" if value == "anomalous" else "")
