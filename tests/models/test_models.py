# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Invariants of both models on backbones of both families, whatever their weights."""

import copy
import itertools
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from anomalib_inctrl import InCTRLModel, InCTRLv2Model
from anomalib_inctrl.errors import CheckpointError, PromptError
from anomalib_inctrl.models.components.residuals import unit
from anomalib_inctrl.models.components.score_components import ScoreComponents

CLOSE = {"atol": 1e-5, "rtol": 0}
FILES = ["a.png", "b.png", "c.png", "d.png"]


KINDS = itertools.product([InCTRLModel, InCTRLv2Model], ["openclip", "timm"])


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0].__name__}-{kind[1]}")
def make(request, small):
    return partial(small, *request.param)


@pytest.fixture
def model(make, images):
    model = make()
    model.set_prompts(images[:4], "candle", files=FILES)
    model.set_prompts(images[10:12], "metal_nut")
    return model


def test_scores_do_not_depend_on_the_batch(model, images):
    names = ["candle", "metal_nut", "candle", "candle", "metal_nut", "metal_nut", "candle", "candle"]
    queries = images[[8, 14, 9, 4, 15, 13, 5, 6]]
    whole = model(queries, names)
    assert whole.pred_score.shape == (8,)
    assert whole.anomaly_map.shape == (8, 1, 48, 48)
    for index in range(8):
        alone = model(queries[[index]], names[index])
        assert_close(alone.pred_score[0], whole.pred_score[index], **CLOSE)
        assert_close(alone.anomaly_map[0], whole.anomaly_map[index], **CLOSE)
    for part in ([3, 7, 0, 5, 1, 6, 4, 2], [0, 1, 2], [7, 4]):
        some = model(queries[part], [names[index] for index in part])
        assert_close(some.pred_score, whole.pred_score[part], **CLOSE)


@pytest.mark.parametrize("prompts", [[2, 0, 3, 1], [0, 0, 1, 1, 2, 2, 3, 3]], ids=["order", "duplicates"])
def test_scores_do_not_depend_on_order_or_duplicates_of_prompts(model, images, prompts):
    before = model.score_components(images[8:10], "candle")
    model.set_prompts(images[prompts], "candle")
    after = model.score_components(images[8:10], "candle")
    assert_close(after.patch_map, before.patch_map, **CLOSE)
    assert_close(after.score, before.score, **CLOSE)


def test_residual_of_a_prompt_is_zero(model, images):
    assert model.score_components(images[[2]], "candle").patch_map.abs().max() < 1e-5


def test_scoring_encodes_each_query_once_and_nothing_else(model, images, monkeypatch):
    seen = []
    encode = model.backbone.encode_image
    monkeypatch.setattr(model.backbone, "encode_image", lambda images: seen.append(len(images)) or encode(images))
    monkeypatch.setattr(model.backbone.network, "encode_text", None, raising=False)
    model(images[8:10], "candle")
    model(images[8:11], "candle")
    assert seen == [2, 3]


def test_state_dict_holds_heads_and_prompts_but_no_backbone(model, make, images):
    state = model.state_dict()
    assert not [key for key in state if ".network." in key]
    other = make()
    other.backbone = model.backbone
    other.heads_trained = False
    other.load_state_dict(state)
    assert other.heads_trained
    assert other.bank.files == {"candle": FILES, "metal_nut": []}
    assert torch.equal(other(images[8:10], "candle").pred_score, model(images[8:10], "candle").pred_score)


def test_state_of_another_backbone_or_other_blocks_is_refused(model, make):
    other = make()
    next(other.backbone.network.parameters()).data.add_(1)
    with pytest.raises(CheckpointError, match="fingerprint"):
        other.load_state_dict(model.state_dict())
    with pytest.raises(CheckpointError, match=rf"blocks \[{', '.join(map(str, model.backbone.blocks))}\]"):
        make(blocks=[1, 2]).load_state_dict(model.state_dict())


@pytest.mark.parametrize("residual", ["residual", "concat", "average"])
def test_heads_train_after_prompts_were_set_in_inference_mode(make, images, residual):
    model = make(residual=residual)
    assert not any(module.training for module in model.modules())
    with torch.inference_mode():
        model.set_prompts(images[:2], "candle")
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    model.train()
    assert not any(module.training for module in model.backbone.network.modules())
    own = model.encode_pairs(images[8:12], images[:8].unflatten(0, (4, 2)), ["candle"] * 4)
    shared = model.backbone.encode_image(images[8:10]), model.bank.select()
    for query, context in (own, shared):
        model.score_features(query, context).score.sum().backward()
    reached = {name.split(".")[0] for name, value in model.named_parameters() if value.grad is not None}
    assert reached == ({"image_scorer", "map_head"} if isinstance(model, InCTRLModel) else {"image_scorer"})


