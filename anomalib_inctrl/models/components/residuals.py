# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""In-context residuals between queries and their prompts. Pure functions, no state."""

from __future__ import annotations

from functools import reduce
from itertools import repeat
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

ResidualScale = Literal["half", "full"]
ResidualOperation = Literal["residual", "concat", "average"]

BLOCK_BYTES = 64 * 2**20
_PROMPTS_AT_ONCE = 8
_MIN_NORM = 1e-12  # as in F.normalize


def unit(features: Tensor) -> Tensor:
    """Scale feature vectors to unit length; a zero vector stays zero, with cosine 0 to all.

    Args:
        features: Vectors along the last axis ``(..., D)``.

    Returns:
        Unit vectors ``(..., D)``.
    """
    return F.normalize(features, dim=-1)


def nearest_prompt_similarity(query: Tensor, prompts: Tensor, block_bytes: int = BLOCK_BYTES) -> Tensor:
    """Cosine of every query patch with its nearest prompt patch of the same block, over all shots and places.

    The matrix of all cosines would be the largest tensor of the whole model. It is never computed at once: prompts are
    taken eight at a time and queries as many as ``block_bytes`` allow, so memory does not grow with K beyond eight.

    Args:
        query: Patch tokens of the queries ``(B, L, P, D_v)``, of any length; a zero vector has cosine 0 with all.
        prompts: Unit patch tokens of the prompts, ``(K, L, P, D_v)`` shared by all queries or ``(B, K, L, P, D_v)``.
        block_bytes: Memory for cosines at a time. Nothing else depends on it.

    Returns:
        ``(B, L, P)`` in [-1, 1].
    """
    batch, blocks, patches, _ = query.shape
    shared = prompts.ndim == 4
    nearest = []
    for block in range(blocks):
        rows = query[:, block].flatten(0, 1) if shared else query[:, block]
        pool = prompts[..., block, :, :].flatten(-3, -2)  # (K * P, D_v) or (B, K * P, D_v)
        products = _largest_product(rows, pool, _PROMPTS_AT_ONCE * patches, block_bytes)
        # Dividing the largest product by the query's norm avoids a normalised copy of the query.
        norm = torch.linalg.vector_norm(rows, dim=-1, dtype=torch.promote_types(rows.dtype, torch.float32))
        nearest.append((products / norm.clamp_min(_MIN_NORM)).reshape(batch, patches))
    return torch.stack(nearest, dim=1)


def _largest_product(rows: Tensor, pool: Tensor, columns: int, block_bytes: int) -> Tensor:
    """Largest product of every row ``(R, D)`` or ``(B, R, D)`` with a pool ``(C, D)`` or ``(B, C, D)``."""
    if torch.compiler.is_compiling():
        # An exported graph takes any number of queries and of prompts, so neither can be split there.
        return (rows @ pool.transpose(-1, -2)).amax(dim=-1)
    row_bytes = rows[:1].numel() // rows.shape[-1] * min(columns, pool.shape[-2]) * rows.element_size()
    step = max(1, block_bytes // row_bytes)
    pools = repeat(pool) if pool.ndim == 2 else pool.split(step)
    return torch.cat(
        [
            reduce(torch.maximum, [(some @ part.transpose(-1, -2)).amax(dim=-1) for part in own.split(columns, dim=-2)])
            for some, own in zip(rows.split(step), pools, strict=False)
        ]
    )


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
    return residual_of(nearest_prompt_similarity(query, unit(prompts)), scale)


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
    # The temperature magnifies rounding a hundredfold, so this product is not left to autocast.
    with torch.autocast(query.device.type, enabled=False):
        cosines = (unit(prototypes.float()) @ unit(query.float()).unsqueeze(-1)).squeeze(-1)
        return (cosines / temperature).softmax(dim=-1)[:, 1]
