# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What callbacks know of a model: its trainable groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomalib_inctrl.backbone import FrozenCLIP
from anomalib_inctrl.models.components.lightning_base import FewShotMixin

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule
    from torch.nn import Parameter


def few_shot_module(pl_module: LightningModule, callback: str) -> FewShotMixin:
    """Check that a callback was given a model it can work with.

    Args:
        pl_module: The model being trained.
        callback: Name of the callback, for the message.

    Returns:
        The model.

    Raises:
        ValueError: If it is none of this package.
    """
    if not isinstance(pl_module, FewShotMixin):
        msg = f"{callback} works with InCTRL and InCTRLv2, not with {type(pl_module).__name__}: remove the callback."
        raise ValueError(msg)
    return pl_module


def trainable_groups(pl_module: FewShotMixin) -> dict[str, list[Parameter]]:
    """Parameters of each trainable part of a model by its name, the same for every run of it.

    Args:
        pl_module: The model.

    Returns:
        Of ``image_scorer``, ``map_head``, ``dasl_branch`` and ``oasl_branch`` those that the model has.
    """
    groups = {
        name: list(child.parameters())
        for name, child in pl_module.model.named_children()
        if not isinstance(child, FrozenCLIP)
    }
    return {name: parameters for name, parameters in groups.items() if parameters}
