# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from PIL import Image
from torch.testing import assert_close
from torchvision import tv_tensors

from anomalib_inctrl.backbones.openclip import CLIP_MEAN, CLIP_STD
from anomalib_inctrl.backbones.preprocessing import BackbonePreProcessor, BicubicResize, ExportableResize
from anomalib_inctrl.io.images import read_image

GOLDEN = Path(__file__).parents[1] / "models" / "golden" / "transform.npz"
MODES = pytest.mark.parametrize("mode", ["squash", "center_crop"])


@pytest.mark.parametrize("name", ["rgb_517x260", "rgb_150x100_upscale", "gray_L_256x256"])
def test_center_crop_is_the_authors_to_two_levels(name, tmp_path):
    with np.load(GOLDEN, allow_pickle=False) as file:
        (tmp_path / "image.png").write_bytes(file[f"{name}__png"].tobytes())
        expected = torch.from_numpy(file[f"{name}__out_u8"]).float()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    processor = BackbonePreProcessor(resize_mode="center_crop")
    for transform in (processor.transform, processor):  # the engine's and the exported one
        processed = transform(read_image(tmp_path / "image.png").unsqueeze(0))[0]
        assert ((processed * std + mean) * 255 - expected).abs().max() <= 2


@MODES
@pytest.mark.parametrize(
    "size", [(240, 240), (256, 256), (517, 260), (100, 151), (240, 245), (61, 47), (1, 1), (3, 400)]
)
def test_export_resize_is_the_resize_of_the_engine(mode, size):
    torch.manual_seed(0)
    image = torch.rand(2, 3, *size)
    before = image.clone()
    difference = (ExportableResize(240, mode)(image) - BicubicResize(240, mode)(image)).abs() * 255
    assert difference.max() <= 1 + 1e-3
    assert (difference > 0.5).float().mean() < 2e-3
    assert torch.equal(image, before)


def test_resize_twice_is_resize_once():
    image = tv_tensors.Image(torch.rand(3, 61, 47))
    once = BicubicResize(240)(image)
    assert torch.equal(BicubicResize(240)(once), once)


@MODES
def test_mask_follows_its_image(mode):
    mask = torch.zeros(90, 150, dtype=torch.uint8)
    mask[30:60, 60:90] = 1
    mask[:, :20] = 1  # cropped off by the one, kept by the other
    image, small = BicubicResize(240, mode)(tv_tensors.Image(mask.float().expand(3, -1, -1)), tv_tensors.Mask(mask))
    assert set(small.unique().tolist()) == {0, 1}
    assert ((image[0] > 0.5) != small.bool()).float().mean() < 0.02
    assert bool(small[:, :20].all()) == (mode == "squash")


def test_a_mask_of_another_size_and_an_unknown_mode_are_told():
    with pytest.raises(ValueError, match="20 x 20 and 30 x 30"):
        BicubicResize(240)(tv_tensors.Image(torch.rand(3, 30, 30)), tv_tensors.Mask(torch.zeros(20, 20)))
    with pytest.raises(ValueError, match="resize_mode='stretch'"):
        BackbonePreProcessor(resize_mode="stretch")


def test_settings_survive_a_checkpoint():
    original = BackbonePreProcessor(image_size=96, resize_mode="center_crop", mean=(0.1, 0.2, 0.3), std=(1, 2, 3))
    restored = BackbonePreProcessor()
    restored.load_checkpoint_config(original.checkpoint_config())
    image = torch.rand(2, 3, 50, 70)
    assert torch.equal(restored.transform(image), original.transform(image))
    assert torch.equal(restored(image), original(image))


def test_deep_images_keep_their_masks(tmp_path):
    values = np.arange(60 * 80, dtype=np.uint16).reshape(60, 80) * 10
    Image.fromarray(values).save(tmp_path / "deep.png")
    image, mask = torch.ones(1, 3, 60, 80), torch.zeros(1, 60, 80, dtype=torch.bool)
    batch = ImageBatch(
        image=tv_tensors.Image(image), gt_mask=tv_tensors.Mask(mask), image_path=[str(tmp_path / "deep.png")]
    )
    processor = BackbonePreProcessor(image_size=32)
    processor.on_test_batch_start(None, None, batch, 0)
    assert batch.gt_mask.shape == (1, 32, 32)
    assert_close(batch.image, processor.transform(read_image(tmp_path / "deep.png").unsqueeze(0)))
