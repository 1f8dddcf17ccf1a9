# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Invariants of both models, whatever their weights."""

import copy

import open_clip
import pytest
import torch
from torch.testing import assert_close

from anomalib_inctrl import InCTRLModel, InCTRLv2Model
from anomalib_inctrl.errors import CheckpointError, PromptError
from anomalib_inctrl.models.components.score_components import ScoreComponents

CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(params=[InCTRLModel, InCTRLv2Model])
def kind(request):
    return request.param


@pytest.fixture(params=["openclip", "timm"])
def family(request):
    return request.param


@pytest.fixture
def tiny(kind, family, golden):
    """Make models with random weights, of 15 x 15 patches."""

    def make(**options):
        torch.manual_seed(0)
        if family == "openclip":
            return kind(backbone=open_clip.model.CLIP(**golden["clip"]), **options)
        return kind(backbone="timm/test_vit", pretrained=None, image_size=240, **options)

    return make


@pytest.fixture
def clip_weights(official_weights):
    return {key: value for key, value in official_weights.items() if not key.startswith(("adapter", "diff_head"))}


@pytest.fixture
def official(tiny, family, clip_weights):
    """A model whose heads count as trained; OpenCLIP's with the golden weights."""
    model = tiny()
    if family == "openclip":
        model.backbone.load_weights(clip_weights, "test")
    model.heads_trained = True
    return model


@pytest.fixture
def model(official, pool):
    official.set_prompts(pool[:4], "candle", files=["a.png", "b.png", "c.png", "d.png"])
    official.set_prompts(pool[10:12], "metal_nut")
    return official


def test_scores_do_not_depend_on_the_batch(model, pool):
    names = ["candle", "metal_nut", "candle", "candle", "metal_nut", "metal_nut", "candle", "candle"]
    queries = pool[[8, 14, 9, 4, 15, 13, 5, 6]]
    whole = model(queries, names)
    assert whole.pred_score.shape == (8,)
    assert whole.anomaly_map.shape == (8, 1, 240, 240)
    for index in range(8):
        alone = model(queries[[index]], names[index])
        assert_close(alone.pred_score[0], whole.pred_score[index], **CLOSE)
        assert_close(alone.anomaly_map[0], whole.anomaly_map[index], **CLOSE)
    order = [3, 7, 0, 5, 1, 6, 4, 2]
    shuffled = model(queries[order], [names[index] for index in order])
    assert_close(shuffled.pred_score, whole.pred_score[order], **CLOSE)
    for part in (slice(0, 3), slice(3, 8)):
        assert_close(model(queries[part], names[part]).pred_score, whole.pred_score[part], **CLOSE)


def test_scores_do_not_depend_on_order_or_duplicates_of_prompts(model, pool):
    before = model.score_components(pool[[8, 9]], "candle")
    model.set_prompts(pool[[2, 0, 3, 1]], "candle")
    after = model.score_components(pool[[8, 9]], "candle")
    assert_close(after.score, before.score, **CLOSE)
    model.set_prompts(pool[[0, 0, 1, 1, 2, 2, 3, 3]], "candle")
    doubled = model.score_components(pool[[8, 9]], "candle")
    assert_close(doubled.patch_map, before.patch_map, **CLOSE)
    assert_close(doubled.score, before.score, **CLOSE)


def test_residual_of_a_prompt_is_zero(model, pool):
    components = model.score_components(pool[[2]], "candle")
    assert components.patch_map.abs().max() < 1e-5
    model.set_prompts(pool[[2]], "candle")
    residual = model.image_scorer.adapter(model.bank.select("candle").embeddings) - model.image_scorer.adapter(
        model.backbone.encode_image(pool[[2]]).embedding
    )
    assert residual.abs().max() < 1e-5


def test_scoring_encodes_each_query_once_and_nothing_else(model, pool, monkeypatch):
    seen = []
    encode = model.backbone.encode_image
    monkeypatch.setattr(model.backbone, "encode_image", lambda images: seen.append(len(images)) or encode(images))
    monkeypatch.setattr(model.backbone.network, "encode_text", None, raising=False)
    model(pool[8:10], "candle")
    model(pool[8:11], "candle")
    assert seen == [2, 3]


