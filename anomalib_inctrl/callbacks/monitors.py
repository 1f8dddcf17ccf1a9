# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What a training does: its loss terms with their gradients, and what the branches of InCTRLv2 separate."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from lightning.pytorch import Callback
from lightning.pytorch.trainer.states import TrainerFn
from torch.nn import functional as F

from anomalib_inctrl.arguments import check_arguments
from anomalib_inctrl.callbacks.loss_schedule import LossSchedule, few_shot_module
from anomalib_inctrl.errors import ArgumentError
from anomalib_inctrl.io.files import write_text_atomic

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor
    from torch.nn import Parameter

logger = logging.getLogger(__name__)

_BRANCHES = ("dasl", "oasl")
_PIXELS = ("normal", "abnormal")


class _Table:
    """A file of values by epoch and step, for runs without a logger, which anomalib's engine has by default."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: list[dict[str, float]] = []

    def add(self, trainer: Trainer, values: dict[str, float]) -> None:
        if not trainer.loggers:
            self.rows.append({"epoch": trainer.current_epoch, "step": trainer.global_step} | values)

    def write(self, trainer: Trainer) -> None:
        """Write the rows to the run's folder, from the first process; nothing in a dry run."""
        dry_run = trainer.fast_dev_run or trainer.barebones  # type: ignore[attr-defined]
        if self.rows and trainer.is_global_zero and not dry_run:
            text = pd.DataFrame(self.rows).to_csv(index=False, float_format="%.9g", lineterminator="\n")
            write_text_atomic(Path(trainer.default_root_dir) / self.name, text)


