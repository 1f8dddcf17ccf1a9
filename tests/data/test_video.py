# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""anomalib's video and depth datamodules as targets, on generated clips and images."""

import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from anomalib.data import ImageBatch, MVTec3D, UCSDped, VideoBatch
from anomalib.engine import Engine
from PIL import Image

from anomalib_inctrl import InCTRLv2
from anomalib_inctrl.data.video import as_images
from anomalib_inctrl.errors import ImageFileError
from anomalib_inctrl.io.images import read_image
from anomalib_inctrl.io.video import frame_path, is_frame, read_frame

HEIGHT, WIDTH, LENGTH, NORMAL = 64, 96, 6, 3

needs_av = pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="anomalib's videos need PyAV")


def street(index, defect=False):
    """A street on which a box moves, and the mask of its defect, a yellow rectangle."""
    image = np.random.default_rng(0).integers(90, 120, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    image[20:34, 5 + 8 * index : 17 + 8 * index] = (60, 60, 160)
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    if defect:
        mask[40:56, 30:54] = 255
        image[mask > 0] = (250, 250, 0)
    return image, mask


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def save_video(path, frames):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (WIDTH, HEIGHT))
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()


@pytest.fixture
def ucsd(tmp_path):
    """Clips of frames; the tested one shows a defect from frame ``NORMAL`` on."""
    root = tmp_path / "ucsd"
    for index in range(LENGTH):
        for name in ("Train001", "Train002"):
            save(root / "UCSDped2" / "Train" / name / f"{index + 1:03}.tif", street(index)[0])
        frame, mask = street(index, index >= NORMAL)
        save(root / "UCSDped2" / "Test" / "Test001" / f"{index + 1:03}.tif", frame)
        save(root / "UCSDped2" / "Test" / "Test001_gt" / f"{index + 1:03}.bmp", mask)
    options = {"category": "UCSDped2", "frames_between_clips": 1, "eval_batch_size": 4, "num_workers": 0}
    return lambda **more: UCSDped(root=root, **{**options, **more})


@pytest.fixture
def mvtec3d(tmp_path):
    for folder, count in (("train/good", 4), ("test/good", 3), ("test/hole", 3)):
        place = tmp_path / "mvtec3d" / "bagel" / folder
        (place / "xyz").mkdir(parents=True)
        for index in range(count):
            pixels, mask = street(index, "hole" in folder)
            save(place / "rgb" / f"{index:03}.png", pixels)
            tifffile.imwrite(place / "xyz" / f"{index:03}.tiff", np.ones((HEIGHT, WIDTH, 3), dtype=np.float32))
            save(place / "gt" / f"{index:03}.png", mask)
    return MVTec3D(root=tmp_path / "mvtec3d", category="bagel", eval_batch_size=2, num_workers=0)


def run(folder, datamodule, step="test", **options):
    """Run the engine; metrics, scores and prompts of the class."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    engine = Engine(**quiet, default_root_dir=folder)
    model = InCTRLv2(backbone="mini-clip-16-240", pretrained="demo", k_shot=2, class_name="street", **options)
    metrics = getattr(engine, step)(model, datamodule=datamodule)
    (scores,), (prompts,) = folder.rglob("scores.csv"), folder.rglob("prompts.json")
    return metrics, pd.read_csv(scores), json.loads(prompts.read_text())["street"]


@needs_av
@pytest.mark.parametrize("clip_length", [1, 2])
def test_videos_are_scored_frame_by_frame(clip_length, ucsd, tmp_path):
    (metrics,), scores, prompts = run(tmp_path / "first", ucsd(clip_length_in_frames=clip_length))
    # A clip is scored by its last frame, so of longer clips the first frames have no score.
    scored = range(clip_length - 1, LENGTH)
    assert [int(Path(path).stem) for path in scores.image_path] == [index + 1 for index in scored]
    assert scores.gt_label.to_list() == [int(index >= NORMAL) for index in scored]
    assert metrics["image_AUROC"] == 1
    assert metrics["pixel_AUROC"] > 0.95
    assert all(read_image(path).shape == (3, HEIGHT, WIDTH) for path in scores.image_path)
    assert len(set(prompts)) == 2
    assert all("Train" in path for path in prompts)
    # A written list of prompts can be given to another run.
    given = str(next((tmp_path / "first").rglob("prompts.json")))
    _, same, listed = run(tmp_path / "second", ucsd(clip_length_in_frames=clip_length), prompts=given)
    assert listed == prompts
    pd.testing.assert_frame_equal(same, scores)


@needs_av
def test_videos_work_in_train_and_predict(ucsd, tmp_path):
    metrics, scores, _ = run(tmp_path / "run", ucsd(train_batch_size=2), "train")
    assert metrics[0]["image_F1Score"] > 0.5  # with a threshold from validation; it is 0 without
    predictions, predicted, _ = run(tmp_path / "predict", ucsd(), "predict")
    assert isinstance(predictions[0], ImageBatch)
    assert predicted.score.to_list() == pytest.approx(scores.score.to_list(), abs=1e-5)


def test_depth_data_is_scored_by_its_images(mvtec3d, tmp_path):
    (metrics,), scores, prompts = run(tmp_path / "run", mvtec3d)
    assert scores.gt_label.to_list() == [int("hole" in path) for path in scores.image_path]
    assert len(scores) == 6
    assert metrics["image_AUROC"] == 1
    assert metrics["pixel_AUROC"] > 0.95
    assert all("train/good/rgb" in path for path in prompts)


@pytest.mark.parametrize("target", [0, 2])
def test_the_target_frame_of_a_clip_is_taken(target):
    image = torch.rand(2, 3, 3, 8, 12)
    batch = VideoBatch(
        image=image,
        original_image=(image[:, target : target + 1] * 255).round().to(torch.uint8),
        frames=torch.tensor([target, 10 + target]),
        video_path=["street.avi", "street.avi"],
        gt_label=torch.tensor([0, 1]),
        gt_mask=torch.zeros(2, 8, 12, dtype=torch.bool),
    )
    found = as_images(batch)
    assert type(found) is ImageBatch
    torch.testing.assert_close(torch.as_tensor(found.image), image[:, target], atol=0.5 / 255, rtol=0)
    assert found.image_path == [str(frame_path("street.avi", index)) for index in (target, 10 + target)]
    assert found.gt_label.tolist() == [False, True]
    assert found.gt_mask.shape == (2, 8, 12)


def test_frames_of_a_video_are_read_in_any_order(tmp_path):
    video = tmp_path / "walk.avi"
    frames = [np.roll(street(0)[0], 5 * index, axis=1) for index in range(40)]
    save_video(video, frames)
    capture, expected = cv2.VideoCapture(str(video)), []
    while (step := capture.read())[0]:
        expected.append(step[1][..., ::-1])
    assert len(expected) == 40
    for index in (39, 0, 17, 18, 3):
        assert is_frame(frame_path(video, index))
        assert (read_frame(frame_path(video, index)) == expected[index]).all()
    assert np.abs(expected[7].astype(int) - frames[7]).mean() < 16  # channels in their order
    (tmp_path / "notes.avi").write_text("no video")
    for path, message in (
        (frame_path(video, 40), r"frame 40 cannot be read, .*walk\.avi has 40 frames"),
        (frame_path(tmp_path / "notes.avi", 0), r"notes\.avi is no video that OpenCV can read"),
        (frame_path(tmp_path / "none.avi", 0), "no such file"),
    ):
        with pytest.raises(ImageFileError, match=message):
            read_image(path)
    assert not is_frame(tmp_path / "000001.png")
    assert not is_frame(video / "first.png")
