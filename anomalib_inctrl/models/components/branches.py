# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The semantic branches of InCTRLv2: patch tokens compared with text or learned prototypes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_inctrl.models.components.residuals import unit


class SemanticBranch(nn.Module):
    r"""Adapter phi_j of the patch tokens and the branch's map S_a.

    .. math::
        S_a[b, p] = \frac{1}{L} \sum_l \mathrm{softmax}\big([\langle \phi(F), F_n \rangle,
        \langle \phi(F), F_a \rangle] / \tau\big)_{\text{abnormal}}

    Without the temperature the softmax of two cosines could not leave about [0.12, 0.88] for opposite prototypes and
    [0.42, 0.58] for CLIP's, which lie close together, and nothing would train.

    Args:
        width: Width of the patch tokens ``D_v``.
        embed_dim: Width of the text prototypes ``D``.
        num_blocks: Number of blocks ``L``.
        temperature: Divides the cosines, tau.
        adapter_per_block: One adapter for each block in place of one for all.
        learned_prototypes: *Ours*: compare with a normal and an abnormal prototype learned for each block, in place of
            the text prototypes (language-free, after an idea of UniADet).
    """

    def __init__(
        self,
        width: int,
        embed_dim: int,
        num_blocks: int,
        temperature: float = 0.07,
        *,
        adapter_per_block: bool = False,
        learned_prototypes: bool = False,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.adapters = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, width // 4, bias=False),
                nn.GELU(),
                nn.Linear(width // 4, embed_dim, bias=False),
            )
            for _ in range(num_blocks if adapter_per_block else 1)
        )
        self.prototypes = nn.Parameter(unit(torch.randn(num_blocks, 2, embed_dim))) if learned_prototypes else None

    def forward(self, patches: Tensor, prototypes: Tensor) -> Tensor:
        """Map the probability of "abnormal" for each patch, given the prototypes.

        Args:
            patches: Patch tokens ``(B, L, P, D_v)``.
            prototypes: Normal and abnormal text prototypes of unit length, ``(2, D)`` shared or ``(B, 2, D)``; not used
                with learned ones.

        Returns:
            S_a ``(B, P)`` in [0, 1]; S_n is one minus it.
        """
        total = prototypes.new_zeros(())
        for block in range(patches.shape[1]):
            adapter = self.adapters[block if len(self.adapters) > 1 else 0]
            adapted = adapter(patches[:, block])
            if self.prototypes is not None:
                prototypes = unit(self.prototypes[block])
            # Under autocast the adapter works in half precision; cosines and softmax do not.
            with torch.autocast(adapted.device.type, enabled=False):
                cosines = unit(adapted.to(prototypes.dtype)) @ prototypes.transpose(-1, -2)
                total = total + F.softmax(cosines / self.temperature, dim=-1)[..., 1]
        return total / patches.shape[1]
