# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""OpenCLIP backbones: features against hooks on the library's own model, weights by tag or file, wrong input."""

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from anomalib_inctrl.backbones import OpenCLIPBackbone
from anomalib_inctrl.errors import BackboneError, CheckpointError, PretrainedWeightsError

CLOSE = {"atol": 1e-5, "rtol": 0}
NAME = "demo-vit-16-240"


def make_clip(**vision):
    torch.manual_seed(0)
    vision = {"image_size": 48, "layers": 4, "width": 32, "head_width": 8, "patch_size": 16, **vision}
    text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    return open_clip.model.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text)


def slow_features(clip, images, blocks):
    """Patch tokens by hooks, one block and one image at a time, and OpenCLIP's own result."""
    batch_first = getattr(clip.visual.transformer, "batch_first", False)
    patches = []
    for image in images:
        for number in blocks:
            outputs = []
            block = clip.visual.transformer.resblocks[number - 1]
            handle = block.register_forward_hook(lambda *call, outputs=outputs: outputs.append(call[-1]))
            clip.encode_image(image[None])
            handle.remove()
            patches.append(outputs[0][0, 1:] if batch_first else outputs[0][1:, 0])
    return torch.stack(patches).unflatten(0, (len(images), len(blocks))), clip.encode_image(images)


@pytest.mark.parametrize("vision", [{}, {"ls_init_value": 0.1}, {"patch_dropout": 0.5}])
@pytest.mark.parametrize("blocks", [(2, 3), (1, 4)])
def test_features_equal_those_of_hooks_and_of_older_openclip_releases(blocks, vision, monkeypatch):
    backbone = OpenCLIPBackbone(make_clip(**vision), blocks=blocks)
    images = torch.randn(3, 3, 48, 48)
    patches, embedding = slow_features(backbone.network, images, blocks)
    found = [backbone.encode_image(images)]
    monkeypatch.delattr(open_clip.transformer.VisionTransformer, "forward_intermediates", raising=False)
    found.append(backbone.encode_image(images))
    for features in found:
        assert_close(features.patches, patches, **CLOSE)
        assert_close(features.embedding, embedding, **CLOSE)
    assert not any(block._forward_hooks for block in backbone.network.visual.transformer.resblocks)


@pytest.mark.parametrize(
    ("model", "blocks", "message"),
    [
        ("ViT-X-99", None, "not a model of OpenCLIP"),
        ("ViT-B/32", None, "Near names: ViT-B-32"),
        ("RN50", None, "not a vision transformer"),
        (torch.nn.Linear(2, 2), None, "has no vision transformer"),
        (make_clip(), [3, 5], r"1\.\.4"),
        (make_clip(), [], "blocks="),
        (make_clip(), [2, 2], "blocks="),
    ],
    ids=str,
)
def test_unknown_models_and_blocks_are_refused(model, blocks, message):
    with pytest.raises(BackboneError, match=message):
        OpenCLIPBackbone(model, None, blocks=blocks)


@pytest.mark.parametrize("shape", [(1, 3, 56, 56), (2, 1, 48, 48), (3, 48, 48)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(BackboneError, match=r"expected \(B, 3, 48, 48\)"):
        OpenCLIPBackbone(make_clip()).encode_image(torch.zeros(shape))


class Hostile:
    def __reduce__(self):
        return print, ("code was run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04 broken", r"weights\.pt"),
        ({"state_dict": [1]}, r"weights\.pt: holds no tensors"),
        ({"state_dict": {"x": Hostile()}}, "refused"),
        ({"visual.proj": torch.zeros(2, 2)}, "missing keys"),
    ],
)
def test_weights_files_that_do_not_fit_are_refused_by_name(tmp_path, content, message):
    path = tmp_path / "weights.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        OpenCLIPBackbone(NAME, pretrained=str(path))


def test_local_weights_files_are_loaded_strictly_and_change_the_fingerprint(tmp_path):
    source = OpenCLIPBackbone(NAME, pretrained=None)
    weights = {key: value + 0.01 for key, value in source.network.state_dict().items()}
    torch.save({"state_dict": {f"module.{key}": value for key, value in weights.items()}}, tmp_path / "weights.pt")
    save_file(weights, tmp_path / "weights.safetensors")
    prints = {source.fingerprint}
    for name in ("weights.pt", "weights.safetensors"):
        backbone = OpenCLIPBackbone(NAME, pretrained=str(tmp_path / name))
        assert torch.equal(backbone.network.visual.proj, weights["visual.proj"])
        prints.add(backbone.fingerprint)
    assert len(prints) == 2
    torch.save({key: value for key, value in weights.items() if key != "visual.proj"}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"missing keys: \['visual\.proj'\]"):
        OpenCLIPBackbone(NAME, pretrained=str(tmp_path / "weights.pt"))


@pytest.mark.parametrize("name", ["logit_scale", "positional_embedding", "visual.proj"])
def test_fingerprint_depends_on_every_weight_but_not_on_the_logit_scale(name):
    clip = make_clip()
    clip.get_parameter(name).data.view(-1)[-1] += 1e-3
    same = OpenCLIPBackbone(clip).fingerprint == OpenCLIPBackbone(make_clip()).fingerprint
    assert same == (name == "logit_scale")


def test_weights_trained_with_another_activation_are_warned_of(tmp_path, monkeypatch, caplog):
    path = tmp_path / "weights.pt"
    torch.save(OpenCLIPBackbone(NAME, pretrained=None).network.state_dict(), path)
    config = {"url": "https://a/vit-quickgelu.pt"}
    monkeypatch.setattr(open_clip.pretrained, "get_pretrained_cfg", lambda name, tag: config)
    monkeypatch.setattr(open_clip.pretrained, "download_pretrained_from_url", lambda url: str(path))
    caplog.clear()
    OpenCLIPBackbone(NAME, pretrained="quick")
    assert f"choose backbone='{NAME}-quickgelu'" in caplog.text


def test_weights_that_cannot_be_found_name_tags_cache_and_remedy(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(open_clip.pretrained, "download_pretrained_from_url", offline)
    with pytest.raises(
        PretrainedWeightsError, match=r"no route to host.*fetch laion400m_e32 \(http.*pretrained=/path/to/"
    ):
        OpenCLIPBackbone()
    with pytest.raises(PretrainedWeightsError, match=r"neither a file nor a pretrained tag.*laion400m_e32"):
        OpenCLIPBackbone("ViT-B-16-plus-240", pretrained="no-such-tag")
