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

DEMO = {"backbone": "mini-clip-16-240", "pretrained": "demo"}
HEIGHT, WIDTH, LENGTH, NORMAL = 64, 96, 6, 3


needs_av = pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="anomalib's videos need PyAV")


def street(index, defect=False):
    """A street on which a box moves, and the mask of its defect, a yellow rectangle."""
    image = np.random.default_rng(0).integers(90, 120, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    image[20:34, 5 + 8 * index : 17 + 8 * index] = (60, 60, 160)
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    if defect:
        mask[40:56, 30:54] = True
        image[mask] = (250, 250, 0)
    return image, mask


def clip(abnormal=False):
    """Frames and masks; those of an abnormal clip show a defect from frame ``NORMAL`` on."""
    return [street(index, abnormal and index >= NORMAL) for index in range(LENGTH)]


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def save_video(path, frames):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (WIDTH, HEIGHT))
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()


def make_ucsd(root):
    for name in ("Train001", "Train002"):
        for index, (frame, _) in enumerate(clip()):
            save(root / "UCSDped2" / "Train" / name / f"{index + 1:03}.tif", frame)
    for index, (frame, mask) in enumerate(clip(abnormal=True)):
        save(root / "UCSDped2" / "Test" / "Test001" / f"{index + 1:03}.tif", frame)
        save(root / "UCSDped2" / "Test" / "Test001_gt" / f"{index + 1:03}.bmp", mask.astype(np.uint8) * 255)
    return lambda **options: UCSDped(root=root, category="UCSDped2", frames_between_clips=1, **options)


def make_mvtec3d(root):
    for split, label, indices in (("train", "good", range(4)), ("test", "good", range(3)), ("test", "hole", range(3))):
        folder = root / "bagel" / split / label
        for index in indices:
            pixels, mask = street(index, label == "hole")
            save(folder / "rgb" / f"{index:03}.png", pixels)
            (folder / "xyz").mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(folder / "xyz" / f"{index:03}.tiff", np.ones((HEIGHT, WIDTH, 3), dtype=np.float32))
            if split == "test":
                save(folder / "gt" / f"{index:03}.png", mask.astype(np.uint8) * 255)
    return MVTec3D(root=root, category="bagel", eval_batch_size=2, num_workers=0)


def run(folder, datamodule, step="test", **options):
    """Run the engine; metrics, scores and prompts of the class."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    engine = Engine(**quiet, default_root_dir=folder)
    model = InCTRLv2(**DEMO, k_shot=2, class_name="street", **options)
    metrics = getattr(engine, step)(model, datamodule=datamodule)
    (scores,), (prompts,) = folder.rglob("scores.csv"), folder.rglob("prompts.json")
    return metrics, pd.read_csv(scores), json.loads(prompts.read_text())["street"]


@needs_av
@pytest.mark.parametrize("clip_length", [1, 2])
def test_videos_are_scored_frame_by_frame(clip_length, tmp_path):
    build = make_ucsd(tmp_path / "data")
    options = {"clip_length_in_frames": clip_length, "eval_batch_size": 4, "num_workers": 0}
    (metrics,), scores, prompts = run(tmp_path / "first", build(**options))
    # A clip is scored by its last frame, so of longer clips the first frames have no score.
    scored = range(clip_length - 1, LENGTH)
    assert [int(Path(path).stem) for path in scores.image_path] == [index + 1 for index in scored]
    assert scores.gt_label.to_list() == [int(index >= NORMAL) for index in scored]
    assert metrics["image_AUROC"] == 1
    assert metrics["pixel_AUROC"] > 0.95
    assert all(read_image(path).shape == (3, HEIGHT, WIDTH) for path in scores.image_path)
    assert len(set(prompts)) == 2
    assert all("rain" in path and "est" not in Path(path).parent.name for path in prompts)
    # A written list of prompts can be given to another run.
    given = str(next((tmp_path / "first").rglob("prompts.json")))
    _, same, listed = run(tmp_path / "second", build(**options), prompts=given)
    assert listed == prompts
    pd.testing.assert_frame_equal(same, scores)


@needs_av
def test_videos_work_in_train_and_predict(tmp_path):
    build = make_ucsd(tmp_path / "data")
    datamodule = build(clip_length_in_frames=2, train_batch_size=2, eval_batch_size=2, num_workers=0)
    metrics, scores, prompts = run(tmp_path / "run", datamodule, "train")
    assert metrics[0]["image_F1Score"] > 0.5  # with a threshold from validation; it is 0 without
    assert len(prompts) == 2
    predictions, predicted, _ = run(tmp_path / "predict", build(num_workers=0), "predict")
    assert isinstance(predictions[0], ImageBatch)
    assert predicted.score.to_list() == pytest.approx(scores.score.to_list(), abs=1e-5)


def test_depth_data_is_scored_by_its_images(tmp_path):
    (metrics,), scores, prompts = run(tmp_path / "run", make_mvtec3d(tmp_path / "data"))
    assert scores.gt_label.to_list() == [int("hole" in path) for path in scores.image_path]
    assert len(scores) == 6
    assert metrics["image_AUROC"] == 1
    assert metrics["pixel_AUROC"] > 0.95
    assert all("train/good/rgb" in path for path in prompts)


def video_batch(target, length=3):
    """Two clips with the ground truth of one frame, as anomalib's datasets give them."""
    image = torch.rand(2, length, 3, 8, 12)
    frames = torch.arange(length) + torch.tensor([[0], [10]])
    batch = VideoBatch(
        image=image,
        original_image=(image[:, target : target + 1] * 255).round().to(torch.uint8),
        frames=frames[:, target],
        video_path=["street.avi", "street.avi"],
        gt_label=torch.tensor([0, 1]),
        gt_mask=torch.zeros(2, 8, 12, dtype=torch.bool),
    )
    return batch, image, frames


@pytest.mark.parametrize("target", [0, 2])
def test_the_target_frame_of_a_clip_is_taken(target):
    batch, image, frames = video_batch(target)
    found = as_images(batch)
    assert type(found) is ImageBatch
    torch.testing.assert_close(torch.as_tensor(found.image), image[:, target], atol=0.5 / 255, rtol=0)
    assert found.image_path == [str(frame_path("street.avi", int(index))) for index in frames[:, target]]
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


def test_missing_frames_and_videos_are_named(tmp_path):
    video, text = tmp_path / "walk.avi", tmp_path / "notes.avi"
    save_video(video, [frame for frame, _ in clip()])
    text.write_text("no video")
    for path, message in (
        (frame_path(video, 6), r"frame 6 cannot be read, .*walk\.avi has 6 frames"),
        (frame_path(text, 0), r"notes\.avi is no video that OpenCV can read"),
        (frame_path(tmp_path / "none.avi", 0), "no such file"),
    ):
        with pytest.raises(ImageFileError, match=message):
            read_image(path)
    assert not is_frame(tmp_path / "000001.png")
    assert not is_frame(video / "first.png")
