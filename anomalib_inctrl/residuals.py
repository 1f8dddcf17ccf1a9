# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""In-context residuals: what a query shows that its prompts do not. Pure functions, no state."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

ResidualScale = Literal["half", "full"]
ResidualOperation = Literal["residual", "concat", "average"]


def unit(features: Tensor) -> Tensor:
    """Scale feature vectors to unit length; a zero vector stays zero (and meets everything at cosine 0).

    Args:
        features: Vectors along the last axis ``(..., D)``.

    Returns:
        Unit vectors ``(..., D)``.
    """
    return F.normalize(features, dim=-1)


def nearest_prompt_similarity(query: Tensor, prompts: Tensor) -> Tensor:
    """Cosine of every query patch with its nearest prompt patch of the same block, over all shots and places.

    Args:
        query: Unit patch tokens of the queries ``(B, L, P, D_v)``.
        prompts: Unit patch tokens of the prompts, ``(K, L, P, D_v)`` shared by all queries or ``(B, K, L, P, D_v)``.

    Returns:
        ``(B, L, P)`` in [-1, 1].
    """
    batch, layers, patches, _ = query.shape
    blocks = []
    # One block at a time: the similarity matrix is the largest tensor of the whole model.
    for layer in range(layers):
        pool = prompts[..., layer, :, :].flatten(-3, -2)  # (K * P, D_v) or (B, K * P, D_v)
        rows = query[:, layer].flatten(0, 1) if prompts.ndim == 4 else query[:, layer]
        blocks.append((rows @ pool.transpose(-1, -2)).amax(dim=-1).reshape(batch, patches))
    return torch.stack(blocks, dim=1)


def patch_residual(query: Tensor, prompts: Tensor, scale: ResidualScale = "half") -> Tensor:
    r"""Patch residual map of queries against their prompts.

    .. math:: M_x[b, p] = \frac{1}{L} \sum_l \frac{1}{2} (1 - \max_{k, q} \cos(F[b, l, p], F'[b, k, l, q]))

    (InCTRL, arXiv 2403.06495, eq. 2 and 3; the factor 1/2 stands in the authors' code, not in the paper.)

    Args:
        query: Patch tokens of the queries ``(B, L, P, D_v)``, of any length.
        prompts: Patch tokens of the prompts, ``(K, L, P, D_v)`` shared by all queries or ``(B, K, L, P, D_v)``.
        scale: ``"half"`` as in the code, ``"full"`` as in the paper's equation.

    Returns:
        ``(B, P)``, in [0, 1] for ``"half"`` and [0, 2] for ``"full"``; 0 where a prompt shows the same.
    """
    return residual_of(nearest_prompt_similarity(unit(query), unit(prompts)), scale)


def residual_of(similarity: Tensor, scale: ResidualScale = "half") -> Tensor:
    """Turn similarities with the nearest prompt patch into the patch residual map; see :func:`patch_residual`.

    Args:
        similarity: Cosines of every block ``(B, L, P)``.
        scale: ``"half"`` or ``"full"``.

    Returns:
        ``(B, P)``, in [0, 1] for ``"half"`` and [0, 2] for ``"full"``.
    """
    distance = (1 - similarity).clamp(min=0).mean(dim=1)
    return distance / 2 if scale == "half" else distance


def image_residual(query: Tensor, prompts: Tensor, operation: ResidualOperation = "residual") -> Tensor:
    """Image residual: the mean adapted class embedding of the prompts minus the query's (InCTRL, eq. 5).

    Args:
        query: Adapted class embeddings of the queries ``(B, D)``.
        prompts: Adapted class embeddings of the prompts, ``(K, D)`` shared by all queries or ``(B, K, D)``.
        operation: ``"residual"``, or the paper's comparisons ``"concat"`` and ``"average"`` of the two.

    Returns:
        ``(B, D)``, for ``"concat"`` ``(B, 2 D)``.
    """
    reference = prompts.mean(dim=-2).expand_as(query)
    if operation == "concat":
        return torch.cat([reference, query], dim=-1)
    return (reference + query) / 2 if operation == "average" else reference - query


def text_score(query: Tensor, prototypes: Tensor, temperature: float = 0.01) -> Tensor:
    """Probability of "abnormal" for a class embedding given the two text prototypes (InCTRL, eq. 7).

    Args:
        query: Class embeddings ``(B, D)``, of any length.
        prototypes: Normal and abnormal text prototypes, ``(2, D)`` shared or ``(B, 2, D)``.
        temperature: Divides the cosines; 0.01 is CLIP's own.

    Returns:
        ``(B,)`` in [0, 1].
    """
    cosines = (unit(prototypes) @ unit(query).unsqueeze(-1)).squeeze(-1)
    return (cosines / temperature).softmax(dim=-1)[:, 1]
