# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Fast residuals against the paper's notation, written out."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from anomalib_inctrl.models.components.residuals import image_residual, patch_residual, text_score, unit


def slow_patch_residual(query, prompts, scale):
    batch, layers, patches, _ = query.shape
    result = torch.zeros(batch, patches, dtype=query.dtype)
    for b in range(batch):
        own = prompts if prompts.ndim == 4 else prompts[b]
        for p in range(patches):
            for layer in range(layers):
                best = max(
                    float(torch.cosine_similarity(query[b, layer, p], own[k, layer, q], dim=0))
                    for k in range(len(own))
                    for q in range(patches)
                )
                result[b, p] += scale * (1 - best) / layers
    return result


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(1, 4),
    st.integers(1, 5),
    st.booleans(),
    st.integers(0, 99),
)
def test_patch_residual_is_the_papers(batch, k_shot, layers, patches, width, shared, seed):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(batch, layers, patches, width, generator=generator, dtype=torch.float64)
    shape = (k_shot, layers, patches, width) if shared else (batch, k_shot, layers, patches, width)
    prompts = torch.randn(shape, generator=generator, dtype=torch.float64)
    assert_close(patch_residual(query, prompts), slow_patch_residual(query, prompts, 0.5), atol=1e-12, rtol=0)
    assert_close(patch_residual(query, prompts, "full"), slow_patch_residual(query, prompts, 1.0), atol=1e-12, rtol=0)


def test_patch_residual_of_a_prompt_is_zero_and_duplicates_change_nothing():
    query, others = torch.randn(2, 3, 9, 8), torch.randn(4, 3, 9, 8)
    assert patch_residual(query[:1], torch.cat([others, query[:1]])).abs().max() < 1e-6
    once = patch_residual(query, others)
    assert_close(patch_residual(query, torch.cat([others, others])), once, atol=1e-6, rtol=0)
    assert_close(patch_residual(query, others[[2, 0, 3, 1]]), once, atol=1e-6, rtol=0)
    # More prompts can only bring a query closer.
    assert (patch_residual(query, others[:2]) >= once - 1e-6).all()


def test_zero_vectors_are_no_nan():
    zero = torch.zeros(1, 1, 4, 8)
    assert_close(patch_residual(zero, torch.randn(2, 1, 4, 8)), torch.full((1, 4), 0.5))
    assert text_score(torch.zeros(1, 8), torch.randn(2, 8)).item() == pytest.approx(0.5)
    assert unit(zero).isfinite().all()


def test_patch_residual_range():
    ones = torch.ones(1, 1, 1, 4)
    assert patch_residual(ones, -ones).item() == pytest.approx(1.0)
    assert patch_residual(ones, -ones, "full").item() == pytest.approx(2.0)


def test_image_residual_operations():
    query, prompts = torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 6.0], [8.0, 10.0]])
    assert image_residual(query, prompts).tolist() == [[5.0, 6.0]]
    assert image_residual(query, prompts, "average").tolist() == [[3.5, 5.0]]
    assert image_residual(query, prompts, "concat").tolist() == [[6.0, 8.0, 1.0, 2.0]]
    assert image_residual(query, prompts.unsqueeze(0)).tolist() == [[5.0, 6.0]]


def test_text_score_is_a_softmax_of_cosines():
    query, prototypes = torch.randn(3, 6), torch.randn(2, 6)
    for row, score in zip(query, text_score(query, prototypes), strict=True):
        normal, abnormal = (100 * float(torch.cosine_similarity(row, prototype, dim=0)) for prototype in prototypes)
        assert float(score) == pytest.approx(1 / (1 + math.exp(normal - abnormal)), abs=1e-5)
    per_query = text_score(query, prototypes.expand(3, 2, 6))
    assert_close(per_query, text_score(query, prototypes))
