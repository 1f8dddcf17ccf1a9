# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Scores and maps of both models against the papers' formulas, with every part switched off in turn."""

import itertools

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from anomalib_inctrl import InCTRLv2Model
from anomalib_inctrl.models.components.branches import SemanticBranch
from anomalib_inctrl.models.components.residuals import patch_residual, text_score, unit

COMPONENTS = [set(used) for size in (1, 2, 3) for used in itertools.combinations(("text", "patch", "image"), size)]


def switches(used):
    return {f"use_{name}": name in used for name in ("text", "patch", "image")}


def parts(model, query, context):
    """M_x, s_q and s_I of the papers."""
    residual = patch_residual(query.patches, context.patches)
    image_score = model.image_scorer(query.embedding, context.embeddings) if model.image_scorer else None
    return residual, text_score(query.embedding, context.prototypes), image_score


@pytest.mark.parametrize("used", COMPONENTS, ids=str)
def test_inctrl_equals_the_formula(small, pairs, used):
    model = small(**switches(used))
    query, context = pairs(model)
    components = model.score_features(query, context)
    residual, by_text, by_image = parts(model, query, context)
    holistic = torch.zeros(3, 9)
    if "patch" in used:
        holistic = holistic + residual
    if "text" in used:
        holistic = holistic + by_text[:, None]
    if "image" in used:
        holistic = holistic + by_image[:, None]
    head = model.map_head(holistic)
    assert_close(components.head_score, head)
    assert_close(components.score, (head + residual.amax(dim=1)) / 2 if "patch" in used else head)
    assert_close(components.anomaly_map, residual)


@pytest.mark.parametrize("score_map", ["residual", "dasl", "fused"])
@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.75), (0.0, 1.0), (1.0, 0.0)])
def test_inctrl_v2_equals_the_formula(small, pairs, score_map, alpha, beta):
    model = small(InCTRLv2Model, score_map=score_map, alpha=alpha, beta=beta)
    query, context = pairs(model)
    components = model.score_features(query, context)
    residual, by_text, by_image = parts(model, query, context)
    dasl = (residual + model.dasl_branch(query.patches, context.prototypes)) / 2
    oasl = (residual + model.oasl_branch(query.patches, context.prototypes)) / 2
    fused = (1 - beta) * dasl + beta * oasl
    assert_close(components.anomaly_map, fused)
    largest = {"residual": residual, "dasl": dasl, "fused": fused}[score_map].amax(dim=1)
    assert_close(components.patch_score, largest)
    assert_close(components.score, (1 - alpha) * (by_image + by_text) / 2 + alpha * largest)


@pytest.mark.parametrize("used", COMPONENTS, ids=str)
def test_inctrl_v2_scores_by_the_components_in_use(small, pairs, used):
    model = small(InCTRLv2Model, **switches(used))
    query, context = pairs(model)
    residual, by_text, by_image = parts(model, query, context)
    semantic = [score for name, score in (("text", by_text), ("image", by_image)) if name in used]
    means = [torch.stack(semantic).mean(dim=0)] if semantic else []
    if "patch" in used:
        means.append(residual.amax(dim=1))
    assert_close(model.score_features(query, context).score, torch.stack(means).mean(dim=0))


@pytest.mark.parametrize(("use_dasl", "use_oasl"), [(True, False), (False, True), (False, False)])
def test_inctrl_v2_maps_by_the_branches_in_use(small, pairs, use_dasl, use_oasl):
    model = small(InCTRLv2Model, use_dasl=use_dasl, use_oasl=use_oasl)
    components = model.score_features(*pairs(model))
    residual = expected = components.patch_map
    assert (components.dasl_map is not None, components.oasl_map is not None) == (use_dasl, use_oasl)
    if use_dasl:
        expected = (residual + components.dasl_map) / 2
    if use_oasl:
        expected = 0.25 * residual + 0.75 * (residual + components.oasl_map) / 2
    assert_close(components.anomaly_map, expected)


def test_zero_shot_map_is_that_of_the_discriminative_branch(small, pairs):
    model = small(InCTRLv2Model)
    query, context = pairs(model, k_shot=0)
    components = model.score_features(query, context)
    assert_close(components.anomaly_map, model.dasl_branch(query.patches, context.prototypes))
    assert_close(components.score, components.text_score)


@pytest.mark.parametrize("per_block", [False, True])
@pytest.mark.parametrize("learned", [False, True])
def test_branch_map_equals_the_formula(per_block, learned):
    torch.manual_seed(0)
    branch = SemanticBranch(8, 6, 3, 0.2, adapter_per_block=per_block, learned_prototypes=learned).double()
    patches, text = torch.randn(2, 3, 5, 8).double(), unit(torch.randn(2, 2, 6).double())
    expected = torch.zeros(2, 5).double()
    for b, p, layer in itertools.product(range(2), range(5), range(3)):
        first, _, second = branch.adapters[layer if per_block else 0]
        adapted = unit(second.weight @ F.gelu(first.weight @ patches[b, layer, p]))
        prototypes = unit(branch.prototypes[layer]) if learned else text[b]
        normal, abnormal = ((adapted @ prototype / 0.2).exp() for prototype in prototypes)
        expected[b, p] += abnormal / (normal + abnormal) / 3
    assert_close(branch(patches, text), expected)
    assert_close(branch(patches[:1], text[0]), expected[:1])
