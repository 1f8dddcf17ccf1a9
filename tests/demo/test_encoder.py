# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The demonstration encoder: its packaged weights, their quality, and the tool that trains it."""

import hashlib
import re

import pytest
import torch
from safetensors.torch import save
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_auroc

from anomalib_inctrl.backbones.openclip import CLIP_MEAN, CLIP_STD, OpenCLIPBackbone
from anomalib_inctrl.backbones.packaged import (
    DEMO_BACKBONE,
    DEMO_PRETRAINED,
    expand_vocabulary,
    packaged_weights,
    write_weights,
)
from anomalib_inctrl.backbones.text_prompts import text_prompts
from anomalib_inctrl.demo import AUXILIARY_CATEGORIES, REGISTRY, Sample, render_batch
from anomalib_inctrl.errors import CheckpointError
from anomalib_inctrl.io.weights import read_state_dict
from anomalib_inctrl.models.components.residuals import patch_residual
from tools.encoder import data, model, train

MEAN, STD = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))


@pytest.fixture(scope="module")
def weights():
    return packaged_weights(DEMO_BACKBONE, DEMO_PRETRAINED)


@pytest.fixture(scope="module")
def trained():
    return OpenCLIPBackbone(DEMO_BACKBONE, DEMO_PRETRAINED)


def test_card_names_the_weights(weights, trained):
    card = weights.with_suffix(".md").read_text(encoding="utf-8")
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in card
    assert f"`{trained.fingerprint}`" in card
    assert trained.fingerprint != OpenCLIPBackbone(DEMO_BACKBONE, None).fingerprint


def test_a_tag_is_no_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert packaged_weights(DEMO_BACKBONE, "other") is None
    assert packaged_weights("", f"{DEMO_BACKBONE}-{DEMO_PRETRAINED}") is None
    assert packaged_weights("*", DEMO_PRETRAINED) is None


def test_text_encoder_separates_the_states_of_a_name_never_seen_in_training(trained):
    tokenise = model.Encoder().tokenise
    with torch.no_grad():
        normal, abnormal = (
            F.normalize(trained.network.encode_text(torch.stack([tokenise(s) for s in pool[::11]])), dim=-1)
            for pool in text_prompts("zebra")
        )
    between = (normal @ abnormal.T).mean()
    assert between < (normal @ normal.T).mean()
    assert between < (abnormal @ abnormal.T).mean()


def test_defects_of_an_unseen_category_are_found_better_than_by_random_weights(trained):
    def auroc(backbone, shots=4, each=12):
        """Of the largest residual over images and of the residual over pixels, without any trained head."""
        kinds = REGISTRY["brick"].defects
        good = [Sample("brick", index) for index in range(shots + each)]
        bad = [Sample("brick", 1000 + index, kinds[index % len(kinds)]) for index in range(each)]
        batch = render_batch([*good, *bad], seed=7)
        patches = torch.cat([backbone.encode_image((x / 255 - MEAN) / STD).patches for x in batch.image.split(14)])
        residual = patch_residual(patches[shots:], patches[:shots])
        area = F.interpolate(residual.view(-1, 1, *backbone.grid), batch.mask.shape[-2:], mode="bilinear")[:, 0]
        image = binary_auroc(residual.amax(dim=1), torch.arange(2 * each) >= each)
        return float(image), float(binary_auroc(area.flatten(), batch.mask[shots:].flatten().long()))

    image, pixel = auroc(trained)
    image_by_chance, pixel_by_chance = auroc(OpenCLIPBackbone(DEMO_BACKBONE, None))
    assert image > image_by_chance + 0.1
    assert pixel > pixel_by_chance + 0.05


@pytest.mark.parametrize("broken", ["vocabulary", "rows", "range", "embedding"])
def test_vocabulary_is_restored_or_its_damage_reported(tmp_path, broken):
    tensors = {"token_embedding.weight": torch.randn(4, 8), "other": torch.randn(3)}
    path = write_weights(tmp_path / "w.safetensors", tensors, [5, 0, 9])
    restored = expand_vocabulary(read_state_dict(path), 10, str(path))
    expected = tensors["token_embedding.weight"][[1, 3, 3, 3, 3, 0, 3, 3, 3, 2]]
    torch.testing.assert_close(restored["token_embedding.weight"], expected, atol=2e-3, rtol=1e-3)
    assert restored["other"].dtype == torch.float32
    assert set(restored) == set(tensors)
    stored = read_state_dict(path)
    if broken == "vocabulary":
        del stored["vocabulary"]
    elif broken == "rows":
        stored["token_embedding.weight"] = stored["token_embedding.weight"][1:]
    elif broken == "range":
        stored["vocabulary"] = stored["vocabulary"] + 1
    else:
        del stored["token_embedding.weight"]
    path.write_bytes(save(stored))
    if broken == "vocabulary":  # another model's weights: a table of four tokens
        assert len(expand_vocabulary(read_state_dict(path), 10, str(path))["token_embedding.weight"]) == 4
        return
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        expand_vocabulary(read_state_dict(path), 10, str(path))


