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

SWITCHES = [
    {"use_text": text, "use_patch": patch, "use_image": image}
    for text, patch, image in itertools.product([True, False], repeat=3)
    if text or patch or image
]
OPTIONS = [
    {"score_map": score_map, "alpha": alpha, "beta": beta}
    for score_map in ("residual", "dasl", "fused")
    for alpha, beta in ((0.5, 0.75), (0.0, 1.0), (1.0, 0.0))
]
BRANCHES = [{"use_dasl": dasl, "use_oasl": oasl} for dasl, oasl in ((True, False), (False, True), (False, False))]


def parts(model, query, context):
    """M_x, and s_q and s_I where they are in use."""
    by_text = text_score(query.embedding, context.prototypes) if model.use_text else None
    by_image = model.image_scorer(query.embedding, context.embeddings) if model.image_scorer else None
    return patch_residual(query.patches, context.patches), by_text, by_image


def mean(*values):
    """Mean of the values that are in use."""
    used = [value for value in values if value is not None]
    return sum(used) / len(used) if used else None


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_inctrl_equals_the_formula(small, pairs, switches):
    model = small(**switches)
    query, context = pairs(model)
    found = model.score_features(query, context)
    residual, *scores = parts(model, query, context)
    holistic = residual if model.use_patch else torch.zeros_like(residual)
    head = model.map_head(holistic + sum(score[:, None] for score in scores if score is not None))
    assert_close(found.head_score, head)
    assert_close(found.score, mean(head, residual.amax(dim=1) if model.use_patch else None))
    assert_close(found.anomaly_map, residual)


@pytest.mark.parametrize("options", [*OPTIONS, *SWITCHES, *BRANCHES], ids=str)
def test_inctrl_v2_equals_the_formula(small, pairs, options):
    model = small(InCTRLv2Model, **options)
    query, context = pairs(model)
    found = model.score_features(query, context)
    residual, by_text, by_image = parts(model, query, context)
    branches = (model.dasl_branch, model.oasl_branch)
    maps = [None if branch is None else branch(query.patches, context.prototypes) for branch in branches]
    dasl, oasl = (mean(residual if model.use_patch else None, branch_map) for branch_map in maps)
    fused = dasl if maps[1] is None else (1 - model.beta) * dasl + model.beta * oasl
    assert_close(found.anomaly_map, fused)
    largest = {"residual": residual, "dasl": dasl, "fused": fused}[model.score_map].amax(dim=1)
    assert_close(found.patch_score, largest)
    semantic = mean(by_text, by_image)
    alpha = model.alpha if semantic is not None else 1
    expected = alpha * largest + (1 - alpha) * semantic if alpha < 1 else largest
    assert_close(found.score, expected if model.use_patch else semantic)


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
