# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""timm's and OpenCLIP's backbones: tokens against hooks on the library's own model, sizes, weights, wrong input."""

import json

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from anomalib_inctrl import InCTRLv2Model
from anomalib_inctrl.backbones import backbone_preprocessing, create_backbone
from anomalib_inctrl.errors import BackboneError, CheckpointError, PretrainedWeightsError

CLOSE = {"atol": 1e-5, "rtol": 0}
# Number of class, distillation and register tokens.
TIMM = {
    "timm/test_vit": 1,
    "timm/test_vit_relpos": 0,
    "timm/deit_tiny_distilled_patch16_224": 2,
    "timm/vit_small_patch16_dinov3.lvd1689m": 5,
}


def hooked(blocks, forward):
    """Outputs of blocks by hooks, one run each."""
    outputs = []
    for block in blocks:
        found = []
        handle = block.register_forward_hook(lambda *call, found=found: found.append(call[-1]))
        forward()
        handle.remove()
        outputs += found
    return torch.stack(outputs, dim=1)


@pytest.mark.parametrize("name", TIMM)
@pytest.mark.parametrize("resampled", [False, True])
def test_timm_features_equal_those_of_hooks(name, resampled):
    patch = create_backbone(name, None, image_size=112).patch_size if resampled else None
    backbone = create_backbone(name, None, blocks=[1, 3], image_size=5 * patch if resampled else None)
    images = torch.randn(1, 3, *backbone.image_size)
    found = backbone.encode_image(images)
    network = backbone.network
    expected = hooked([network.blocks[0], network.blocks[2]], lambda: network(images))
    assert_close(found.patches, expected[:, :, TIMM[name] :], **CLOSE)
    assert found.patches.shape[2] == backbone.num_patches
    assert_close(found.embedding, network(images), **CLOSE)


@pytest.mark.parametrize("size", [160, 192])
@pytest.mark.parametrize("timm_name", [None, "test_vit3", "test_vit"])
def test_openclip_features_equal_those_of_hooks(timm_name, size, tmp_path):
    vision = {"image_size": 160, "layers": 4, "width": 32, "head_width": 8, "patch_size": 16}
    if timm_name:  # as SigLIP and as EVA02-CLIP
        pool, projection = ("map", "none") if timm_name == "test_vit3" else ("token", "linear")
        vision = {"timm_model_name": timm_name, "timm_pool": pool, "timm_proj": projection, "image_size": 160}
    text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    width = 96 if timm_name == "test_vit3" else 16
    config = {"embed_dim": width, "vision_cfg": vision, "text_cfg": text, "custom_text": timm_name is not None}
    name = f"tiny-{timm_name}"
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    native = create_backbone(name, None)
    save_file(native.network.state_dict(), tmp_path / "weights.safetensors")
    backbone = create_backbone(name, str(tmp_path / "weights.safetensors"), blocks=[1, 3], image_size=size)
    images = torch.randn(1, 3, size, size)
    found = backbone.encode_image(images)
    visual = backbone.network.visual
    blocks = visual.trunk.blocks if timm_name else visual.transformer.resblocks
    expected = hooked([blocks[0], blocks[2]], lambda: backbone.network.encode_image(images))
    if not timm_name:  # its blocks work on (token, batch, width)
        expected = expected.transpose(0, 2)
    assert_close(found.patches, expected[:, :, expected.shape[2] - backbone.num_patches :], **CLOSE)
    assert backbone.num_patches == (size // 16) ** 2
    assert_close(found.embedding, backbone.network.encode_image(images), **CLOSE)
    if size == 160:
        assert backbone.fingerprint == native.fingerprint
    with pytest.raises(BackboneError, match=r"image_size=50: .*48 or 64"):
        create_backbone(name, None, image_size=50)


def test_weights_files_are_loaded_strictly_and_resampled(tmp_path):
    source = create_backbone("timm/test_vit", None)
    save_file(source.network.state_dict(), tmp_path / "weights.safetensors")
    path = str(tmp_path / "weights.safetensors")
    assert create_backbone("timm/test_vit", path).fingerprint == source.fingerprint
    larger = create_backbone("timm/test_vit", path, image_size=192)
    assert larger.grid == (12, 12)
    assert torch.equal(larger.network.blocks[0].mlp.fc1.weight, source.network.blocks[0].mlp.fc1.weight)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: does not fit"):
        create_backbone("timm/test_vit2", path)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("timm/vit_smal_patch14_dinov2", {}, BackboneError, "not a model of timm.*timm/vit_small_patch14_dinov2"),
        ("timm/resnet18", {}, BackboneError, "not a vision transformer"),
        ("timm/test_vit", {"image_size": 100}, BackboneError, "image_size=100: .*96 or 112"),
        ("timm/test_vit", {"blocks": [99]}, BackboneError, r"blocks=\[99\].*1\.\."),
        ("timm/test_vit.no_such_tag", {}, PretrainedWeightsError, "'no_such_tag' is neither a file nor a pretrained"),
    ],
)
def test_wrong_names_sizes_and_blocks_are_refused(name, options, error, message):
    with pytest.raises(error, match=message):
        create_backbone(name, "tag" in name, **options)


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
        adapted = torch.nn.functional.normalize(branch.adapters[0](patches[:, block]), dim=-1)
        prototypes = torch.nn.functional.normalize(branch.prototypes[block], dim=-1)
        expected = expected + (adapted @ prototypes.T / branch.temperature).softmax(dim=-1)[..., 1]
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
