# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The learned metric of patch tokens: against loops, what it learns, and what does not train it."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from anomalib_inctrl.models import InCTRLModel, InCTRLv2Model
from anomalib_inctrl.models.components.patch_metric import PatchMetric
from anomalib_inctrl.models.components.residuals import nearest_prompt_similarity, residual_of, unit

CLOSE = {"atol": 1e-5, "rtol": 0}


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


@pytest.mark.parametrize("masks", [True, False])
def test_it_learns_which_directions_are_normal_variation_on_products_it_has_not_seen(masks):
    """Each product has tokens of its own; normal patches vary in the first channels, defects in the others."""
    torch.manual_seed(0)

    def products(count):
        varied = torch.zeros(count, 6, 1, 16, 32)
        varied[..., :16] = torch.randn(count, 6, 1, 16, 16) * 0.25
        varied[:, 5, 0, 5, 16:] += torch.randn(count, 16) * 0.3  # the last image is abnormal, in one patch
        tokens = unit(torch.randn(count, 1, 1, 16, 32)) + varied
        return tokens[:, 4:].flatten(0, 1), unit(tokens[:, :4]).repeat_interleave(2, dim=0)

    def similarity(query, prompts):
        return nearest_prompt_similarity(metric(query), unit(metric(prompts)))

    def separated():
        largest = residual_of(similarity(*unseen)).amax(dim=-1)
        return float((largest[1::2] > largest[::2]).float().mean())

    metric, unseen = PatchMetric(32, 1), products(100)
    before = separated()
    optimizer = torch.optim.AdamW(metric.parameters(), lr=1e-2)
    mask = torch.zeros(32, 4, 4)
    mask[1::2, 1, 1] = 1
    for _ in range(120):
        optimizer.zero_grad()
        metric.loss(similarity(*products(16)), torch.arange(32) % 2, mask if masks else None, (4, 4)).backward()
        optimizer.step()
    assert before < 0.75
    assert separated() > before + 0.15


def test_no_other_loss_trains_it(model, pairs):
    query, context = pairs(model.train(), 4)
    losses, known = model.metric_losses(query, context, torch.tensor([0, 1, 0, 1]))
    assert list(losses) == ["metric_loss"]
    model.score_features(query, known).score.sum().backward()
    assert model.patch_metric.weight.grad is None
    losses["metric_loss"].backward()
    assert model.patch_metric.weight.grad is not None
