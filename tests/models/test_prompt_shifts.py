# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Prompts encoded at several offsets within a patch."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from anomalib_inctrl import Detector, InCTRLv2
from anomalib_inctrl.backbones import OpenCLIPBackbone
from anomalib_inctrl.errors import BackboneError, CheckpointError, PromptError
from anomalib_inctrl.models.components.checkpoint import check_state
from anomalib_inctrl.models.components.prompt_shifts import shift_images
from anomalib_inctrl.models.inctrl_v2.torch_model import InCTRLv2Model

CLOSE = {"atol": 1e-5, "rtol": 0}
SIZE, PATCH = 240, 16


@pytest.fixture(scope="module")
def backbone():
    return OpenCLIPBackbone("demo-vit-16-240", None)


@pytest.fixture(scope="module")
def images():
    """Smooth noise: something of its own at every place."""
    noise = torch.randn(6, 3, 60, 60, generator=torch.Generator().manual_seed(3))
    return torch.nn.functional.interpolate(noise, size=SIZE, mode="bicubic")


@pytest.fixture
def model(backbone):
    def make(**options):
        torch.manual_seed(0)
        return InCTRLv2Model(backbone.network, **options)

    return make


def test_images_are_shifted_by_fractions_of_a_patch(images):
    moved = shift_images(images, 4, PATCH)
    assert moved.shape == (6, 16, 3, SIZE, SIZE)
    assert torch.equal(moved[:, 0], images)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (PATCH, PATCH), (PATCH, PATCH)), mode="reflect")
    expected = {
        (y, x): padded[:, :, PATCH + y :, PATCH + x :][..., :SIZE, :SIZE] for y in range(-8, 9) for x in range(-8, 9)
    }
    offsets = [next(place for place, p in expected.items() if np.array_equal(p, moved[:, i])) for i in range(16)]
    assert sorted(offsets) == sorted((y, x) for y in (-4, 0, 4, 8) for x in (-4, 0, 4, 8))


@pytest.mark.parametrize("shifts", [2, 3])
def test_map_is_the_minimum_over_all_offsets(shifts, model, backbone, images):
    prompts, queries = images[:3], images[3:]
    shifted = model(prompt_shifts=shifts)
    shifted.set_prompts(prompts, "washer")
    found = shifted.score_components(queries).patch_map
    # View by view.
    views = [view for prompt in prompts for view in shift_images(prompt[None], shifts, PATCH)[0]]
    tokens = [torch.nn.functional.normalize(backbone.encode_image(view[None]).patches[0], dim=-1) for view in views]
    for query, residual in zip(backbone.encode_image(queries).patches, found, strict=True):
        unit_query = torch.nn.functional.normalize(query, dim=-1)
        nearest = [torch.einsum("lpd,lqd->lpq", unit_query, view).amax(dim=2) for view in tokens]
        assert_close(residual, (1 - torch.stack(nearest).amax(dim=0)).mean(dim=0) / 2, **CLOSE)


def test_residual_of_a_shifted_prompt_is_zero(model, images):
    moved = shift_images(images[:1], 4, PATCH)[0]
    plain, shifted = model(), model(prompt_shifts=4)
    for one in (plain, shifted):
        one.set_prompts(images[:2], "washer")
    assert shifted.score_components(moved).patch_map.max() < 1e-5
    assert plain.score_components(moved[1:]).patch_score.min() > 1e-3


def test_class_embeddings_are_those_of_the_unshifted_prompts(model, images):
    plain, shifted = model(), model(prompt_shifts=3)
    for one in (plain, shifted):
        one.set_prompts(images[:2], "washer")
    before, after = plain.bank.select(), shifted.bank.select()
    assert (before.k_shot, after.k_shot) == (2, 2)
    assert after.patches.shape == (18, *before.patches.shape[1:])
    assert_close(after.embeddings, before.embeddings, **CLOSE)
    assert_close(after.patches[::9], before.patches, **CLOSE)
    for one in (plain, shifted):
        one.heads_trained = True
    query = images[2:]
    assert_close(shifted.score_components(query).image_score, plain.score_components(query).image_score, **CLOSE)
    assert (shifted.score_components(query).patch_map <= plain.score_components(query).patch_map + 1e-6).all()


