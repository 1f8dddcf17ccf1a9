# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""A learned metric of patch tokens, in which queries are compared with their prompts; *ours*."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_inctrl.models.components.residuals import residual_of

PatchMetricKind = Literal["cosine", "learned"]

_LEAST = 1e-4  # keeps logarithms of residuals finite
_TOUCHED = 0.15  # patches of which a defect covers less are neither normal nor abnormal


class PatchMetric(nn.Module):
    r"""A linear map of the patch tokens of each block, the identity before training; the cosine is taken behind it.

    .. math:: u_l(x) = (I + W_l)\, x

    The same map is applied to queries and prompts: a patch that a prompt shows has no residual whatever is learned.
    Learned is which directions differences matter in, which is common to products that look nothing alike.

    Args:
        width: Width of the patch tokens ``D_v``.
        num_blocks: Number of blocks ``L``.
    """

    def __init__(self, width: int, num_blocks: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_blocks, width, width))
        # Logit of a residual r in the loss: 3 log r + 6 before training, 0 at r = 0.14.
        self.log_slope = nn.Parameter(torch.tensor(3.0).log())
        self.offset = nn.Parameter(torch.tensor(6.0))

    def forward(self, patches: Tensor) -> Tensor:
        """Map patch tokens.

        Args:
            patches: ``(..., L, P, D_v)``.

        Returns:
            ``(..., L, P, D_v)``.
        """
        return patches + patches @ self.weight

    def loss(self, similarity: Tensor, label: Tensor, mask: Tensor | None, grid: tuple[int, int]) -> Tensor:
        """Binary cross-entropy of each patch's residual, or of each image's largest where no mask is given.

        Args:
            similarity: Cosines with the nearest prompt patch, behind the map ``(B, L, P)``.
            label: ``(B,)``, 1 for abnormal; looked at without masks only.
            mask: Truth ``(B, H, W)``, 0 or 1.
            grid: Rows and columns of patches.

        Returns:
            Scalar, not negative. Patches of which a defect covers less than 15 % do not count.
        """
        logits = self.log_slope.exp() * residual_of(similarity.float()).clamp_min(_LEAST).log() + self.offset
        if mask is None:
            return F.binary_cross_entropy_with_logits(logits.amax(dim=-1), label.to(logits))
        covered = F.adaptive_avg_pool2d(mask.to(logits).unsqueeze(1), grid).flatten(1)
        counts = (covered == 0) | (covered >= _TOUCHED)
        return F.binary_cross_entropy_with_logits(logits, (covered >= _TOUCHED).to(logits), counts.to(logits))
