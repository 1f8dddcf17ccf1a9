# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Scores and maps of both models against the papers' formulas, every part switched off in turn; learned fusion."""

import itertools

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F
from torch.testing import assert_close

from anomalib_inctrl import InCTRLModel, InCTRLv2Model
from anomalib_inctrl.models.components.branches import SemanticBranch
from anomalib_inctrl.models.components.fusion import ScoreFusion
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
FURTHER = [{"residual_scale": "full"}, {"patch_pooling": 4}]
BRANCHES = [{"use_dasl": dasl, "use_oasl": oasl} for dasl, oasl in ((True, False), (False, True), (False, False))]


def parts(model, query, context):
    """M_x, and s_q and s_I where they are in use."""
    by_text = text_score(query.embedding, context.prototypes) if model.use_text else None
    by_image = model.image_scorer(query.embedding, context.embeddings) if model.image_scorer else None
    return patch_residual(query.patches, context.patches, model.residual_scale), by_text, by_image


def pooled(model, anomaly_map):
    """Mean of the largest patches, of one by default."""
    count = 1 if model.patch_pooling == "max" else model.patch_pooling
    return anomaly_map.sort(descending=True).values[:, :count].mean(dim=1)


def mean(*values):
    """Mean of the values that are in use."""
    used = [value for value in values if value is not None]
    return sum(used) / len(used) if used else None


@pytest.mark.parametrize("options", [*SWITCHES, *FURTHER], ids=str)
def test_inctrl_equals_the_formula(small, pairs, options):
    model = small(**options)
    query, context = pairs(model)
    found = model.score_features(query, context)
    residual, *scores = parts(model, query, context)
    holistic = residual if model.use_patch else torch.zeros_like(residual)
    head = model.map_head(holistic + sum(score[:, None] for score in scores if score is not None))
    assert_close(found.head_score, head)
    assert_close(found.score, mean(head, pooled(model, residual) if model.use_patch else None))
    assert_close(found.anomaly_map, patch_residual(query.patches, context.patches))


@pytest.mark.parametrize("options", [*OPTIONS, *SWITCHES, *FURTHER, *BRANCHES], ids=str)
def test_inctrl_v2_equals_the_formula(small, pairs, options):
    model = small(InCTRLv2Model, **options)
    query, context = pairs(model)
    found = model.score_features(query, context)
    residual, by_text, by_image = parts(model, query, context)
    branches = (model.dasl_branch, model.oasl_branch)
    maps = [None if branch is None else branch(query.patches, context.prototypes) for branch in branches]
    half = patch_residual(query.patches, context.patches) if model.use_patch else None
    dasl, oasl = (mean(half, branch_map) for branch_map in maps)
    fused = dasl if maps[1] is None else (1 - model.beta) * dasl + model.beta * oasl
    assert_close(found.anomaly_map, fused)
    largest = pooled(model, {"residual": residual, "dasl": dasl, "fused": fused}[model.score_map])
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


# ---------------------------------------------------------------------- learned fusion

NAMES = ("text_score", "patch_score", "image_score")


@pytest.fixture
def examples():
    """Components and labels of 400 queries: the second separates best, the third spreads most and separates least."""
    generator = torch.Generator().manual_seed(0)
    label = (torch.arange(400) % 2).float()
    noise = torch.randn(400, 3, generator=generator)
    logits = label[:, None] * torch.tensor([1.0, 3.0, 0.5]) + noise * torch.tensor([1.0, 1.0, 4.0])
    return torch.sigmoid(logits), label


def fitted(kind, components, label):
    fusion = ScoreFusion(kind, NAMES[: components.shape[1]])
    fusion.fit(components, label)
    return fusion


def test_logistic_weights_equal_scikit_learns(examples):
    components, label = examples
    fusion = fitted("logistic", components, label)
    inputs = components.double().logit(1e-6)
    inputs = ((inputs - inputs.mean(dim=0)) / inputs.std(dim=0)).numpy()
    reference = LogisticRegression(tol=1e-10, max_iter=1000).fit(inputs, label.numpy())
    assert fusion.weight.tolist() == pytest.approx(reference.coef_[0].tolist(), abs=1e-4)
    assert fusion(components).tolist() == pytest.approx(reference.predict_proba(inputs)[:, 1].tolist(), abs=1e-4)


def test_standardized_is_the_mean_of_the_standardized_components(examples):
    components, label = examples
    expected = ((components - components.mean(dim=0)) / components.std(dim=0)).mean(dim=1).sigmoid()
    assert_close(fitted("standardized", components, label)(components), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["standardized", "logistic"])
def test_scores_rise_with_every_component_and_stay_between_0_and_1(kind, examples):
    components, label = examples
    components[:, 0] = 0.5  # a constant is no error
    components[:, 2] = 1 - components[:, 1]  # speaks for the wrong label
    fusion = fitted(kind, components, label)
    base = torch.rand(50, 3, generator=torch.Generator().manual_seed(1))
    for index in range(3):
        higher = base.clone()
        higher[:, index] = 1
        assert (fusion(higher) >= fusion(base)).all()
    for scores in (fusion(components), fusion(torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))):
        assert ((scores >= 0) & (scores <= 1)).all()


def test_a_fitted_fusion_is_restored_from_its_state(examples):
    restored = ScoreFusion("logistic", NAMES)
    restored.load_state_dict(ScoreFusion("logistic", NAMES).state_dict())
    assert not restored.fitted
    fusion = fitted("logistic", *examples)
    restored.load_state_dict(fusion.state_dict())
    assert restored.fitted
    assert torch.equal(restored(examples[0]), fusion(examples[0]))


@pytest.mark.parametrize("kind", [InCTRLModel, InCTRLv2Model])
@pytest.mark.parametrize("use_text", [True, False])
def test_the_models_score_by_the_fusion_once_it_is_fitted(small, images, kind, use_text):
    model = small(kind, fusion="logistic", use_text=use_text)
    model.set_prompts(images[:2], "object")
    paper = model.score_components(images)
    assert_close(paper.score, model.score_features(model.backbone.encode_image(images), model.bank.select()).score)
    names = model.fusion.names
    assert set(names) == {*NAMES[not use_text :], *(["head_score"] if kind is InCTRLModel else [])}
    model.fusion.fit(torch.rand(20, len(names)), torch.arange(20) % 2)
    fused = model.score_components(images)
    assert torch.equal(fused.score, model.fusion(paper.stack(names)))
    assert torch.equal(fused.patch_map, paper.patch_map)
    assert not torch.equal(fused.score, paper.score)
