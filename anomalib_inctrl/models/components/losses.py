# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Losses on probabilities."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BinaryFocalLoss(nn.Module):
    r"""Binary focal loss on probabilities (Lin et al., ICCV 2017, eq. 5; used by InCTRL, eq. 8).

    .. math:: \mathrm{FL} = \mathrm{mean}(-\alpha (1 - p_t)^\gamma \log p_t), \quad p_t = y p + (1 - y) (1 - p)

    kornia's and torchvision's focal losses take logits. Giving them probabilities is the InCTRL code's slip: normals
    then never get below a loss of 0.173.

    Args:
        alpha: Weight of the whole loss.
        gamma: How much easy samples are played down.
        v1_double_sigmoid: Apply a sigmoid to the probabilities first, as the InCTRL code does; for comparison only.
    """

    def __init__(self, alpha: float = 1.0, gamma: float = 2.0, *, v1_double_sigmoid: bool = False) -> None:
        super().__init__()
        self.alpha = alpha
        self.gamma = gamma
        self.v1_double_sigmoid = v1_double_sigmoid

    def forward(self, probability: Tensor, label: Tensor) -> Tensor:
        """Compute the mean loss.

        Args:
            probability: Predicted probability of "abnormal", any shape, in [0, 1].
            label: Truth of the same shape, 0 or 1.

        Returns:
            Scalar, not negative.
        """
        # Logarithms near 0 and 1 want full precision whatever the autocast.
        probability = probability.float()
        label = label.to(probability)
        if self.v1_double_sigmoid:
            probability = probability.sigmoid()
        # Binary cross-entropy clamps its logarithms at -100, so its gradient is finite at 0 and 1.
        with torch.autocast(probability.device.type, enabled=False):
            cross_entropy = F.binary_cross_entropy(probability, label, reduction="none")
        likelihood = probability * label + (1 - probability) * (1 - label)
        return (self.alpha * (1 - likelihood) ** self.gamma * cross_entropy).mean()
