# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Backbones by name, weights by tag or file, and their fingerprint; whatever does not fit is refused."""

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from anomalib_inctrl.backbones import OpenCLIPBackbone, create_backbone
from anomalib_inctrl.errors import BackboneError, CheckpointError, PretrainedWeightsError
from tests.backbones.clip import make_clip

NAME = "demo-vit-16-240"
PAPER = "ViT-B-16-plus-240"


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        ("ViT-X-99", {}, BackboneError, "not a model of OpenCLIP"),
        ("ViT-B/32", {}, BackboneError, "Near names: ViT-B-32"),
        ("RN50", {}, BackboneError, "not a vision transformer"),
        (torch.nn.Linear(2, 2), {}, BackboneError, "has no vision transformer"),
        (make_clip(), {"blocks": [3, 5]}, BackboneError, r"blocks=\[3, 5\].*1\.\.4"),
        (make_clip(), {"blocks": []}, BackboneError, "blocks="),
        (make_clip(), {"blocks": [2, 2]}, BackboneError, "blocks="),
        ("timm/vit_smal_patch14_dinov2", {}, BackboneError, "not a model of timm.*timm/vit_small_patch14_dinov2"),
        ("timm/resnet18", {}, BackboneError, "not a vision transformer"),
        ("timm/test_vit", {"image_size": 100}, BackboneError, "image_size=100: .*96 or 112"),
        ("timm/test_vit.no_such_tag", {"pretrained": True}, PretrainedWeightsError, "'no_such_tag' is neither a file"),
        (PAPER, {"pretrained": "no-such-tag"}, PretrainedWeightsError, "neither a file nor .*laion400m_e32"),
        ("ViT-B-32", {"pretrained": True}, PretrainedWeightsError, "backbone='ViT-B-32' has no default weights"),
    ],
    ids=str,
)
def test_unknown_names_tags_sizes_and_blocks_are_refused(model, options, error, message):
    with pytest.raises(error, match=message):
        create_backbone(model, **{"pretrained": None} | options)


def test_weights_that_cannot_be_downloaded_name_their_source_and_the_remedy(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(open_clip.pretrained, "download_pretrained_from_url", offline)
    with pytest.raises(PretrainedWeightsError, match=r"no route to host.*fetch laion400m_e32 \(http.*pretrained=/path"):
        create_backbone(PAPER)


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
        create_backbone(NAME, str(path))


def test_weights_files_are_loaded_strictly_and_change_the_fingerprint(tmp_path):
    source = create_backbone(NAME, None)
    weights = {key: value + 0.01 for key, value in source.network.state_dict().items()}
    torch.save({"state_dict": {f"module.{key}": value for key, value in weights.items()}}, tmp_path / "weights.pt")
    save_file(weights, tmp_path / "weights.safetensors")
    loaded = [create_backbone(NAME, str(tmp_path / name)) for name in ("weights.pt", "weights.safetensors")]
    assert all(torch.equal(backbone.network.visual.proj, weights["visual.proj"]) for backbone in loaded)
    assert loaded[0].fingerprint == loaded[1].fingerprint != source.fingerprint
    torch.save({key: value for key, value in weights.items() if key != "visual.proj"}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"missing keys: \['visual\.proj'\]"):
        create_backbone(NAME, str(tmp_path / "weights.pt"))


def test_weights_files_of_timm_are_loaded_strictly_and_resampled(tmp_path):
    source, path = create_backbone("timm/test_vit", None), str(tmp_path / "weights.safetensors")
    save_file(source.network.state_dict(), path)
    assert create_backbone("timm/test_vit", path).fingerprint == source.fingerprint
    larger = create_backbone("timm/test_vit", path, image_size=192)
    assert larger.grid == (12, 12)
    assert torch.equal(larger.network.blocks[0].mlp.fc1.weight, source.network.blocks[0].mlp.fc1.weight)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: does not fit"):
        create_backbone("timm/test_vit2", path)


@pytest.mark.parametrize("name", ["logit_scale", "positional_embedding", "visual.proj"])
def test_fingerprint_depends_on_every_weight_but_not_on_the_logit_scale(name):
    clip = make_clip()
    clip.get_parameter(name).data.view(-1)[-1] += 1e-3
    same = OpenCLIPBackbone(clip).fingerprint == OpenCLIPBackbone(make_clip()).fingerprint
    assert same == (name == "logit_scale")


def test_weights_trained_with_another_activation_are_warned_of(tmp_path, monkeypatch, caplog):
    path = tmp_path / "weights.pt"
    torch.save(create_backbone(NAME, None).network.state_dict(), path)
    config = {"url": "https://a/vit-quickgelu.pt"}
    monkeypatch.setattr(open_clip.pretrained, "get_pretrained_cfg", lambda name, tag: config)
    monkeypatch.setattr(open_clip.pretrained, "download_pretrained_from_url", lambda url: str(path))
    create_backbone(NAME, "quick")
    assert f"choose backbone='{NAME}-quickgelu'" in caplog.text