def test_state_dict_holds_heads_and_prompts_but_no_backbone(model, tiny, pool):
    state = model.state_dict()
    assert not [key for key in state if ".network." in key]
    heads = sum(value.numel() * 4 for key, value in state.items() if torch.is_tensor(value) and "bank" not in key)
    assert heads < 4e6
    other = tiny()
    other.backbone = model.backbone
    other.load_state_dict(state)
    assert other.heads_trained
    assert other.bank.class_names == ["candle", "metal_nut"]
    assert other.bank.files["candle"] == ["a.png", "b.png", "c.png", "d.png"]
    assert torch.equal(other(pool[8:10], "candle").pred_score, model(pool[8:10], "candle").pred_score)


def test_state_of_another_backbone_or_other_blocks_is_refused(model, tiny, golden):
    other = tiny()
    next(other.backbone.network.parameters()).data.add_(1)
    with pytest.raises(CheckpointError, match="fingerprint"):
        other.load_state_dict(model.state_dict())
    with pytest.raises(CheckpointError, match=rf"blocks \[{', '.join(map(str, model.backbone.blocks))}\]"):
        tiny(blocks=[1, 2, 4]).load_state_dict(model.state_dict())


def test_bank_holds_unit_tokens_block_by_block(model):
    patches = model.bank.select("candle").patches
    assert_close(patches.norm(dim=-1), torch.ones(patches.shape[:-1]), **CLOSE)
    assert all(patches[:, block].is_contiguous() for block in range(patches.shape[1]))


def test_prompts_set_in_inference_mode_can_be_trained_with_and_loaded(official, pool):
    with torch.inference_mode():
        official.set_prompts(pool[:2], "candle")
    official.load_state_dict(copy.deepcopy(official.state_dict()))
    official.train()
    loss = official.score_features(
        *official.encode_pairs(pool[8:10], pool[:4].unflatten(0, (2, 2)), ["candle", "candle"])
    ).score.sum()
    loss.backward()
    official.score_features(official.backbone.encode_image(pool[8:10]), official.bank.select()).score.sum().backward()


def test_only_heads_train_and_backbone_stays_in_eval(official, tiny):
    assert not any(module.training for module in tiny().modules())
    official.train()
    trainable = {name.split(".")[0] for name, parameter in official.named_parameters() if parameter.requires_grad}
    assert "image_scorer" in trainable
    assert not trainable & {"backbone", "bank"}
    assert not any(module.training for module in official.backbone.network.modules())


def test_untrained_model_scores_by_the_training_free_baseline(tiny, pool):
    model = tiny()
    model.set_prompts(pool[:2], "candle")
    components = model.score_components(pool[8:10])
    assert not model.heads_trained
    assert components.image_score is None
    if model.backbone.has_text:
        assert_close(components.score, (components.text_score + components.patch_score) / 2)
    else:
        assert components.text_score is None
        assert_close(components.score, components.patch_score)


def test_zero_shot_score_is_the_text_score(official, pool):
    if not official.backbone.has_text:
        with pytest.raises(PromptError, match="no text encoder; give at least one normal image"):
            official.set_prompts(pool[:0], "candle")
        return
    official.set_prompts(pool[:0], "candle")
    result = official(pool[8:10])
    assert_close(result.pred_score, official.score_components(pool[8:10]).text_score)
    if official.score_components(pool[8:10]).dasl_map is None:
        assert torch.equal(result.anomaly_map.amax((-1, -2)), result.anomaly_map.amin((-1, -2)))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_patch_score_is_the_mean_of_the_largest_patches(tiny, pool, share):
    count = max(1, int(share * tiny().backbone.num_patches))
    model = tiny(patch_pooling=count)
    model.set_prompts(pool[:2], "candle")
    components = model.score_components(pool[8:12])
    for row, score in zip(components.patch_map, components.patch_score, strict=True):
        largest = sorted(row.tolist(), reverse=True)[:count]
        assert float(score) == pytest.approx(sum(largest) / len(largest), abs=1e-6)


def test_pooling_more_patches_than_there_are_is_refused(small):
    with pytest.raises(ValueError, match=r"patch_pooling=10: .* has 9 patches"):
        small(patch_pooling=10)


def test_constant_map_stays_constant_when_resized(small):
    model = small()  # 3 x 3 patches, 48 pixels: bilinear weights that are not exact
    constant = torch.rand(64, 1, generator=torch.Generator().manual_seed(0)).expand(-1, 9)
    components = ScoreComponents(constant[:, 0], constant, constant[:, 0], constant[:, 0], constant, (3, 3))
    found = model.to_inference_batch(components).anomaly_map.flatten(1)
    assert torch.equal(found, constant[:, :1].expand_as(found))


