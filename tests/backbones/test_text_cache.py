# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Text prototypes are encoded once per weights and class name, over all runs."""

import multiprocessing
import os

import open_clip
import pytest
import torch

from anomalib_inctrl.backbones import OpenCLIPBackbone, text_cache


def make_clip(seed=0, **text):
    torch.manual_seed(seed)
    vision = {"image_size": 48, "layers": 2, "width": 16, "head_width": 8, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1, **text}
    return open_clip.model.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ANOMALIB_INCTRL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def prototypes(name="gear", clip=None, change=None):
    """Prototypes of a new backbone, and how often its text encoder was called."""
    clip = clip or make_clip()
    if change:
        with torch.no_grad():
            change(clip)
    calls = []
    encode = clip.encode_text
    clip.encode_text = lambda tokens: calls.append(len(tokens)) or encode(tokens)
    return OpenCLIPBackbone(clip).text_prototypes(name), len(calls)


def test_a_second_run_reads_what_the_first_encoded(folder):
    first, calls = prototypes()
    assert calls == 2
    second, calls = prototypes()
    assert calls == 0
    assert torch.equal(first, second)
    assert not second.is_inference()
    other, calls = prototypes("washer")
    assert calls == 2
    assert not torch.equal(first, other)
    assert prototypes("data set/gear")[1] == 0  # the same sentences


@pytest.mark.parametrize(
    "change",
    [
        lambda clip: clip.token_embedding.weight[0, 0].add_(1e-3),
        lambda clip: clip.text_projection[-1, -1].add_(1e-3),
        lambda clip: clip.positional_embedding[5].mul_(2),
        lambda clip: setattr(clip.transformer.resblocks[0].mlp, "gelu", torch.nn.ReLU()),
        lambda clip: setattr(clip.transformer.resblocks[0].attn, "num_heads", 4),
    ],
)
def test_other_weights_or_operations_are_encoded_again(folder, change):
    prototypes()
    assert prototypes(change=change)[1] == 2


def test_loaded_weights_get_prototypes_of_their_own(folder):
    backbone = OpenCLIPBackbone(make_clip())
    first = backbone.text_prototypes("gear")
    backbone.load_weights(make_clip(1).state_dict(), "test")
    assert not torch.equal(backbone.text_prototypes("gear"), first)


@pytest.mark.parametrize("place", [0, -1, None])
def test_a_damaged_file_is_recomputed(folder, place, caplog):
    first, _ = prototypes()
    (path,) = folder.rglob("*.safetensors")
    content = bytearray(path.read_bytes())
    if place is None:
        content = content[:20]
    else:
        content[place] ^= 1
    path.write_bytes(content)
    again, calls = prototypes()
    assert calls == 2
    assert "damaged" in caplog.text
    assert torch.equal(first, again)
    assert prototypes()[1] == 0


def test_the_cache_can_be_switched_off_and_moved(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    for off in ("0", "off", "No", "FALSE"):
        monkeypatch.setenv("ANOMALIB_INCTRL_CACHE", off)
        assert text_cache.cache_folder() is None
        prototypes()
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("ANOMALIB_INCTRL_CACHE", str(tmp_path / "own"))
    assert text_cache.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("ANOMALIB_INCTRL_CACHE")
    assert text_cache.cache_folder().name == "anomalib-inctrl"
    if os.name == "posix" and os.uname().sysname == "Linux":
        assert text_cache.cache_folder() == tmp_path / "xdg" / "anomalib-inctrl"


@pytest.mark.parametrize("name", ["file", "x" * 300])
def test_a_folder_that_cannot_be_used_is_no_error(name, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("ANOMALIB_INCTRL_CACHE", str(tmp_path / name))
    assert prototypes()[1] == 2


def test_autocast_does_not_round_stored_prototypes(folder, monkeypatch):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded, _ = prototypes()
    monkeypatch.setenv("ANOMALIB_INCTRL_CACHE", "0")
    assert rounded.dtype == torch.float32
    assert torch.equal(prototypes()[0], rounded)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="importing everything in several processes takes long")
def test_several_processes_write_at_once(folder):
    processes = [multiprocessing.get_context("fork").Process(target=prototypes) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert [path.suffix for path in folder.rglob("*") if path.is_file()] == [".safetensors"]
    assert prototypes()[1] == 0
