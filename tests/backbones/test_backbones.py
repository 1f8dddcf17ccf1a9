# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Backbones: features and text prototypes against the libraries' own models, weights and what is refused."""

import json

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from torch.testing import assert_close

from anomalib_inctrl import InCTRLv2Model
from anomalib_inctrl.backbones import OpenCLIPBackbone, backbone_preprocessing, create_backbone
from anomalib_inctrl.backbones.text_prompts import text_prompts
from anomalib_inctrl.errors import BackboneError, CheckpointError, PretrainedWeightsError

CLOSE = {"atol": 1e-5, "rtol": 0}
DEMO = "demo-vit-16-240"
PAPER = "ViT-B-16-plus-240"
SMALL_TEXT = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
WHOLE_TEXT = SMALL_TEXT | {"context_length": 77, "vocab_size": 49408, "layers": 2}
SMALL_VISION = {"image_size": 48, "layers": 4, "width": 32, "head_width": 8, "patch_size": 16}
# Number of class, distillation and register tokens.
TIMM = {
    "timm/test_vit": 1,
    "timm/test_vit_relpos": 0,
    "timm/deit_tiny_distilled_patch16_224": 2,
    "timm/vit_small_patch16_dinov3.lvd1689m": 5,
}


def make_clip(seed=0, custom=False, text=SMALL_TEXT, **vision):
    """A small OpenCLIP module with four blocks and 3 x 3 patches."""
    torch.manual_seed(seed)
    cls = open_clip.model.CustomTextCLIP if custom else open_clip.model.CLIP
    return cls(embed_dim=16, vision_cfg=SMALL_VISION | vision, text_cfg=text).eval()


# ---------------------------------------------------------------------- features


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
    vision = SMALL_VISION | {"image_size": 160}
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
    if timm_name and size != 160 and not hasattr(native.network.visual, "forward_intermediates"):
        with pytest.raises(BackboneError, match="image_size=192: the installed OpenCLIP keeps"):
            create_backbone(name, str(weights), image_size=size)
        return
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
    assert [backbone_preprocessing(PAPER, True, size).image_size for size in (None, 480)] == [240, 480]


def test_without_a_text_encoder_prototypes_are_learned():
    model = InCTRLv2Model("timm/test_vit", None, image_size=64).train()
    images = torch.randn(4, 3, 64, 64)
    components = model.score_features(*model.encode_pairs(images[:2], images.unflatten(0, (2, 2)), ["a", "b"]))
    (components.dasl_map.sum() + components.oasl_map.sum()).backward()
    assert all(one.prototypes.grad.abs().max() > 0 for one in (model.dasl_branch, model.oasl_branch))
    with pytest.raises(ValueError, match="prototypes='text': timm/test_vit has no text encoder"):
        InCTRLv2Model("timm/test_vit", None, prototypes="text")
    assert InCTRLv2Model(DEMO, None, prototypes="learned").dasl_branch.prototypes is not None


@pytest.mark.parametrize("size", [80, 160, 192])
@pytest.mark.parametrize("name", ["timm/test_vit", DEMO])
def test_residual_of_a_prompt_is_zero_at_every_size(name, size):
    model = InCTRLv2Model(name, None, image_size=size)
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    model.set_prompts(images[:2], "gear")
    residuals = model.score_components(images).patch_score
    assert residuals[:2].max() < 1e-5 < residuals[2]
    assert model(images).anomaly_map.shape == (3, 1, size, size)


# ---------------------------------------------------------------------- weights


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        ("ViT-X-99", {}, BackboneError, "not a model of OpenCLIP"),
        ("ViT-B/32", {}, BackboneError, "Near names: ViT-B-32"),
        ("RN50", {}, BackboneError, "backbone='RN50' is not a vision transformer"),
        ("convnext_base", {}, BackboneError, "backbone='convnext_base' is not a vision transformer"),
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04 broken", r"weights\.pt"),
        ({"state_dict": [1]}, r"weights\.pt: holds no tensors"),
        ({"visual.proj": torch.zeros(2, 2)}, "missing keys"),
    ],
)
def test_weights_files_that_do_not_fit_are_refused_by_name(tmp_path, content, message):
    path = tmp_path / "weights.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        create_backbone(DEMO, str(path))


def test_weights_files_are_loaded_strictly_and_change_the_fingerprint(tmp_path):
    source = create_backbone(DEMO, None)
    weights = {key: value + 0.01 for key, value in source.network.state_dict().items()}
    torch.save({"state_dict": {f"module.{key}": value for key, value in weights.items()}}, tmp_path / "weights.pt")
    save_file(weights, tmp_path / "weights.safetensors")
    loaded = [create_backbone(DEMO, str(tmp_path / name)) for name in ("weights.pt", "weights.safetensors")]
    assert all(torch.equal(backbone.network.visual.proj, weights["visual.proj"]) for backbone in loaded)
    assert loaded[0].fingerprint == loaded[1].fingerprint != source.fingerprint
    torch.save({key: value for key, value in weights.items() if key != "visual.proj"}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"missing keys: \['visual\.proj'\]"):
        create_backbone(DEMO, str(tmp_path / "weights.pt"))


