# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Patch tokens and embeddings against hooks on the libraries' own models, and what models compute from them."""

import json

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from torch.testing import assert_close

from anomalib_inctrl import InCTRLv2Model
from anomalib_inctrl.backbones import OpenCLIPBackbone, backbone_preprocessing, create_backbone
from anomalib_inctrl.errors import BackboneError
from tests.backbones.clip import SMALL_TEXT, make_clip

CLOSE = {"atol": 1e-5, "rtol": 0}
# Number of class, distillation and register tokens.
TIMM = {
    "timm/test_vit": 1,
    "timm/test_vit_relpos": 0,
    "timm/deit_tiny_distilled_patch16_224": 2,
    "timm/vit_small_patch16_dinov3.lvd1689m": 5,
}


def check_features(backbone, blocks, forward, images, tokens_first=False):
    """Compare features with the outputs of blocks, one run each, and with the library's own result."""
    found, outputs = backbone.encode_image(images), []
    for number in backbone.blocks:
        handle = blocks[number - 1].register_forward_hook(lambda *call: outputs.append(call[-1]))
        forward(images)
        handle.remove()
    expected = torch.stack(outputs, dim=1)
    expected = expected.transpose(0, 2) if tokens_first else expected
    assert_close(found.patches, expected[:, :, expected.shape[2] - backbone.num_patches :], **CLOSE)
    assert_close(found.embedding, forward(images), **CLOSE)
    assert found.embedding.shape[1] == backbone.embed_dim
    return expected.shape[2] - backbone.num_patches


@pytest.mark.parametrize("name", TIMM)
@pytest.mark.parametrize("resampled", [False, True])
def test_timm(name, resampled):
    patch = create_backbone(name, None, image_size=112).patch_size if resampled else None
    backbone = create_backbone(name, None, blocks=[1, 3], image_size=5 * patch if resampled else None)
    images = torch.randn(1, 3, *backbone.image_size)
    assert check_features(backbone, backbone.network.blocks, backbone.network, images) == TIMM[name]


@pytest.mark.parametrize("vision", [{}, {"ls_init_value": 0.1}, {"patch_dropout": 0.5}])
@pytest.mark.parametrize("blocks", [(2, 3), (1, 4)])
@pytest.mark.parametrize("old", [False, True])
def test_openclip_modules_also_in_older_releases(blocks, vision, old, monkeypatch):
    if old:
        monkeypatch.delattr(open_clip.transformer.VisionTransformer, "forward_intermediates", raising=False)
    backbone = OpenCLIPBackbone(make_clip(**vision), blocks=blocks)
    tower = backbone.network.visual.transformer
    tokens_first, images = not getattr(tower, "batch_first", False), torch.randn(3, 3, 48, 48)
    check_features(backbone, tower.resblocks, backbone.network.encode_image, images, tokens_first)
    assert not any(block._forward_hooks for block in tower.resblocks)


@pytest.mark.parametrize("size", [160, 192])
@pytest.mark.parametrize("timm_name", [None, "test_vit3", "test_vit"])
def test_openclip_models_by_name_with_resampled_weights(timm_name, size, tmp_path):
    vision = {"image_size": 160, "layers": 4, "width": 32, "head_width": 8, "patch_size": 16}
    if timm_name:  # as SigLIP and as EVA02-CLIP
        pool, projection = ("map", "none") if timm_name == "test_vit3" else ("token", "linear")
        vision = {"timm_model_name": timm_name, "timm_pool": pool, "timm_proj": projection, "image_size": 160}
    config = {"embed_dim": 96 if timm_name == "test_vit3" else 16, "vision_cfg": vision, "text_cfg": SMALL_TEXT}
    name = f"tiny-{timm_name}"
    path, weights = tmp_path / f"{name}.json", tmp_path / "weights.safetensors"
    path.write_text(json.dumps(config | {"custom_text": timm_name is not None}))
    open_clip.add_model_config(path)
    native = create_backbone(name, None)
    save_file(native.network.state_dict(), weights)
    backbone = create_backbone(name, str(weights), blocks=[1, 3], image_size=size)
    assert backbone.num_patches == (size // 16) ** 2
    assert (backbone.fingerprint == native.fingerprint) == (size == 160)
    visual = backbone.network.visual
    blocks = visual.trunk.blocks if timm_name else visual.transformer.resblocks
    images = torch.randn(1, 3, size, size)
    check_features(backbone, blocks, backbone.network.encode_image, images, tokens_first=not timm_name)
    with pytest.raises(BackboneError, match=r"image_size=50: .*48 or 64"):
        create_backbone(name, None, image_size=50)


@pytest.mark.parametrize("shape", [(1, 3, 56, 56), (2, 1, 48, 48), (3, 48, 48)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(BackboneError, match=r"expected \(B, 3, 48, 48\)"):
        OpenCLIPBackbone(make_clip()).encode_image(torch.zeros(shape))


def test_preprocessing_follows_the_model_and_the_size():
    dino = backbone_preprocessing("timm/vit_small_patch14_dinov2.lvd142m", True, None)
    assert (dino.image_size, dino.mean) == (448, (0.485, 0.456, 0.406))
    assert backbone_preprocessing("ViT-B-16-plus-240", True, None).image_size == 240
    assert backbone_preprocessing("ViT-B-16-plus-240", True, 480).image_size == 480


def test_learned_prototypes_equal_the_formula_and_are_trained():
    torch.manual_seed(0)
    model = InCTRLv2Model("timm/test_vit", None, image_size=64).train()
    images = torch.randn(4, 3, 64, 64)
    components = model.score_features(*model.encode_pairs(images[:2], images.unflatten(0, (2, 2)), ["a", "b"]))
    branch, patches = model.dasl_branch, model.backbone.encode_image(images[:2]).patches
    expected = 0
    for block in range(patches.shape[1]):
        adapted = F.normalize(branch.adapters[0](patches[:, block]), dim=-1)
        logits = adapted @ F.normalize(branch.prototypes[block], dim=-1).T / branch.temperature
        expected = expected + logits.softmax(dim=-1)[..., 1]
    assert_close(components.dasl_map, expected / patches.shape[1], **CLOSE)
    (components.dasl_map.sum() + components.oasl_map.sum()).backward()
    assert all(one.prototypes.grad.abs().max() > 0 for one in (model.dasl_branch, model.oasl_branch))
    with pytest.raises(ValueError, match="prototypes='text': timm/test_vit has no text encoder"):
        InCTRLv2Model("timm/test_vit", None, prototypes="text")
    assert InCTRLv2Model("demo-vit-16-240", None, prototypes="learned").dasl_branch.prototypes is not None


@pytest.mark.parametrize("size", [80, 160, 192])
@pytest.mark.parametrize("name", ["timm/test_vit", "demo-vit-16-240"])
def test_residual_of_a_prompt_is_zero_at_every_size(name, size):
    model = InCTRLv2Model(name, None, image_size=size)
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    model.set_prompts(images[:2], "gear")
    residuals = model.score_components(images).patch_score
    assert residuals[:2].max() < 1e-5 < residuals[2]
    assert model(images).anomaly_map.shape == (3, 1, size, size)