def test_writing_needs_a_row_for_the_other_tokens(tmp_path):
    with pytest.raises(ValueError, match="3 rows"):
        write_weights(tmp_path / "w.safetensors", {"token_embedding.weight": torch.zeros(3, 8)}, [1, 2, 3])
    assert not list(tmp_path.iterdir())


def test_training_never_draws_unseen_categories_designed_products_or_held_out_defects(monkeypatch):
    drawn = []

    def render(samples, seed, size, categories):
        drawn.extend((sample, categories[sample.category]) for sample in samples)
        return render_batch(samples, seed, size, categories)

    monkeypatch.setattr(data, "render_batch", render)
    for number in range(4):
        data.draw_episode(4, 32, (0, number))
    auxiliary = [sample for sample, _ in drawn if sample.category in REGISTRY]
    composed = [category for sample, category in drawn if sample.category not in REGISTRY]
    assert len(auxiliary) == 4 * len(data.DAMAGED)
    assert {sample.category for sample in auxiliary} <= set(AUXILIARY_CATEGORIES)
    assert all(sample.style for sample in auxiliary)
    assert len(composed) >= 4 * 2 * len(data.DAMAGED)
    assert not {category.render for category in composed} & {category.render for category in REGISTRY.values()}
    assert not {sample.defect for sample, _ in drawn} & set(data.HELD_OUT_DEFECTS)


def test_captions_match_images_of_their_state_only():
    episode = data.draw_episode(4, 32, (0, 1))
    damaged = episode.mask.flatten(2).any(dim=2)
    text = data.draw_captions(episode, damaged, (0, 1))
    state = damaged.flatten()[text.picture]
    assert text.match.diagonal().all()
    assert not text.match[state[:, None] != state].any()


def test_residuals_of_training_are_those_of_the_models():
    generator = torch.Generator().manual_seed(0)
    tokens, moved = (torch.randn(2, n, 3, 9, 16, generator=generator) for n in (6, 4))
    prompts = model.prompts_of_images()
    assert prompts.sum(dim=1).unique().tolist() == [model.FLAWLESS - 1]
    assert not prompts.diagonal().any()
    own, foreign = model.residuals(tokens, moved, prompts)
    for row in range(2):
        for n in range(6):
            chosen = torch.cat([pool[row, :4][prompts[n].bool()] for pool in (tokens, moved)])
            expected = patch_residual(tokens[row, n : n + 1], chosen)[0]
            torch.testing.assert_close(own[row, n], expected, atol=4e-3, rtol=0)
        others = torch.cat([tokens[1 - row, :4], moved[1 - row]])
        torch.testing.assert_close(foreign[row], patch_residual(tokens[row, :1], others), atol=4e-3, rtol=0)


def test_training_continues_from_weights_and_writes_weights_the_package_reads(
    weights, trained, tmp_path, monkeypatch, capsys
):
    encoder = model.Encoder()
    encoder.load(weights)
    image = torch.rand(2, 3, 240, 240, generator=torch.Generator().manual_seed(0))
    expected = trained.encode_image((image - MEAN) / STD)
    with torch.no_grad():
        patches, embedding = encoder.encode_image(image)
    for found, wanted in ((patches, expected.patches), (embedding, expected.embedding)):
        assert F.cosine_similarity(found, wanted, dim=-1).min() > 0.999  # the training's blocks run in bfloat16
    monkeypatch.setattr(train, "AUXILIARY_CATEGORIES", ("gear",))
    arguments = ["--out", str(tmp_path), "--start", str(weights), "--images", "24", "--rows", "4"]
    assert train.main(arguments) == 0
    assert "24 images" in capsys.readouterr().out
    written = OpenCLIPBackbone(DEMO_BACKBONE, str(tmp_path / weights.name))
    assert written.fingerprint != trained.fingerprint
    same = F.cosine_similarity(written.encode_image((image - MEAN) / STD).patches, expected.patches, dim=-1)
    assert same.mean() > 0.99  # one step at the beginning of the warm-up


def test_training_on_nothing_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        train.main(["--out", str(tmp_path), "--images", "23", "--rows", "4"])
    assert "nothing to train" in capsys.readouterr().err