class LossMonitor(Callback):
    """Logs every term of the training loss, and the norm of the gradient that it alone sends into each trainable group.

    Terms are named as in the model's ``training_losses`` and logged as they are summed up, weights included:

    - ``loss/<term>``, for example ``loss/image_focal``, ``loss/pixel_dice`` or ``loss/one_class_focal``;
    - ``grad_norm/<term>/<group>``: Euclidean norm of the term's gradient over all parameters of the group
      (``image_scorer``, ``map_head``, ``dasl_branch``, ``oasl_branch``), before clipping. There is no entry for a group
      that the term does not reach.

    They are logged at the steps chosen here, whatever the trainer's ``log_every_n_steps``; without a logger, to
    the file ``losses.csv`` in the run's folder, one row per step with ``epoch`` and ``step``, written at the end of
    each epoch. Among several processes losses and gradients are averaged, as in training. Of accumulated batches the
    first is logged. Training itself is not changed.

    Args:
        every_n_steps: Log at every n-th optimizer step, the first included. Each time costs one backward pass through
            the heads per term; the frozen backbone takes no part in it.
        progress_bar: Show the terms in the progress bar too.

    Raises:
        ValueError: If ``every_n_steps`` is not positive, or, as training starts, if the model is another package's.

    Example:
        >>> from anomalib.engine import Engine
        >>> engine = Engine(callbacks=[LossMonitor(every_n_steps=5, progress_bar=True)])  # doctest: +SKIP
    """

    def __init__(self, every_n_steps: int = 10, progress_bar: bool = False) -> None:
        super().__init__()
        check_arguments(LossMonitor.__init__, locals(), {"every_n_steps": 1})
        self.every_n_steps, self.progress_bar = every_n_steps, progress_bar

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the model; begin a new table."""
        few_shot_module(pl_module, self)
        self._table, self._last_step = _Table("losses.csv"), -1

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Log the terms of this step, while their graph is there."""
        step, module = trainer.global_step, few_shot_module(pl_module, self)
        # A stock datamodule trains nothing: there are no terms.
        if step % self.every_n_steps or step == self._last_step or not module.loss_terms:
            return
        self._last_step = step
        losses = _averaged(trainer, torch.stack([term.detach().float() for term in module.loss_terms.values()]))
        values = dict(zip((f"loss/{name}" for name in module.loss_terms), losses.tolist(), strict=True))
        if self.progress_bar:
            pl_module.log_dict(values, prog_bar=True, logger=False)
        groups = module.trainable_groups()
        for name, term in module.loss_terms.items():
            norms = _gradient_norms(trainer, term, groups)
            values |= {f"grad_norm/{name}/{group}": norm for group, norm in norms.items()}
        for each in trainer.loggers:
            each.log_metrics(values, step=step)
        self._table.add(trainer, values)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the table."""
        self._table.write(trainer)


def _averaged(trainer: Trainer, values: Tensor) -> Tensor:
    """Mean over the processes, which all have the same terms."""
    return trainer.strategy.reduce(values, reduce_op="mean")


def _gradient_norms(trainer: Trainer, term: Tensor, groups: dict[str, list[Parameter]]) -> dict[str, float]:
    """Norm of a term's gradient in each group that it reaches."""
    if not term.requires_grad:
        return {}
    parameters = [parameter for group in groups.values() for parameter in group]
    # Nothing is added to the parameters' own gradients, and the graph stays for the backward pass to come.
    found = iter(torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True))
    norms = {}
    for name, group in groups.items():
        gradients = [gradient.flatten() for _ in group if (gradient := next(found)) is not None]
        if gradients:
            norms[name] = torch.linalg.vector_norm(_averaged(trainer, torch.cat(gradients).float())).item()
    return norms


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

    A model without branches, or a training without validation masks, leaves nothing to monitor; a warning reports it.

    Args:
        minimum: Smallest mean of S'_a on abnormal pixels that does not count as collapsed, in [0, 1].

    Raises:
        ValueError: If ``minimum`` is outside [0, 1].
    """

    def __init__(self, minimum: float = 0.05) -> None:
        super().__init__()
        check_arguments(BranchMonitor.__init__, locals(), {"minimum": 0})
        if minimum > 1:
            msg = f"minimum={minimum}: must lie in [0, 1]."
            raise ArgumentError(msg)
        self.minimum = minimum
        self.on_fit_start()

    def on_fit_start(self, *_: Any) -> None:
        """Begin a new table."""
        self._table = _Table("branches.csv")
        self._measured, self._warned_in_epoch = False, -1

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin new means."""
        # Branch, kind of pixel, and (sum of values, number of patches).
        self._sums = torch.zeros(len(_BRANCHES), len(_PIXELS), 2, dtype=torch.float64)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Add a batch's pixels."""
        components, mask = getattr(batch, "components", None), batch.gt_mask
        if components is None or mask is None:
            return
        abnormal = F.adaptive_avg_pool2d(mask.float().unsqueeze(1), components.grid).flatten(1)
        areas = torch.stack([1 - abnormal, abnormal])
        known = getattr(batch, "mask_valid", None)
        if known is not None:
            areas *= known.to(areas).unsqueeze(-1)
        for row, branch in enumerate(_BRANCHES):
            if (values := getattr(components, f"{branch}_map", None)) is not None:
                sums = torch.stack([(areas * values.float()).sum(dim=(1, 2)), areas.sum(dim=(1, 2))], dim=1)
                self._sums[row] += sums.cpu()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the means; warn if the one-class branch has collapsed."""
        if trainer.sanity_checking:
            return
        reduced: Any = trainer.strategy.reduce(self._sums.float().to(pl_module.device), reduce_op="sum")
        values = {
            f"branch/{branch}_{kind}": total / count
            for branch, row in zip(_BRANCHES, reduced.tolist(), strict=True)
            for kind, (total, count) in zip(_PIXELS, row, strict=True)
            if count > 0
        }
        if not values:
            return
        self._measured = True
        pl_module.log_dict(values)
        if trainer.state.fn == TrainerFn.FITTING:
            self._table.add(trainer, values)
            self._table.write(trainer)
        epoch, normal, abnormal = trainer.current_epoch, *(values.get(f"branch/oasl_{kind}") for kind in _PIXELS)
        if normal is None or abnormal is None or self._warned_in_epoch == epoch:
            return
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        frozen = any(isinstance(one, LossSchedule) and one.is_frozen("oasl_branch", epoch) for one in callbacks)
        # Negated, so that a NaN counts as collapsed.
        if trainer.is_global_zero and not frozen and not (abnormal >= self.minimum and abnormal > normal):
            self._warned_in_epoch = epoch
            logger.warning(
                "Epoch %d: the one-class branch (OASL) has collapsed: the mean of its map is %.3g on abnormal and %.3g "
                "on normal validation pixels; it should be higher on abnormal ones and at least %.3g. Lower its loss "
                "(--model.one_class_weight), or train it later: LossSchedule with frozen_until: "
                "{oasl_branch: <epoch>}, or with weights of one_class that rise over the epochs.",
                *(epoch, abnormal, normal, self.minimum),
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if there was nothing to monitor."""
        if not self._measured and trainer.is_global_zero:
            logger.warning(
                "BranchMonitor had nothing to monitor. Train InCTRLv2, and give the datamodule targets with masks."
            )
