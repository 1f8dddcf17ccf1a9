# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Weights of the losses and frozen branches by epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch import Callback

from anomalib_inctrl.arguments import check_arguments
from anomalib_inctrl.errors import ArgumentError
from anomalib_inctrl.models.components.few_shot_module import FewShotModule

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch.optim import Optimizer


def few_shot_module(pl_module: LightningModule, callback: Callback) -> FewShotModule:
    """The model that a callback was given; refuses those of other packages with a :class:`ValueError`."""
    if not isinstance(pl_module, FewShotModule):
        name, other = type(callback).__name__, type(pl_module).__name__
        msg = f"{name} works with InCTRL and InCTRLv2, not with {other}: remove the callback."
        raise ArgumentError(msg)
    return pl_module


class LossSchedule(Callback):
    """Sets the weights of InCTRLv2's losses by epoch, and keeps parts of a model frozen until a given epoch.

    Everything depends on the number of the epoch, counted from 0, alone, so that a resumed training continues as an
    uninterrupted one. The model's own weights are restored when training ends.

    A frozen group's gradients are computed and then dropped before the optimizer's step, and before clipping. AdamW
    leaves such parameters entirely alone: no step, no weight decay, no moments. Distributed training needs no special
    strategy for it, as every parameter takes part in every backward pass; only strategies that shard parameters or step
    by themselves (FSDP, DeepSpeed) are not supported. Running statistics of batch normalisation are no parameters and
    are still updated. A loss weight of 0 alone freezes nothing: weight decay and the optimizer's moments still move the
    branch.

    Args:
        weights: For each of the losses ``image``, ``pixel`` and ``one_class`` the weight from an epoch on, by epoch.
            Before the first epoch given, and for a loss left out, the model's own weight holds. Needs InCTRLv2.
        frozen_until: For each group (``image_scorer``, ``map_head``, ``dasl_branch``, ``oasl_branch``; those that the
            model has) the epoch it trains from.
        interpolate: Change weights linearly from one epoch given to the next, instead of in steps.

    Raises:
        ValueError: If an epoch or a weight is negative; as training starts, if a name is not one of the model's.

    Example:
        The one-class branch joins in epoch 3, its loss in full from epoch 6 on.

        >>> schedule = LossSchedule(
        ...     weights={"one_class": {3: 0.1, 6: 1.0}}, frozen_until={"oasl_branch": 3}, interpolate=True
        ... )
    """

    def __init__(
        self,
        weights: dict[str, dict[int, float]] | None = None,
        frozen_until: dict[str, int] | None = None,
        interpolate: bool = False,
    ) -> None:
        super().__init__()
        check_arguments(LossSchedule.__init__, locals())
        self.weights = weights or {}
        self.frozen_until = frozen_until or {}
        self.interpolate = interpolate
        self._own_weights: dict[str, float] = {}
        for name, points in self.weights.items():
            if not points or min(points) < 0 or min(points.values()) < 0:
                msg = f"weights: {name}: {points}: expected {{epoch: weight, ...}}, neither of them negative."
                raise ArgumentError(msg)
        for name, epoch in self.frozen_until.items():
            if epoch < 0:
                msg = f"frozen_until: {name}: {epoch}: an epoch cannot be negative."
                raise ArgumentError(msg)

    def weight(self, name: str, epoch: int, own: float) -> float:
        """Weight of a loss in an epoch, counted from 0, where `own` is the model's."""
        points = dict(sorted(self.weights.get(name, {}).items()))
        past = [start for start in points if start <= epoch]
        if self.interpolate and past:
            return float(np.interp(epoch, list(points), list(points.values())))
        return points[past[-1]] if past else own

    def is_frozen(self, group: str, epoch: int) -> bool:
        """Whether a group is frozen in an epoch, counted from 0."""
        return epoch < self.frozen_until.get(group, 0)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the names."""
        module = few_shot_module(pl_module, self)
        self._own_weights = dict(getattr(module, "loss_weights", {}))
        if self.weights and not self._own_weights:
            msg = (
                f"LossSchedule: {type(module).__name__} has no loss weights to schedule; InCTRLv2 has. Leave out "
                "weights; frozen_until works."
            )
            raise ArgumentError(msg)
        for argument, valid in (("weights", self._own_weights), ("frozen_until", module.trainable_groups())):
            if unknown := sorted(getattr(self, argument).keys() - valid.keys()):
                msg = f"LossSchedule: {argument}: unknown {unknown}; this model has {sorted(valid)}."
                raise ArgumentError(msg)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the weights; at every batch, because a training resumed within an epoch does not start one."""
        if self.weights:
            epoch, own = trainer.current_epoch, self._own_weights
            pl_module.loss_weights = {name: self.weight(name, epoch, value) for name, value in own.items()}  # type: ignore[assignment]

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Drop the gradients of frozen groups."""
        for name, parameters in few_shot_module(pl_module, self).trainable_groups().items():
            if self.is_frozen(name, trainer.current_epoch):
                for parameter in parameters:
                    parameter.grad = None

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the model's own weights."""
        if self._own_weights:
            pl_module.loss_weights = self._own_weights  # type: ignore[assignment]
        self._own_weights = {}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the model's own weights."""
        self.on_fit_end(trainer, pl_module)
