# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.testing import assert_close

from anomalib_inctrl import InCTRLModel, InCTRLv2Model
from anomalib_inctrl.models.components.fusion import ScoreFusion

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
