# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""In-context residuals: what a query shows that its prompts do not. Pure functions, no state."""

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
_SHORTEST = 1e-12  # as in F.normalize


def unit(features: Tensor) -> Tensor:
    """Scale feature vectors to unit length; a zero vector stays zero (and meets everything at cosine 0).

    Args:
        features: Vectors along the last axis ``(..., D)``.

    Returns:
        Unit vectors ``(..., D)``.
    """
    return F.normalize(features, dim=-1)


def nearest_prompt_similarity(query: Tensor, prompts: Tensor, block_bytes: int = BLOCK_BYTES) -> Tensor:
    """Cosine of every query patch with its nearest prompt patch of the same block, over all shots and places.

    The matrix of all cosines would be the largest tensor of the whole model. It is never there at once: prompts are
    taken eight at a time and queries as many as ``block_bytes`` allow, fewer if memory runs out. What is held besides
    the result does not grow with K beyond eight prompts.

    Args:
        query: Patch tokens of the queries ``(B, L, P, D_v)``, of any length; a zero vector meets everything at 0.
        prompts: Unit patch tokens of the prompts, ``(K, L, P, D_v)`` shared by all queries or ``(B, K, L, P, D_v)``.
        block_bytes: Memory for cosines at a time. Nothing else depends on it.

    Returns:
        ``(B, L, P)`` in [-1, 1].
    """
    batch, layers, patches, _ = query.shape
    shared = prompts.ndim == 4
    best = []
    for layer in range(layers):
        rows = query[:, layer].flatten(0, 1) if shared else query[:, layer]
        pool = prompts[..., layer, :, :].flatten(-3, -2)  # (K * P, D_v) or (B, K * P, D_v)
        products = _largest_product(rows, pool, _PROMPTS_AT_ONCE * patches, block_bytes)
        # Dividing the largest product by the query's length leaves out a normalised copy of the query.
        length = torch.linalg.vector_norm(rows, dim=-1, dtype=torch.promote_types(rows.dtype, torch.float32))
        best.append((products / length.clamp_min(_SHORTEST)).reshape(batch, patches))
    return torch.stack(best, dim=1)


def _largest_product(rows: Tensor, pool: Tensor, columns: int, block_bytes: int) -> Tensor:
    """Largest product of every row ``(R, D)`` or ``(B, R, D)`` with a pool ``(C, D)`` or ``(B, C, D)``."""
    if torch.compiler.is_compiling():
        # The graph is to hold for any number of queries, and for any number of prompts where they are an input: only
        # prompts that it knows are cut up.
        length: object = pool.shape[-2]
        if isinstance(length, torch.SymInt):
            return torch.amax(rows @ pool.transpose(-1, -2), dim=-1)
        return _running_maximum(rows, pool, columns)
    column_bytes = rows[:1].numel() // rows.shape[-1] * min(columns, pool.shape[-2]) * rows.element_size()
    step = max(1, block_bytes // column_bytes)
    while True:
        try:
            if step >= len(rows):
                return _running_maximum(rows, pool, columns)
            pools = repeat(pool) if pool.ndim == 2 else pool.split(step)
            return torch.cat([_running_maximum(*pair, columns) for pair in zip(rows.split(step), pools, strict=False)])
        except RuntimeError as error:
            if step == 1 or not _memory_ran_out(error):
                raise
        step = max(1, min(step, len(rows)) // 4)


def _running_maximum(rows: Tensor, pool: Tensor, columns: int) -> Tensor:
    parts: list[Tensor] = [(rows @ part.transpose(-1, -2)).amax(dim=-1) for part in pool.split(columns, dim=-2)]
    return reduce(torch.maximum, parts)


def _memory_ran_out(error: RuntimeError) -> bool:
    # PyTorch raises a class of its own for accelerators only.
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)


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
