# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from anomalib_inctrl.models import InCTRLModel, InCTRLv2Model
from anomalib_inctrl.models.components.fusion import ScoreFusion

NAMES = ("text_score", "patch_score", "image_score")


@pytest.fixture
def examples():
    """Components of 400 queries: the second tells normal from abnormal best, the third spreads most and tells least."""
    generator = torch.Generator().manual_seed(0)
    label = (torch.arange(400) % 2).float()
    noise = torch.randn(400, 3, generator=generator)
    logits = label[:, None] * torch.tensor([1.0, 3.0, 0.5]) + noise * torch.tensor([1.0, 1.0, 4.0])
    return torch.sigmoid(logits), label


def test_logistic_weights_equal_scikit_learns(examples):
    components, label = examples
    fusion = ScoreFusion("logistic", NAMES)
    fusion.fit(components, label)
    inputs = components.double().logit(1e-6)
    inputs = ((inputs - inputs.mean(dim=0)) / inputs.std(dim=0)).numpy()
    reference = LogisticRegression(tol=1e-10, max_iter=1000).fit(inputs, label.numpy())
    assert fusion.weight.tolist() == pytest.approx(reference.coef_[0].tolist(), abs=1e-4)
    assert fusion(components).tolist() == pytest.approx(reference.predict_proba(inputs)[:, 1].tolist(), abs=1e-4)


def test_standardized_is_the_mean_of_the_standardized_components(examples):
    components, label = examples
    fusion = ScoreFusion("standardized", NAMES)
    fusion.fit(components, label)
    expected = ((components - components.mean(dim=0)) / components.std(dim=0)).mean(dim=1).sigmoid()
    assert torch.allclose(fusion(components), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["standardized", "logistic"])
def test_scores_rise_with_every_component_and_stay_between_0_and_1(kind, examples):
    components, label = examples
    fusion = ScoreFusion(kind, NAMES)
    # The third component speaks for the wrong label.
    fusion.fit(torch.cat([components[:, :2], 1 - components[:, 1:2]], dim=1), label)
    base = torch.rand(50, 3, generator=torch.Generator().manual_seed(1))
    for index in range(3):
        higher = base.clone()
        higher[:, index] = 1
        assert (fusion(higher) >= fusion(base)).all()
    extreme = fusion(torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))
    assert ((extreme >= 0) & (extreme <= 1)).all()


def test_a_constant_component_and_a_single_component_are_no_error(examples):
    components, label = examples
    components[:, 0] = 0.5
    fusion = ScoreFusion("logistic", NAMES)
    fusion.fit(components, label)
    assert fusion(components).isfinite().all()
    single = ScoreFusion("logistic", ("patch_score",))
    single.fit(components[:, 1:2], label)
    order = components[:, 1].argsort()
    assert (single(components[:, 1:2])[order].diff() >= 0).all()


def test_a_fitted_fusion_is_restored_from_its_state(examples):
    components, label = examples
    fusion, restored = ScoreFusion("logistic", NAMES), ScoreFusion("logistic", NAMES)
    restored.load_state_dict(fusion.state_dict())
    assert not restored.fitted
    fusion.fit(components, label)
    restored.load_state_dict(fusion.state_dict())
    assert restored.fitted
    assert torch.equal(restored(components), fusion(components))


@pytest.mark.parametrize("model_class", [InCTRLModel, InCTRLv2Model])
@pytest.mark.parametrize("use_text", [True, False])
def test_the_models_score_by_the_fusion_once_it_is_fitted(model_class, use_text):
    torch.manual_seed(0)
    model = model_class("mini-clip-16-240", None, fusion="logistic", use_text=use_text).eval()
    model.heads_trained = True
    images = torch.randn(5, 3, 240, 240)
    model.set_prompts(images[:2], "object")
    paper = model.score_components(images)
    assert torch.equal(
        paper.score, model.score_features(model.backbone.encode_image(images), model.bank.select()).score
    )
    expected = (
        ["text_score"] * use_text + ["patch_score", "image_score"] + ["head_score"] * (model_class is InCTRLModel)
    )
    assert list(model.fusion.names) == expected
    model.fusion.fit(torch.rand(20, len(expected)), torch.arange(20) % 2)
    fused = model.score_components(images)
    assert torch.equal(fused.score, model.fusion(paper.stack(expected)))
    assert torch.equal(fused.patch_map, paper.patch_map)
    assert not torch.equal(fused.score, paper.score)
