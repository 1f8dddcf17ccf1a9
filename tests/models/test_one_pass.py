# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""One pass of the tower, no more work or memory than needed, and the same scores for it."""

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from anomalib_inctrl import InCTRLModel, InCTRLv2Model, residuals
from anomalib_inctrl.backbones import OpenCLIPBackbone

CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(params=[InCTRLModel, InCTRLv2Model])
def model(request, golden, official_weights, pool):
    torch.manual_seed(0)
    model = request.param(backbone=open_clip.model.CLIP(**golden["clip"]))
    heads = ("adapter", "diff_head")
    weights = {key: value for key, value in official_weights.items() if not key.startswith(heads)}
    model.backbone.load_weights(weights, "test")
    model.heads_trained = True
    model.set_prompts(pool[:4], "candle")
    return model


# ---------------------------------------------------------------------- the tower


def slow_features(clip, images, layers):
    """Every block for every token, and OpenCLIP's own result."""
    taps, handles = {}, []
    batch_first = getattr(clip.visual.transformer, "batch_first", False)
    for number, block in enumerate(clip.visual.transformer.resblocks, start=1):
        handles.append(block.register_forward_hook(lambda _, __, out, number=number: taps.update({number: out})))
    image = clip.encode_image(images)
    for handle in handles:
        handle.remove()
    patches = [taps[layer] if batch_first else taps[layer].transpose(0, 1) for layer in layers]
    return torch.stack([tap[:, 1:] for tap in patches], dim=1), image


@pytest.mark.parametrize("options", [{}, {"ls_init_value": 0.1}, {"patch_dropout": 0.5}])
@pytest.mark.parametrize("layers", [(1,), (2, 3), (1, 4), (4,)])
def test_features_are_those_of_the_whole_tower(layers, options):
    torch.manual_seed(0)
    vision = {"image_size": 48, "layers": 4, "width": 32, "head_width": 8, "patch_size": 16, **options}
    text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    backbone = OpenCLIPBackbone(open_clip.model.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text), layers=layers)
    images = torch.randn(3, 3, 48, 48)
    found = backbone.encode_image(images)
    patches, image = slow_features(backbone.network, images, layers)
    assert_close(found.patches, patches, **CLOSE)
    assert_close(found.image, image, **CLOSE)


def test_the_last_block_works_for_the_class_token_alone(model, pool):
    tokens = []
    for block in model.backbone.network.visual.transformer.resblocks:
        block.mlp.register_forward_hook(lambda _, inputs, __: tokens.append(inputs[0].shape[:2].numel()))
    model(pool[8:10], "candle")
    everything = 2 * (1 + model.backbone.num_patches)
    assert tokens == [everything] * (len(tokens) - 1) + [2]


def test_blocks_of_another_kind_are_computed_whole():
    class Other(torch.nn.Module):
        def forward(self, x, attn_mask=None):
            return x.flip(0) * 2

    torch.manual_seed(0)
    vision = {"image_size": 48, "layers": 3, "width": 32, "head_width": 8, "patch_size": 16}
    text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    clip = open_clip.model.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text)
    clip.visual.transformer.resblocks[-1] = Other()
    images = torch.randn(2, 3, 48, 48)
    assert_close(OpenCLIPBackbone(clip, layers=(1,)).encode_image(images).image, clip.encode_image(images), **CLOSE)


def test_no_attention_weights_are_kept(model, pool, monkeypatch):
    asked = []
    forward = torch.nn.MultiheadAttention.forward

    def attend(self, *args, **kwargs):
        asked.append(kwargs.get("need_weights", True))
        attended, weights = forward(self, *args, **kwargs)
        assert weights is None
        return attended, weights

    monkeypatch.setattr(torch.nn.MultiheadAttention, "forward", attend)
    model.backbone.encode_image(pool[8:9])
    assert asked == [False] * len(model.backbone.network.visual.transformer.resblocks)


# ---------------------------------------------------------------------- similarity in blocks


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 20), st.integers(1, 2), st.integers(1, 6),
    st.booleans(), st.sampled_from([1, 100, 700, 5000, 10**6]), st.integers(0, 99),
)  # fmt: skip
def test_any_block_size_gives_the_same(batch, k_shot, layers, patches, shared, block_bytes, seed):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(batch, layers, patches, 7, generator=generator, dtype=torch.float64) * 10
    query[0, 0, 0] = 0
    shape = (k_shot, layers, patches, 7) if shared else (batch, k_shot, layers, patches, 7)
    prompts = residuals.unit(torch.randn(shape, generator=generator, dtype=torch.float64))
    found = residuals.nearest_prompt_similarity(query, prompts, block_bytes)
    own = prompts.expand(batch, *shape) if shared else prompts
    expected = torch.einsum("blpd,bklqd->blpkq", residuals.unit(query), own).amax(dim=(-1, -2))
    assert_close(found, expected, atol=1e-12, rtol=0)


