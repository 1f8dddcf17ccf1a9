# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Residuals against slow loops in the paper's notation, and the learned metric that they can be taken in."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.testing import assert_close

from anomalib_inctrl import InCTRLModel, InCTRLv2Model
from anomalib_inctrl.models.components.patch_metric import PatchMetric
from anomalib_inctrl.models.components.residuals import (
    image_residual,
    nearest_prompt_similarity,
    patch_residual,
    residual_of,
    text_score,
    unit,
)

CLOSE = {"atol": 1e-5, "rtol": 0}


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 2), st.integers(1, 6), st.integers(1, 7)),
    k_shot=st.integers(1, 20),
    shared=st.booleans(),
    block_bytes=st.sampled_from([1, 100, 700, 5000, 10**6]),
    seed=st.integers(0, 99),
)
def test_patch_residual_equals_the_formula_whatever_the_memory(sizes, k_shot, shared, block_bytes, seed):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(sizes, generator=generator, dtype=torch.float64) * 10
    query[0, 0, 0] = 0  # a zero vector has cosine 0 with all
    shape = (k_shot, *sizes[1:]) if shared else (sizes[0], k_shot, *sizes[1:])
    prompts = torch.randn(shape, generator=generator, dtype=torch.float64)
    nearest = torch.zeros(sizes[:3], dtype=torch.float64)
    for b, layer, p in itertools.product(*map(range, sizes[:3])):
        own = (prompts if shared else prompts[b])[:, layer].flatten(0, 1)
        nearest[b, layer, p] = F.cosine_similarity(query[b, layer, p], own, dim=-1).max()
    exact = {"atol": 1e-12, "rtol": 0}
    assert_close(nearest_prompt_similarity(query, unit(prompts), block_bytes), nearest, **exact)
    assert_close(patch_residual(query, prompts), (1 - nearest).mean(dim=1) / 2, **exact)
    assert_close(patch_residual(query, prompts, "full"), (1 - nearest).mean(dim=1), **exact)


@pytest.mark.parametrize("shared", [True, False])
def test_memory_stays_within_the_budget_and_does_not_grow_with_prompts(monkeypatch, shared):
    sizes = []
    original = torch.Tensor.__matmul__

    def matmul(rows, columns):
        sizes.append(rows.shape[:-1].numel() * columns.shape[-1])
        return original(rows, columns)

    monkeypatch.setattr(torch.Tensor, "__matmul__", matmul)
    largest = []
    for k_shot in (8, 16, 64):
        sizes.clear()
        prompts = torch.randn(k_shot, 1, 9, 4) if shared else torch.randn(6, k_shot, 1, 9, 4)
        nearest_prompt_similarity(torch.randn(6, 1, 9, 4), prompts, block_bytes=4 * 2000)
        assert sum(sizes) == 6 * 9 * k_shot * 9
        largest.append(max(sizes))
    assert largest[0] <= 2000
    assert largest == largest[:1] * 3


def test_image_residual_operations():
    query, prompts = torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 6.0], [8.0, 10.0]])
    assert image_residual(query, prompts).tolist() == [[5.0, 6.0]]
    assert image_residual(query, prompts, "average").tolist() == [[3.5, 5.0]]
    assert image_residual(query, prompts, "concat").tolist() == [[6.0, 8.0, 1.0, 2.0]]
    assert image_residual(query, prompts.unsqueeze(0)).tolist() == [[5.0, 6.0]]


def test_text_score_equals_the_formula():
    query, prototypes = torch.randn(3, 6), torch.randn(2, 6)
    query[2] = 0
    for row, score in zip(query, text_score(query, prototypes), strict=True):
        normal, abnormal = (100 * float(torch.cosine_similarity(row, prototype, dim=0)) for prototype in prototypes)
        assert float(score) == pytest.approx(1 / (1 + math.exp(normal - abnormal)), abs=1e-5)
    assert_close(text_score(query, prototypes.expand(3, 2, 6)), text_score(query, prototypes))


# ---------------------------------------------------------------------- the learned metric


@pytest.fixture(params=[InCTRLModel, InCTRLv2Model])
def model(request, small):
    return small(request.param, patch_metric="learned")


@pytest.mark.parametrize("k_shot", [1, 3])
def test_before_training_it_is_the_cosine_and_after_it_agrees_with_loops(model, images, k_shot):
    model.set_prompts(images[:k_shot], "object")
    query, context = model.backbone.encode_image(images), model.bank.select()
    plain = nearest_prompt_similarity(query.patches, context.patches)
    assert_close(model.score_components(images).patch_map, residual_of(plain), **CLOSE)
    torch.nn.init.normal_(model.patch_metric.weight, std=0.2)
    expected = torch.full_like(plain, -2)
    for block in range(plain.shape[1]):
        matrix = torch.eye(query.patches.shape[-1]) + model.patch_metric.weight[block]
        for prompt in context.patches[:, block].flatten(0, 1):
            cosine = F.cosine_similarity(query.patches[:, block] @ matrix, prompt @ matrix, dim=-1)
            expected[:, block] = torch.maximum(expected[:, block], cosine)
    found = model.score_components(images)
    assert_close(found.patch_map, residual_of(expected), **CLOSE)
    assert not torch.allclose(found.patch_map, residual_of(plain), atol=1e-3)
    assert found.patch_map[:k_shot].max() < 1e-5  # a prompt shows the same, whatever the metric
    model.heads_trained = False  # the training-free baseline
    assert_close(model.score_components(images).patch_map, residual_of(plain), **CLOSE)


def test_the_loss_is_the_cross_entropy_of_patches_that_a_defect_covers_or_leaves():
    metric, similarity = PatchMetric(4, 2), torch.rand(3, 2, 4)
    mask = torch.zeros(3, 8, 8)
    mask[1, :4, :4], mask[2, 0, 4] = 1, 1  # covers a patch, touches another
    logits = 3 * residual_of(similarity).log() + 6
    truth = torch.zeros(3, 4)
    truth[1, 0] = 1
    each = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    each[2, 1] = 0
    label = torch.tensor([0, 1, 1])
    assert_close(metric.loss(similarity, label, mask, (2, 2)), each.mean(), **CLOSE)
    by_image = F.binary_cross_entropy_with_logits(logits.amax(dim=-1), label.float())
    assert_close(metric.loss(similarity, label, None, (2, 2)), by_image, **CLOSE)


def test_no_other_loss_trains_it(model, pairs):
    query, context = pairs(model.train(), 4)
    losses, known = model.metric_losses(query, context, torch.tensor([0, 1, 0, 1]))
    assert list(losses) == ["metric_loss"]
    model.score_features(query, known).score.sum().backward()
    assert model.patch_metric.weight.grad is None
    losses["metric_loss"].backward()
    assert model.patch_metric.weight.grad is not None