def test_weights_files_of_timm_are_loaded_strictly_and_resampled(tmp_path):
    source, path = create_backbone("timm/test_vit", None), str(tmp_path / "weights.safetensors")
    save_file(source.network.state_dict(), path)
    assert create_backbone("timm/test_vit", path).fingerprint == source.fingerprint
    larger = create_backbone("timm/test_vit", path, image_size=192).network
    assert torch.equal(larger.blocks[0].mlp.fc1.weight, source.network.blocks[0].mlp.fc1.weight)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: does not fit"):
        create_backbone("timm/test_vit2", path)


CHANGES = {
    "logit scale, which is not used": lambda clip: clip.logit_scale.add_(1e-3),
    "a token": lambda clip: clip.token_embedding.weight[0, 0].add_(1e-3),
    "the last projection": lambda clip: clip.visual.proj[-1, -1].add_(1e-3),
    "activation": lambda clip: setattr(clip.transformer.resblocks[0].mlp, "gelu", torch.nn.ReLU()),
    "heads": lambda clip: setattr(clip.transformer.resblocks[0].attn, "num_heads", 4),
}


@pytest.mark.parametrize("change", CHANGES)
def test_fingerprint_depends_on_every_weight_and_operation_in_use(change):
    clip = make_clip()
    with torch.no_grad():
        CHANGES[change](clip)
    same = OpenCLIPBackbone(clip).fingerprint == OpenCLIPBackbone(make_clip()).fingerprint
    assert same == ("not used" in change)


def test_weights_trained_with_another_activation_are_warned_of(tmp_path, monkeypatch, caplog):
    path = tmp_path / "weights.pt"
    torch.save(create_backbone(DEMO, None).network.state_dict(), path)
    config = {"url": "https://a/vit-quickgelu.pt"}
    monkeypatch.setattr(open_clip.pretrained, "get_pretrained_cfg", lambda name, tag: config)
    monkeypatch.setattr(open_clip.pretrained, "download_pretrained_from_url", lambda url: str(path))
    create_backbone(DEMO, "quick")
    assert f"choose backbone='{DEMO}-quickgelu'" in caplog.text


# ---------------------------------------------------------------------- text


class Counting(OpenCLIPBackbone):
    calls = 0

    def _encode_tokens(self, tokens):
        self.calls += 1
        return super()._encode_tokens(tokens)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ANOMALIB_INCTRL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def prototypes(name="gear"):
    """Prototypes of a new backbone, and how often its text encoder was called."""
    backbone = Counting(make_clip(text=WHOLE_TEXT))
    return backbone.text_prototypes(name), backbone.calls


def test_a_second_run_reads_what_the_first_encoded(folder):
    with torch.autocast("cpu", dtype=torch.bfloat16):  # must not round what is stored
        first, calls = prototypes()
    second, more = prototypes()
    assert (calls, more, prototypes("washer")[1]) == (1, 0, 1)
    assert prototypes("data set/gear")[1] == 0  # the same sentences
    assert torch.equal(first, second)
    assert first.dtype == torch.float32
    assert not second.is_inference()


@pytest.mark.usefixtures("folder")
def test_loaded_weights_get_prototypes_of_their_own():
    backbone = OpenCLIPBackbone(make_clip(text=WHOLE_TEXT))
    first = backbone.text_prototypes("gear")
    backbone.load_weights(make_clip(1, text=WHOLE_TEXT).state_dict(), "test")
    assert not torch.equal(backbone.text_prototypes("gear"), first)


def test_a_damaged_file_is_recomputed(folder, caplog):
    first, _ = prototypes()
    (path,) = folder.rglob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    again, calls = prototypes()
    assert (calls, prototypes()[1]) == (1, 0)
    assert "damaged" in caplog.text
    assert torch.equal(first, again)


@pytest.mark.parametrize("value", ["0", "No", "{folder}/file", "{folder}/" + "x" * 300])
def test_the_cache_can_be_switched_off_and_an_unusable_folder_is_no_error(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("ANOMALIB_INCTRL_CACHE", value.format(folder=tmp_path))
    assert [prototypes()[1], prototypes()[1]] == [1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize(("causal", "name"), [(True, "gear"), (True, "cat"), (False, "gear")])
def test_prototypes_equal_those_of_whole_sentences(custom, causal, name, monkeypatch):
    clip = make_clip(custom=custom, text=WHOLE_TEXT)
    tower = clip.text if custom else clip
    if not causal:
        tower.attn_mask = None
    tokens = [open_clip.SimpleTokenizer(context_length=77)(sentences) for sentences in text_prompts(name)]
    with torch.no_grad():
        rows = [F.normalize(clip.encode_text(part), dim=-1).mean(dim=0) for part in tokens]
    lengths, forward = [], tower.ln_final.forward
    monkeypatch.setattr(tower.ln_final, "forward", lambda x: lengths.append(x.shape[1]) or forward(x))
    found = OpenCLIPBackbone(clip).text_prototypes(name)
    assert_close(found, F.normalize(torch.stack(rows), dim=-1), atol=1e-6, rtol=0)
    longest = max(int(part.argmax(dim=-1).max()) + 1 for part in tokens)
    assert set(lengths) == {longest if causal else 77}


def test_words_that_a_cut_vocabulary_lacks_are_found():
    demo = create_backbone("mini-clip-16-240", "demo")
    assert demo.unknown_words("some_set/steel screw") == ["screw"]
    assert demo.unknown_words("gear") == []
    # Its prototypes are those of any other unknown word.
    assert torch.equal(demo.text_prototypes("screw"), demo.text_prototypes("brick"))
    assert OpenCLIPBackbone(make_clip(text=WHOLE_TEXT)).unknown_words("screw") is None
