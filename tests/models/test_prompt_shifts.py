# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Prompts encoded at several offsets within a patch."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from anomalib_inctrl import Detector, InCTRLv2, InCTRLv2Model
from anomalib_inctrl.errors import BackboneError, CheckpointError, PromptError
from anomalib_inctrl.models.components.prompt_shifts import shift_images
from anomalib_inctrl.models.components.residuals import patch_residual

CLOSE = {"atol": 1e-5, "rtol": 0}
SIZE, PATCH = 48, 16


@pytest.fixture
def make(small, images):
    """Make a model with prompts."""

    def build(prompts=images[:2], **options):
        model = small(InCTRLv2Model, **options)
        model.set_prompts(prompts, "washer")
        return model

    return build


@pytest.fixture
def module(images):
    """Make a module, with prompts if asked for."""

    def build(shifts, prompts=0):
        module = InCTRLv2(backbone="demo-vit-16-240", pretrained=None, prompt_shifts=shifts)
        if prompts:
            module.model.set_prompts(torch.nn.functional.interpolate(images[:prompts], size=240), "washer")
        return module

    return build


def test_images_are_shifted_by_fractions_of_a_patch(images):
    moved = shift_images(images, 4, PATCH)
    assert moved.shape == (16, 16, 3, SIZE, SIZE)
    assert torch.equal(moved[:, 0], images)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (PATCH, PATCH), (PATCH, PATCH)), mode="reflect")
    expected = {
        (y, x): padded[:, :, PATCH + y :, PATCH + x :][..., :SIZE, :SIZE] for y in range(-8, 9) for x in range(-8, 9)
    }
    offsets = [next(place for place, p in expected.items() if np.array_equal(p, moved[:, i])) for i in range(16)]
    assert sorted(offsets) == [(y, x) for y in (-4, 0, 4, 8) for x in (-4, 0, 4, 8)]


@pytest.mark.parametrize("shifts", [2, 3])
def test_map_is_that_of_all_offsets_as_prompts_of_their_own(shifts, make, images):
    model = make(images[:5], prompt_shifts=shifts)  # with 3, the views are more than one batch
    views = [model.backbone.encode_image(view).patches for view in shift_images(images[:5], shifts, PATCH)]
    queries = model.backbone.encode_image(images[5:]).patches
    found = model.score_components(images[5:])
    assert_close(found.patch_map, patch_residual(queries, torch.cat(views)), **CLOSE)
    # Embeddings are those of the prompts as they are.
    assert model.bank.select().k_shot == 5
    assert_close(found.image_score, make(images[:5]).score_components(images[5:]).image_score, **CLOSE)


def test_residual_of_a_shifted_prompt_is_zero(make, images):
    moved = shift_images(images[:1], 4, PATCH)[0]
    assert make(prompt_shifts=4).score_components(moved).patch_map.max() < 1e-5
    assert make().score_components(moved[1:]).patch_score.min() > 1e-4


def test_invalid_prompt_shifts_and_sizes_are_refused(make, module, images):
    with pytest.raises(ValueError, match="prompt_shifts=0: "):
        module(0)
    with pytest.raises(PromptError, match=r"prompt_shifts=17: a patch of .* has 16 pixels a side"):
        make(prompt_shifts=17)
    with pytest.raises(BackboneError, match=r"expected \(B, 3, 48, 48\)"):
        make(images[:1, :, :8, :8], prompt_shifts=2)


@pytest.mark.parametrize(("given", "reported"), [(1, False), (2, False), (4, True)])
def test_prompt_shifts_of_a_checkpoint_are_kept(given, reported, module, caplog):
    saved, model = module(2, prompts=1), module(given)
    model.on_load_checkpoint(saved.checkpoint_content())
    assert ("prompt_shifts=4 is ignored" in caplog.text) == reported
    assert model.hparams["prompt_shifts"] == model.model.prompt_shifts == 2
    heads = saved.checkpoint_content()
    heads["state_dict"] = {key: value for key, value in heads["state_dict"].items() if ".bank." not in key}
    model = module(given)
    model.on_load_checkpoint(heads)
    assert model.model.prompt_shifts == given


@pytest.mark.parametrize("views", [0, 1, 3])
def test_inconsistent_number_of_views_is_refused(views, module):
    content = module(1, prompts=2).checkpoint_content()
    patches = content["state_dict"]["model.bank.entries.0.patches"]
    content["state_dict"]["model.bank.entries.0.patches"] = torch.zeros(views, *patches.shape[1:])
    with pytest.raises(CheckpointError, match=r"damaged, prompts 'bank.entries.0' of shapes"):
        module(1).on_load_checkpoint(content)


def test_detector_keeps_the_prompt_shifts_of_its_checkpoint(images, tmp_path):
    images = (images.clamp(-1, 1) + 1) / 2
    detector = Detector(backbone="demo-vit-16-240", pretrained=None, device="cpu", prompt_shifts=2)
    detector.set_prompts(images[:2], class_name="washer")
    path = detector.save(tmp_path / "washer.ckpt")

    def scores(detector):
        return [result.score for result in detector.predict(images[2:6])]

    again, plain = Detector(path, device="cpu"), Detector(path, device="cpu", prompt_shifts=1)
    assert scores(again) == scores(detector)
    for one in (again, plain):
        one.set_prompts(images[:2], class_name="washer")
    assert scores(again) == pytest.approx(scores(detector), abs=1e-6)
    assert all(a > b for a, b in zip(scores(plain), scores(detector), strict=True))
