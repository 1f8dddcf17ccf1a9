# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch, PredictDataset
from anomalib.data.utils import read_image as read_by_anomalib
from PIL import Image
from torch.testing import assert_close
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from anomalib_inctrl.backbones import preprocessing
from anomalib_inctrl.backbones.openclip import CLIP_MEAN, CLIP_STD
from anomalib_inctrl.backbones.preprocessing import BackbonePreProcessor, BicubicResize, ExportableResize
from anomalib_inctrl.io.images import read_image
from tests.io.turned import write_turned

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


SIZES = [(240, 240), (256, 256), (517, 260), (100, 151), (240, 245), (61, 47), (1, 1), (3, 400)]


@MODES
@pytest.mark.parametrize("size", SIZES)
def test_export_resize_is_the_resize_of_the_engine_which_changes_nothing_twice(mode, size):
    torch.manual_seed(0)
    image = torch.rand(2, 3, *size)
    before, resized = image.clone(), BicubicResize(240, mode)(image)
    difference = (ExportableResize(240, mode)(image) - resized).abs() * 255
    assert difference.max() <= 1 + 1e-3
    assert (difference > 0.5).float().mean() < 2e-3
    assert torch.equal(image, before)
    assert_close(BicubicResize(240, mode)(resized), resized, rtol=0, atol=1e-6)


@MODES
def test_mask_follows_its_image(mode):
    mask = torch.zeros(90, 150, dtype=torch.uint8)
    mask[30:60, 60:90] = 1
    mask[:, :20] = 1  # cropped off by the one, kept by the other
    image, small = BicubicResize(240, mode)(tv_tensors.Image(mask.float().expand(3, -1, -1)), tv_tensors.Mask(mask))
    assert set(small.unique().tolist()) == {0, 1}
    assert ((image[0] > 0.5) != small.bool()).float().mean() < 0.02
    assert bool(small[:, :20].all()) == (mode == "squash")


def test_a_mask_of_another_size_and_an_unknown_mode_are_reported():
    image = tv_tensors.Image(torch.rand(3, 20, 30))
    for size, message in {(20, 20): "20 x 20 and 20 x 30", (30, 20): r"20 x 30 and 30 x 20.* EXIF orientation"}.items():
        with pytest.raises(ValueError, match=message):
            BicubicResize(240)(image, tv_tensors.Mask(torch.zeros(size)))
    with pytest.raises(ValueError, match="mode='stretch'"):
        BackbonePreProcessor(resize_mode="stretch")


def test_settings_survive_a_checkpoint():
    original = BackbonePreProcessor(image_size=96, resize_mode="center_crop", mean=(0.1, 0.2, 0.3), std=(1, 2, 3))
    restored = BackbonePreProcessor()
    restored.load_checkpoint_config(original.checkpoint_config())
    image = torch.rand(2, 3, 50, 70)
    assert torch.equal(restored.transform(image), original.transform(image))
    assert torch.equal(restored(image), original(image))


def write_every_kind(folder):
    """Images that anomalib reads wrongly, of four sizes."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8))
    transparent = noise.resize((100, 33))
    transparent.putalpha(noise.convert("L").resize((100, 33)))
    transparent.save(folder / "3_transparent.png")
    noise.save(folder / "0_plain.png")
    write_turned(folder / "1_photo.jpg", noise.resize((80, 60)), 6)
    Image.fromarray(np.asarray(noise)[:64, :48, 0].astype(np.uint16) * 16).save(folder / "2_deep.png")
    write_turned(folder / "4_turned.tif", noise.resize((80, 60)).convert("L"), 8)


def batches(folder, processor, size, **dataset):
    """anomalib's prediction batches of files, as they reach the model."""
    data = PredictDataset(folder, **dataset)
    for batch in DataLoader(data, batch_size=size, collate_fn=data.collate_fn):
        processor.on_predict_batch_start(None, None, batch, 0)
        yield batch


@MODES
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_images_of_a_batch_are_those_of_their_files(mode, size, tmp_path):
    write_every_kind(tmp_path)
    processor = BackbonePreProcessor(image_size=32, resize_mode=mode)
    found = torch.cat([torch.as_tensor(batch.image) for batch in batches(tmp_path, processor, size)])
    expected = [processor.transform(read_image(path).unsqueeze(0)) for path in sorted(tmp_path.iterdir())]
    assert torch.equal(found, torch.cat(expected))


@pytest.mark.parametrize("sizes", [[(32, 32), (32, 32)], [(32, 32), (40, 30)], [(64, 48), (64, 48)]])
def test_plain_images_of_one_size_or_resized_on_their_own_are_read_once(sizes, tmp_path, monkeypatch):
    for index, size in enumerate(sizes):
        Image.effect_noise(size, 90).convert("RGB").save(tmp_path / f"{index}.png")
    processor = BackbonePreProcessor(image_size=32)
    monkeypatch.setattr(preprocessing, "read_image", lambda path: pytest.fail(f"{path} was read again"))
    (batch,) = batches(tmp_path, processor, 2, transform=processor.transform.transforms[0])
    assert batch.image.shape == (2, 3, 32, 32)


@pytest.mark.parametrize(("name", "orientation", "quarters"), [("d.png", 1, 0), ("p.jpg", 6, -1), ("t.png", 8, 1)])
def test_images_that_are_read_again_keep_their_masks(name, orientation, quarters, tmp_path):
    values = np.arange(60 * 80, dtype=np.uint16).reshape(60, 80) * 10
    values[:20, :30] = 65535
    mask, path = values == 65535, tmp_path / name
    write_turned(path, Image.fromarray(values if quarters == 0 else (values // 256).astype(np.uint8)), orientation)
    image = tv_tensors.Image(read_by_anomalib(path, as_tensor=True).unsqueeze(0))
    batch = ImageBatch(image=image, gt_mask=tv_tensors.Mask(torch.from_numpy(mask)[None]), image_path=[str(path)])
    processor = BackbonePreProcessor(image_size=32)
    processor.on_test_batch_start(None, None, batch, 0)
    assert batch.gt_mask.shape == (1, 32, 32)
    assert_close(batch.image, processor.transform(read_image(path).unsqueeze(0)))
    wanted = processor.transform(tv_tensors.Mask(torch.from_numpy(np.rot90(mask, quarters).copy())[None]))
    assert (batch.gt_mask.bool() != wanted.bool()).float().mean() < 0.04  # the edge, by rounding
    assert 0.1 < batch.gt_mask.float().mean() < 0.15
