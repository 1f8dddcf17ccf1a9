# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The terms of the training loss, and the gradient that each sends into each part of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from lightning.pytorch import Callback

from anomalib_inctrl.arguments import check_arguments
from anomalib_inctrl.callbacks.common import few_shot_module, write_table

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor
    from torch.nn import Parameter


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
        self.every_n_steps = every_n_steps
        self.progress_bar = progress_bar
        self._rows: list[dict[str, float]] = []
        self._last_step = -1

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the model; begin a new table."""
        del trainer
        few_shot_module(pl_module, self)
        self._rows, self._last_step = [], -1

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Log the terms of this step, while their graph is there."""
        del loss
        step = trainer.global_step
        module = few_shot_module(pl_module, self)
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
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step)
        if not trainer.loggers:
            self._rows.append({"epoch": trainer.current_epoch, "step": step} | values)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the table where there is no logger."""
        del pl_module
        write_table(trainer, self._rows, "losses.csv")


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
