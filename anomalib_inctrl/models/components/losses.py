# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Losses on probabilities."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BinaryFocalLoss(nn.Module):
    r"""Binary focal loss on probabilities (Lin et al., ICCV 2017, eq. 5; used by InCTRL, eq. 8).

    .. math:: \mathrm{FL} = \mathrm{mean}(-\alpha (1 - p_t)^\gamma \log p_t), \quad p_t = y p + (1 - y) (1 - p)

    The pixel loss of InCTRLv2, a focal loss on the two channels ``[S_n, S_a]`` of every pixel, is the same: the
    channels sum to one, before and after bilinear resizing. kornia's and torchvision's focal losses take logits; the
    InCTRL code passes probabilities to such a loss, so that normal images never get below a loss of 0.173.

    Args:
        alpha: Weight of the whole loss.
        gamma: Exponent that reduces the weight of easy samples.
    """

    def __init__(self, alpha: float = 1.0, gamma: float = 2.0) -> None:
        super().__init__()
        self.alpha = alpha
        self.gamma = gamma

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
        # Binary cross-entropy clamps its logarithms at -100, so its gradient is finite at 0 and 1.
        with torch.autocast(probability.device.type, enabled=False):
            cross_entropy = F.binary_cross_entropy(probability, label, reduction="none")
        likelihood = probability * label + (1 - probability) * (1 - label)
        return (self.alpha * (1 - likelihood) ** self.gamma * cross_entropy).mean()


class DiceLoss(nn.Module):
    r"""Soft Dice loss of anomaly maps with a rule for empty masks (Milletari et al., 3DV 2016; used by InCTRLv2).

    .. math:: \mathrm{Dice}(S, G) = 1 - \frac{2 \sum_i S_i G_i + 1}{\sum_i S_i + \sum_i G_i + 1}

    per image, then averaged. kornia's Dice takes logits and torchmetrics' has no gradient; neither has the rule:
    against an empty mask the loss is nearly flat, its gradient falls with the square of the map's sum.
    ``"complement"`` takes it on the normal channel instead, ``Dice(1 - S, 1 - G)``, which pulls the whole map down.

    Args:
        empty_mask: ``"complement"``, or ``"literal"`` to keep the formula for empty masks.
    """

    def __init__(self, empty_mask: Literal["complement", "literal"] = "complement") -> None:
        super().__init__()
        if empty_mask not in {"complement", "literal"}:
            msg = f"empty_mask={empty_mask!r}: choose 'complement' or 'literal'."
            raise ValueError(msg)
        self.empty_mask = empty_mask

    def forward(self, anomaly_map: Tensor, mask: Tensor) -> Tensor:
        """Compute the mean loss.

        Args:
            anomaly_map: Maps ``(B, H, W)`` in [0, 1].
            mask: Truth ``(B, H, W)``, 0 or 1.

        Returns:
            Scalar in [0, 1].
        """
        probability, truth = anomaly_map.float().flatten(1), mask.float().flatten(1)
        if self.empty_mask == "complement":
            empty = (truth.sum(dim=1, keepdim=True) == 0).float()
            # One minus the value where the mask is empty, the value itself elsewhere.
            probability = empty + (1 - 2 * empty) * probability
            truth = empty + (1 - 2 * empty) * truth
        overlap = (probability * truth).sum(dim=1)
        return (1 - (2 * overlap + 1) / (probability.sum(dim=1) + truth.sum(dim=1) + 1)).mean()