def test_untrained_model_scores_by_the_training_free_baseline(model, images):
    model.heads_trained = False
    components = model.score_components(images[8:10], "candle")
    assert components.image_score is None
    if model.backbone.has_text:
        assert_close(components.score, (components.text_score + components.patch_score) / 2)
    else:
        assert components.text_score is None
        assert_close(components.score, components.patch_score)


def test_zero_shot_score_is_the_text_score(make, images):
    model = make()
    if not model.backbone.has_text:
        with pytest.raises(PromptError, match="no text encoder; give at least one normal image"):
            model.set_prompts(images[:0], "candle")
        return
    model.set_prompts(images[:0], "candle")
    components = model.score_components(images[8:10])
    assert_close(components.score, components.text_score)
    if components.dasl_map is None:
        assert_close(components.anomaly_map, components.score[:, None].expand(2, 9))


def test_constant_map_stays_constant_when_resized(small):
    constant = torch.rand(64, 1, generator=torch.Generator().manual_seed(0)).expand(-1, 9)
    components = ScoreComponents(constant[:, 0], constant, constant[:, 0], constant[:, 0], constant, (3, 3))
    found = small().to_inference_batch(components).anomaly_map.flatten(1)
    assert torch.equal(found, constant[:, :1].expand_as(found))


def test_full_scale_stays_in_the_unit_interval(make, pairs):
    model = make(residual_scale="full")
    query, context = pairs(model)
    alike = unit(torch.ones_like(query.patches))
    opposite = replace(context, patches=-alike.unsqueeze(1))
    components = model.score_features(replace(query, patches=alike), opposite)
    assert_close(components.patch_score, torch.full((3,), 2.0))
    assert components.score.amax() <= 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, images: model(images, "cashew"), "'cashew'.*only for.*'candle'"),
        (lambda model, images: model(images), "several classes"),
        (lambda model, images: model(images[:3], ["candle", "candle"]), "2 names for 3 images"),
        (lambda model, images: model.set_prompts(images * torch.nan, "candle"), "NaN"),
        (lambda model, images: model.set_prompts(images[0], "candle"), r"expected prompts \(K, 3, H, W\)"),
        (lambda model, images: model.bank.clear() or model(images), r"set_prompts\(images, class_name\)"),
    ],
)
def test_wrong_calls_are_refused(model, images, call, message):
    with pytest.raises(PromptError, match=message):
        call(model, images)


def test_models_without_components_or_with_too_few_patches_are_refused(make):
    with pytest.raises(ValueError, match="nothing is left to score with"):
        make(use_text=False, use_patch=False, use_image=False)
    with pytest.raises(ValueError, match=r"patch_pooling=10: .* has 9 patches"):
        make(patch_pooling=10)


def test_model_compiles_to_one_graph(model, images):
    expected = model(images[8:10], "candle")
    with torch.no_grad():
        found = torch.compile(model, backend="aot_eager", fullgraph=True)(images[8:10], "candle")
    assert_close(found.pred_score, expected.pred_score, **CLOSE)
    assert_close(found.anomaly_map, expected.anomaly_map, **CLOSE)


# A score's tolerance is larger: the text score divides cosines by 0.01.
@pytest.mark.parametrize(("dtype", "of_maps", "of_scores"), [(torch.bfloat16, 5e-3, 2e-2), (torch.float16, 1e-3, 2e-3)])
@pytest.mark.parametrize("trained", [False, True])
def test_autocast_changes_scores_no_more_than_documented(model, images, dtype, of_maps, of_scores, trained):
    model.heads_trained = trained
    expected = model.score_components(images[8:14], "candle")
    with torch.autocast("cpu", dtype=dtype), torch.no_grad():
        found = model.score_components(images[8:14], "candle")
    tolerances = dict.fromkeys(("patch_score", "patch_map", "anomaly_map"), of_maps)
    for name, tolerance in (tolerances | dict.fromkeys(("score", "text_score"), of_scores)).items():
        if (value := getattr(expected, name)) is not None:
            assert_close(getattr(found, name).float(), value, atol=tolerance, rtol=0)
