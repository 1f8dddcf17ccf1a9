# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Text prompts are encoded once per weights and class name, over all runs, and without needless padding."""

import open_clip
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from anomalib_inctrl.backbones import OpenCLIPBackbone, create_backbone
from anomalib_inctrl.backbones.text_prompts import text_prompts
from tests.backbones.clip import make_clip

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}


class Counting(OpenCLIPBackbone):
    calls = 0

    def _encode_tokens(self, tokens):
        self.calls += 1
        return super()._encode_tokens(tokens)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ANOMALIB_INCTRL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def prototypes(name="gear", change=lambda clip: None):
    """Prototypes of a new backbone, and how often its text encoder was called."""
    clip = make_clip(text=TEXT)
    with torch.no_grad():
        change(clip)
    backbone = Counting(clip)
    return backbone.text_prototypes(name), backbone.calls


def test_a_second_run_reads_what_the_first_encoded(folder):
    with torch.autocast("cpu", dtype=torch.bfloat16):  # must not round what is stored
        first, calls = prototypes()
    second, more = prototypes()
    assert (calls, more) == (1, 0)
    assert first.dtype == torch.float32
    assert torch.equal(first, second)
    assert not second.is_inference()
    assert prototypes("washer")[1] == 1
    assert prototypes("data set/gear")[1] == 0  # the same sentences


@pytest.mark.parametrize(
    "change",
    [
        lambda clip: clip.token_embedding.weight[0, 0].add_(1e-3),
        lambda clip: setattr(clip.transformer.resblocks[0].mlp, "gelu", torch.nn.ReLU()),
        lambda clip: setattr(clip.transformer.resblocks[0].attn, "num_heads", 4),
    ],
)
@pytest.mark.usefixtures("folder")
def test_other_weights_or_operations_are_encoded_again(change):
    prototypes()
    assert prototypes(change=change)[1] == 1


@pytest.mark.usefixtures("folder")
def test_loaded_weights_get_prototypes_of_their_own():
    backbone = OpenCLIPBackbone(make_clip(text=TEXT))
    first = backbone.text_prototypes("gear")
    backbone.load_weights(make_clip(1, text=TEXT).state_dict(), "test")
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
    clip = make_clip(custom=custom, text=TEXT)
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
    assert OpenCLIPBackbone(make_clip(text=TEXT)).unknown_words("screw") is None
