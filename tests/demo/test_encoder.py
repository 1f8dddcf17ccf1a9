# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The demonstration encoder: its packaged weights, their quality, and the tool that trains it."""

import hashlib

import open_clip
import pytest
import torch
from torch.nn import functional as F

from anomalib_inctrl.backbones.openclip import CLIP_MEAN, CLIP_STD, OpenCLIPBackbone
from anomalib_inctrl.backbones.packaged import (
    DEMO_BACKBONE,
    DEMO_PRETRAINED,
    expand_vocabulary,
    packaged_weights,
    write_weights,
)
from anomalib_inctrl.demo import AUXILIARY_CATEGORIES, REGISTRY, render_batch
from anomalib_inctrl.errors import CheckpointError
from anomalib_inctrl.io.weights import read_state_dict
from tools.encoder import data, model, train

MEAN, STD = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))


WEIGHTS = packaged_weights(DEMO_BACKBONE, DEMO_PRETRAINED)


@pytest.fixture(scope="module")
def trained():
    return OpenCLIPBackbone(DEMO_BACKBONE, DEMO_PRETRAINED)


def test_card_names_the_weights(trained):
    card = WEIGHTS.with_suffix(".md").read_text(encoding="utf-8")
    assert hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() in card
    assert f"`{trained.fingerprint}`" in card


def test_a_tag_is_no_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert packaged_weights(DEMO_BACKBONE, "other") is None
    assert packaged_weights("", f"{DEMO_BACKBONE}-{DEMO_PRETRAINED}") is None
    assert packaged_weights("*", DEMO_PRETRAINED) is None


def test_embeddings_of_all_tokens_are_restored(tmp_path):
    tensors = {"token_embedding.weight": torch.randn(4, 8), "other": torch.randn(3)}
    path = write_weights(tmp_path / "w.safetensors", tensors, [5, 0, 9])
    restored = expand_vocabulary(read_state_dict(path), 10, str(path))
    expected = tensors | {"token_embedding.weight": tensors["token_embedding.weight"][[1, 3, 3, 3, 3, 0, 3, 3, 3, 2]]}
    torch.testing.assert_close(restored, expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize(("rows", "highest"), [(3, 9), (4, 10), (None, 9)])
def test_embeddings_that_do_not_fit_the_vocabulary_are_refused(rows, highest):
    tensors = {"vocabulary": torch.tensor([5, 0, highest])}
    if rows:
        tensors["token_embedding.weight"] = torch.zeros(rows, 8)
    with pytest.raises(CheckpointError, match=r"broken\.safetensors.*'token_embedding.weight'"):
        expand_vocabulary(tensors, 10, "broken.safetensors")


def test_training_never_draws_unseen_categories_designed_products_or_held_out_defects(monkeypatch):
    drawn = []

    def render(samples, seed, size, categories):
        drawn.extend((sample, categories[sample.category]) for sample in samples)
        return render_batch(samples, seed, size, categories)

    monkeypatch.setattr(data, "render_batch", render)
    for number in range(4):
        data.draw_episode(4, 32, (0, number))
    auxiliary = [sample for sample, _ in drawn if sample.category in REGISTRY]
    assert len(auxiliary) == 4 * len(data.DAMAGED)
    assert {sample.category for sample in auxiliary} <= set(AUXILIARY_CATEGORIES)
    assert all(sample.style for sample in auxiliary)
    composed = {category.render for sample, category in drawn if sample.category not in REGISTRY}
    assert not composed & {category.render for category in REGISTRY.values()}
    assert not {sample.defect for sample, _ in drawn} & set(data.HELD_OUT_DEFECTS)


@pytest.mark.skipif(
    not hasattr(open_clip.transformer.VisionTransformer, "forward_intermediates"), reason="needs a newer OpenCLIP"
)
def test_training_continues_from_weights_and_writes_weights_the_package_reads(trained, tmp_path, monkeypatch, capsys):
    encoder = model.Encoder()
    encoder.load(WEIGHTS)
    image = torch.rand(2, 3, 240, 240, generator=torch.Generator().manual_seed(0))
    expected = trained.encode_image((image - MEAN) / STD)
    with torch.no_grad():
        patches, embedding = encoder.encode_image(image)
    for found, wanted in ((patches, expected.patches), (embedding, expected.embedding)):
        assert F.cosine_similarity(found, wanted, dim=-1).min() > 0.999  # the training's blocks run in bfloat16
    monkeypatch.setattr(train, "AUXILIARY_CATEGORIES", ("gear",))
    assert train.main(["--out", str(tmp_path), "--start", str(WEIGHTS), "--images", "24", "--rows", "4"]) == 0
    assert "24 images" in capsys.readouterr().out
    written = OpenCLIPBackbone(DEMO_BACKBONE, str(tmp_path / WEIGHTS.name))
    assert written.fingerprint != trained.fingerprint
    same = F.cosine_similarity(written.encode_image((image - MEAN) / STD).patches, expected.patches, dim=-1)
    assert same.mean() > 0.99  # one step at the beginning of the warm-up
