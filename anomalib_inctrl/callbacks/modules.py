# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Which models the callbacks work with."""

from __future__ import annotations

from lightning.pytorch import LightningModule

from anomalib_inctrl.models.components.few_shot_module import FewShotModule


def few_shot_module(pl_module: LightningModule, callback: str) -> FewShotModule:
    """Check that a callback was given a model it can work with.

    Args:
        pl_module: The model being trained.
        callback: Name of the callback, for the message.

    Returns:
        The model.

    Raises:
        ValueError: If it is not a model of this package.
    """
    if not isinstance(pl_module, FewShotModule):
        msg = f"{callback} works with InCTRL and InCTRLv2, not with {type(pl_module).__name__}: remove the callback."
        raise ValueError(msg)
    return pl_module
