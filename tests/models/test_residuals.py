# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Residuals against slow loops in the paper's notation."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from anomalib_inctrl.models.components.residuals import (
    image_residual,
    nearest_prompt_similarity,
    patch_residual,
    text_score,
    unit,
)


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
def test_patch_residual_equals_the_formula(batch, k_shot, layers, patches, width, shared, seed):
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


def test_zero_vectors_give_finite_values():
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


def test_text_score_equals_the_formula():
    query, prototypes = torch.randn(3, 6), torch.randn(2, 6)
    for row, score in zip(query, text_score(query, prototypes), strict=True):
        normal, abnormal = (100 * float(torch.cosine_similarity(row, prototype, dim=0)) for prototype in prototypes)
        assert float(score) == pytest.approx(1 / (1 + math.exp(normal - abnormal)), abs=1e-5)
    per_query = text_score(query, prototypes.expand(3, 2, 6))
    assert_close(per_query, text_score(query, prototypes))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 20), st.integers(1, 2), st.integers(1, 6),
    st.booleans(), st.sampled_from([1, 100, 700, 5000, 10**6]), st.integers(0, 99),
)  # fmt: skip
def test_similarity_does_not_depend_on_the_memory_budget(batch, k_shot, layers, patches, shared, block_bytes, seed):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(batch, layers, patches, 7, generator=generator, dtype=torch.float64) * 10
    query[0, 0, 0] = 0
    shape = (k_shot, layers, patches, 7) if shared else (batch, k_shot, layers, patches, 7)
    prompts = unit(torch.randn(shape, generator=generator, dtype=torch.float64))
    found = nearest_prompt_similarity(query, prompts, block_bytes)
    own = prompts.expand(batch, *shape) if shared else prompts
    expected = torch.einsum("blpd,bklqd->blpkq", unit(query), own).amax(dim=(-1, -2))
    assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("shared", [True, False])
def test_memory_stays_within_the_budget_and_does_not_grow_with_prompts(monkeypatch, shared):
    sizes = []
    original = torch.Tensor.__matmul__

    def matmul(rows, columns):
        sizes.append(rows.shape[:-1].numel() * columns.shape[-1])
        return original(rows, columns)

    monkeypatch.setattr(torch.Tensor, "__matmul__", matmul)
    largest = {}
    for k_shot in (1, 8, 9, 16, 64):
        sizes.clear()
        prompts = torch.randn(k_shot, 1, 9, 4) if shared else torch.randn(6, k_shot, 1, 9, 4)
        nearest_prompt_similarity(torch.randn(6, 1, 9, 4), prompts, block_bytes=4 * 2000)
        assert sum(sizes) == 6 * 9 * k_shot * 9
        largest[k_shot] = max(sizes)
    assert max(largest.values()) <= 2000
    assert largest[8] == largest[16] == largest[64]