def test_saved_prompts_keep_their_offsets(model, images):
    shifted, loaded = model(prompt_shifts=2), model()
    shifted.set_prompts(images[:2], "washer")
    loaded.load_state_dict(shifted.state_dict())
    assert torch.equal(loaded.score_components(images[2:]).score, shifted.score_components(images[2:]).score)


@pytest.mark.parametrize("views", [0, 1, 3])
def test_inconsistent_number_of_views_is_refused(views, backbone, model, images):
    one = model()
    one.set_prompts(images[:2], "washer")
    state = one.state_dict() | {"bank.entries.0.patches": torch.zeros(views, 3, 225, backbone.patch_width)}
    with pytest.raises(CheckpointError, match=r"here\.ckpt: damaged, prompts 'bank.entries.0' of shapes"):
        check_state(state, backbone, "here.ckpt")


def test_invalid_prompt_shifts_are_refused(model, images):
    with pytest.raises(ValueError, match="prompt_shifts=0: must be 1 or more"):
        InCTRLv2(backbone="demo-vit-16-240", pretrained=None, prompt_shifts=0)
    with pytest.raises(ValueError, match="prompt_shifts=-1: must be 1 or more"):
        Detector(backbone="demo-vit-16-240", pretrained=None, prompt_shifts=-1)
    with pytest.raises(PromptError, match=r"prompt_shifts=17: a patch of .* has 16 pixels a side"):
        model(prompt_shifts=17).set_prompts(images[:1], "washer")
    with pytest.raises(BackboneError, match=r"expected \(B, 3, 240, 240\)"):
        model(prompt_shifts=2).set_prompts(images[:1, :, :8, :8], "washer")


def test_prompt_shifts_of_a_checkpoint_are_kept(images, tmp_path, caplog):
    saved = InCTRLv2(backbone="demo-vit-16-240", pretrained=None, prompt_shifts=2)
    saved.model.set_prompts(images[:1], "washer")
    for given, reported in ((1, False), (2, False), (4, True)):
        caplog.clear()
        model = InCTRLv2(backbone="demo-vit-16-240", pretrained=None, prompt_shifts=given)
        model.on_load_checkpoint(saved.checkpoint_content())
        assert ("prompt_shifts=4 is ignored" in caplog.text) == reported
        assert model.hparams["prompt_shifts"] == model.model.prompt_shifts == 2
    heads = saved.checkpoint_content()
    heads["state_dict"] = {key: value for key, value in heads["state_dict"].items() if ".bank." not in key}
    model = InCTRLv2(backbone="demo-vit-16-240", pretrained=None, prompt_shifts=4)
    model.on_load_checkpoint(heads)
    assert model.model.prompt_shifts == 4


def test_detector_keeps_the_prompt_shifts_of_its_checkpoint(images, tmp_path):
    images = (images.clamp(-1, 1) + 1) / 2
    detector = Detector(backbone="demo-vit-16-240", pretrained=None, device="cpu", prompt_shifts=2)
    detector.set_prompts(images[:2], class_name="washer")
    again = Detector(detector.save(tmp_path / "washer.ckpt"), device="cpu")
    expected = [result.score for result in detector.predict(images[2:])]
    assert [result.score for result in again.predict(images[2:])] == expected
    again.set_prompts(images[:2], class_name="washer")  # anew, at as many offsets
    assert [result.score for result in again.predict(images[2:])] == pytest.approx(expected, abs=1e-6)
    plain = Detector(tmp_path / "washer.ckpt", device="cpu", prompt_shifts=1)
    plain.set_prompts(images[:2], class_name="washer")
    assert all(a.score > b for a, b in zip(plain.predict(images[2:]), expected, strict=True))