@pytest.mark.parametrize("residual", ["residual", "concat", "average"])
def test_residual_operations_train(tiny, pool, residual):
    model = tiny(residual=residual).train()
    model.score_features(
        *model.encode_pairs(pool[8:12], pool[:8].unflatten(0, (4, 2)), ["candle"] * 4)
    ).image_score.sum().backward()
    assert all(parameter.grad is not None for parameter in model.image_scorer.adapter.parameters())


def test_full_scale_stays_in_the_unit_interval(tiny, pool):
    model = tiny(residual_scale="full")
    model.set_prompts(pool[:2], "candle")
    half = tiny()
    half.set_prompts(pool[:2], "candle")
    assert_close(model.score_components(pool[8:10]).patch_map, 2 * half.score_components(pool[8:10]).patch_map, **CLOSE)
    assert_close(model(pool[8:10]).anomaly_map, half(pool[8:10]).anomaly_map, **CLOSE)
    assert model(pool[8:10]).pred_score.amax() <= 1


def test_wrong_calls_are_refused(official, pool):
    with pytest.raises(PromptError, match=r"set_prompts\(images, class_name\)"):
        official(pool[:1])
    official.set_prompts(pool[:2], "candle")
    with pytest.raises(PromptError, match=r"'cashew'.*only for.*'candle'"):
        official(pool[:1], "cashew")
    official.set_prompts(pool[:2], "metal_nut")
    with pytest.raises(PromptError, match="several classes"):
        official(pool[:1])
    with pytest.raises(PromptError, match="2 names for 3 images"):
        official(pool[:3], ["candle", "candle"])
    with pytest.raises(PromptError, match="NaN"):
        official.set_prompts(torch.full((1, 3, 240, 240), torch.nan), "candle")
    with pytest.raises(PromptError, match=r"expected prompts \(K, 3, H, W\)"):
        official.set_prompts(pool[0], "candle")


WRONG = [
    ({"residual": "subtract"}, "residual='subtract'.*'concat'"),
    ({"residual_scale": "third"}, "residual_scale='third'.*'half'"),
    ({"use_text": False, "use_patch": False, "use_image": False}, "nothing is left to score with"),
    ({"temperature_image": 0.0}, "temperature_image=0.0"),
    ({"temperature_patch": -1.0}, "temperature_patch=-1.0"),
    ({"alpha": 1.1}, "alpha=1.1"),
    ({"score_map": "none"}, "score_map='none'"),
    ({"patch_pooling": 0}, "patch_pooling=0"),
    ({"patch_pooling": "mean"}, "patch_pooling='mean'"),
    ({"prototypes": "random"}, "prototypes='random'.*'learned'"),
    ({"prompt_shifts": 0}, "prompt_shifts=0: give a whole number"),
    ({"prompt_shifts": 2.5}, "prompt_shifts=2.5"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=str)
def test_invalid_arguments_are_refused_before_the_backbone_is_built(kind, options, message):
    if options.keys() <= set(kind.argument_names()):
        with pytest.raises(ValueError, match=message):
            kind("unknown-backbone", **options)


def test_model_compiles_to_one_graph(model, pool):
    expected = model(pool[8:10], "candle")
    with torch.no_grad():
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        found = compiled(pool[8:10], "candle")
    assert_close(found.pred_score, expected.pred_score, **CLOSE)
    assert_close(found.anomaly_map, expected.anomaly_map, **CLOSE)


# A score's tolerance is larger: the text score divides cosines by 0.01.
@pytest.mark.parametrize(("dtype", "of_maps", "of_scores"), [(torch.bfloat16, 5e-3, 2e-2), (torch.float16, 1e-3, 2e-3)])
@pytest.mark.parametrize("trained", [False, True])
def test_autocast_changes_scores_no_more_than_documented(model, pool, dtype, of_maps, of_scores, trained):
    model.heads_trained = trained
    expected = model.score_components(pool[8:14], "candle")
    with torch.autocast("cpu", dtype=dtype), torch.no_grad():
        found = model.score_components(pool[8:14], "candle")
    tolerances = dict.fromkeys(("patch_score", "patch_map", "anomaly_map"), of_maps)
    for name, tolerance in (tolerances | dict.fromkeys(("score", "text_score"), of_scores)).items():
        if (value := getattr(expected, name)) is not None:
            assert_close(getattr(found, name).float(), value, atol=tolerance, rtol=0)
