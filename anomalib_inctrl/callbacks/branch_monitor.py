# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Whether the branches of InCTRLv2 separate abnormal pixels from normal ones."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.trainer.states import TrainerFn
from torch.nn import functional as F

from anomalib_inctrl.arguments import check_arguments
from anomalib_inctrl.callbacks.common import write_table
from anomalib_inctrl.callbacks.loss_schedule import LossSchedule

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

logger = logging.getLogger(__name__)

_BRANCHES = ("dasl", "oasl")
_PIXELS = ("normal", "abnormal")


class BranchMonitor(Callback):
    """Logs the mean of both branches' maps on normal and abnormal validation pixels; warns of a collapsed OASL.

    Per validation ``branch/dasl_normal``, ``branch/dasl_abnormal``, ``branch/oasl_normal`` and
    ``branch/oasl_abnormal``, in [0, 1]: the mean of S_a or S'_a over all pixels of that kind, a pixel taking the value
    of the patch it lies in. It is computed on the patch grid, each patch weighted by its abnormal or normal area, so
    that no defect is too small to count. Images without a known mask are left out, and so is a mean over no pixels.
    Among several processes pixels are pooled. While training without a logger the means are written to the file
    ``branches.csv`` in the run's folder, one row per validation with ``epoch`` and ``step``.

    The one-class branch learns from normal images alone, and "nothing is ever abnormal" satisfies its loss. It counts
    as collapsed if its mean on abnormal pixels is below ``minimum`` or no higher than on normal ones. A warning reports
    it once per epoch, unless :class:`LossSchedule` keeps the branch frozen.

    A model without branches, or a training without validation masks, leaves nothing to monitor, and a warning says so.

    Args:
        minimum: Smallest mean of S'_a on abnormal pixels that does not count as collapsed, in [0, 1].

    Raises:
        ValueError: If ``minimum`` is outside [0, 1].
    """

    def __init__(self, minimum: float = 0.05) -> None:
        super().__init__()
        check_arguments(BranchMonitor.__init__, locals())
        if not 0 <= minimum <= 1:
            msg = f"minimum={minimum}: must lie in [0, 1]."
            raise ValueError(msg)
        self.minimum = minimum
        self._reset()

    def _reset(self) -> None:
        # Branch, kind of pixel, and (sum of values, number of patches).
        self._sums = torch.zeros(len(_BRANCHES), len(_PIXELS), 2, dtype=torch.float64)
        self._measured = False
        self._warned_in_epoch: int | None = None
        self._rows: list[dict[str, float]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a new table."""
        del trainer, pl_module
        self._reset()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin new means."""
        del trainer, pl_module
        self._sums.zero_()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add a batch's pixels."""
        del trainer, pl_module, outputs, batch_idx, dataloader_idx
        components, mask = getattr(batch, "components", None), batch.gt_mask
        if components is None or mask is None:
            return
        abnormal = F.adaptive_avg_pool2d(mask.float().unsqueeze(1), components.grid).flatten(1)
        known = getattr(batch, "mask_valid", None)
        known = torch.ones(len(mask), device=mask.device) if known is None else known.to(mask.device).float()
        areas = torch.stack([1 - abnormal, abnormal]) * known.unsqueeze(-1)
        for row, branch in enumerate(_BRANCHES):
            if (values := getattr(components, f"{branch}_map", None)) is not None:
                sums = torch.stack([(areas * values.float()).sum(dim=(1, 2)), areas.sum(dim=(1, 2))], dim=1)
                self._sums[row] += sums.cpu()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the means; warn if the one-class branch has collapsed."""
        if trainer.sanity_checking:
            return
        reduced: Any = trainer.strategy.reduce(self._sums.float().to(pl_module.device), reduce_op="sum")
        means = {
            f"{branch}_{kind}": total / count
            for branch, row in zip(_BRANCHES, reduced.tolist(), strict=True)
            for kind, (total, count) in zip(_PIXELS, row, strict=True)
            if count > 0
        }
        if not means:
            return
        self._measured = True
        values = {f"branch/{name}": value for name, value in means.items()}
        pl_module.log_dict(values)
        if trainer.state.fn == TrainerFn.FITTING and not trainer.loggers:
            self._rows.append({"epoch": trainer.current_epoch, "step": trainer.global_step} | values)
            write_table(trainer, self._rows, "branches.csv")
        self._warn_of_collapse(trainer, means)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if there was nothing to monitor."""
        del pl_module
        if not self._measured and trainer.is_global_zero:
            logger.warning(
                "BranchMonitor had nothing to monitor. Train InCTRLv2, and give the datamodule targets with masks."
            )

    def _warn_of_collapse(self, trainer: Trainer, means: dict[str, float]) -> None:
        epoch = trainer.current_epoch
        normal, abnormal = means.get("oasl_normal"), means.get("oasl_abnormal")
        if normal is None or abnormal is None or self._warned_in_epoch == epoch or not trainer.is_global_zero:
            return
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(one, LossSchedule) and one.is_frozen("oasl_branch", epoch) for one in callbacks):
            return
        # Negated, so that a NaN counts as collapsed.
        if not (abnormal >= self.minimum and abnormal > normal):
            self._warned_in_epoch = epoch
            logger.warning(
                "Epoch %d: the one-class branch (OASL) has collapsed: the mean of its map is %.3g on abnormal and %.3g "
                "on normal validation pixels; it should be higher on abnormal ones and at least %.3g. Lower its loss "
                "(--model.one_class_weight), or train it later: LossSchedule with frozen_until: "
                "{oasl_branch: <epoch>}, or with weights of one_class that rise over the epochs.",
                epoch,
                abnormal,
                normal,
                self.minimum,
            )