def count_blocks(monkeypatch, limit=float("inf"), error=None):
    """Record the sizes of the cosine matrices in elements; those beyond a limit do not fit into memory."""
    sizes = []
    original = torch.Tensor.__matmul__

    def matmul(rows, columns):
        size = rows.shape[:-1].numel() * columns.shape[-1]
        if size > limit:
            raise error
        sizes.append(size)
        return original(rows, columns)

    monkeypatch.setattr(torch.Tensor, "__matmul__", matmul)
    return sizes


@pytest.mark.parametrize("shared", [True, False])
def test_blocks_follow_the_budget_and_do_not_grow_with_prompts(monkeypatch, shared):
    sizes = count_blocks(monkeypatch)
    largest = {}
    for k_shot in (1, 8, 9, 16, 64):
        sizes.clear()
        prompts = torch.randn(k_shot, 1, 9, 4) if shared else torch.randn(6, k_shot, 1, 9, 4)
        residuals.nearest_prompt_similarity(torch.randn(6, 1, 9, 4), prompts, block_bytes=4 * 2000)
        assert sum(sizes) == 6 * 9 * k_shot * 9
        largest[k_shot] = max(sizes)
    assert max(largest.values()) <= 2000
    assert largest[8] == largest[16] == largest[64]


@pytest.mark.parametrize(
    "error", [RuntimeError("DefaultCPUAllocator: can't allocate memory"), torch.OutOfMemoryError("out of memory")]
)
def test_smaller_blocks_are_tried_when_memory_runs_out(monkeypatch, error):
    query, prompts = torch.randn(5, 2, 9, 4), residuals.unit(torch.randn(3, 2, 9, 4))
    expected = residuals.nearest_prompt_similarity(query, prompts)
    sizes = count_blocks(monkeypatch, 300, error)
    assert_close(residuals.nearest_prompt_similarity(query, prompts), expected, **CLOSE)
    assert 0 < max(sizes) <= 300
    count_blocks(monkeypatch, 1, error)
    with pytest.raises(RuntimeError, match="memory"):
        residuals.nearest_prompt_similarity(query, prompts)


def test_other_errors_are_not_taken_for_lack_of_memory(monkeypatch):
    sizes = count_blocks(monkeypatch, 300, RuntimeError("a defect"))
    with pytest.raises(RuntimeError, match="a defect"):
        residuals.nearest_prompt_similarity(torch.randn(5, 1, 9, 4), torch.randn(3, 1, 9, 4))
    assert not sizes


def test_the_bank_holds_unit_tokens_block_by_block(model):
    patches = model.bank.select("candle").patches
    assert_close(patches.norm(dim=-1), torch.ones(patches.shape[:-1]), **CLOSE)
    assert all(patches[:, layer].is_contiguous() for layer in range(patches.shape[1]))
    query = model.backbone.encode_image(torch.randn(2, 3, 240, 240)).patches
    assert all(query[:, layer].is_contiguous() for layer in range(query.shape[1]))


# ---------------------------------------------------------------------- compiled, and in half precision


def test_compiles_to_one_graph(model, pool):
    expected = model(pool[8:10], "candle")
    with torch.no_grad():
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        found = compiled(pool[8:10], "candle")
    assert_close(found.pred_score, expected.pred_score, **CLOSE)
    assert_close(found.anomaly_map, expected.anomaly_map, **CLOSE)


def test_a_compiled_graph_takes_prompts_in_blocks_too(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    query, prompts = torch.randn(2, 2, 9, 4), residuals.unit(torch.randn(20, 2, 9, 4))
    sizes = count_blocks(monkeypatch)
    found = residuals.nearest_prompt_similarity(query, prompts)
    monkeypatch.undo()
    assert max(sizes) == 2 * 9 * 8 * 9
    assert_close(found, residuals.nearest_prompt_similarity(query, prompts), **CLOSE)


# A score's tolerance is larger: the text score divides cosines by 0.01.
@pytest.mark.parametrize(("dtype", "of_maps", "of_scores"), [(torch.bfloat16, 5e-3, 2e-2), (torch.float16, 1e-3, 2e-3)])
@pytest.mark.parametrize("trained", [False, True])
def test_autocast_changes_no_more_than_documented(model, pool, dtype, of_maps, of_scores, trained):
    model.heads_trained = trained
    expected = model.score_components(pool[8:14], "candle")
    with torch.autocast("cpu", dtype=dtype), torch.no_grad():
        found = model.score_components(pool[8:14], "candle")
    tolerances = dict.fromkeys(("patch_score", "patch_map", "anomaly_map"), of_maps)
    for name, tolerance in (tolerances | dict.fromkeys(("score", "text_score"), of_scores)).items():
        assert_close(getattr(found, name).float(), getattr(expected, name), atol=tolerance, rtol=0)
