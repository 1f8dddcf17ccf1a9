# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Video clips frame by frame, and the colour part of depth data: anomalib's batches of both as batches of images.

An extension: the papers test on neither and name both as next steps.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from anomalib.data import DepthBatch, ImageBatch, VideoBatch
from anomalib.data.datasets.base import AnomalibVideoDataset
from torch import Tensor

from anomalib_inctrl.io.images import list_images
from anomalib_inctrl.io.video import frame_path


def as_images(batch: Any, resize: Callable[[Tensor], Tensor] | None = None) -> Any:
    """Turn a batch of clips or of depth data into one of images; other batches stay as they are.

    Of a clip the frame is taken that the batch's ground truth belongs to, the datamodule's ``target_frame``. (anomalib
    itself refuses batches of clips with ``target_frame="all"``.) Depth maps are left out.

    Args:
        batch: A batch of any kind.
        resize: The model's resize ``(B, 3, H, W)`` to ``(B, 3, S, S)``, for target frames, which anomalib keeps at
            their own size while it resizes their masks.

    Returns:
        ``ImageBatch`` with ``image (B, 3, H, W)``, the ground truth, and a path for each image: the file of a frame in
        a folder of frames, or its :func:`~anomalib_inctrl.io.video.frame_path` in a video file.
    """
    if isinstance(batch, DepthBatch):
        names = ("image", "gt_label", "gt_mask", "mask_path", "image_path")
        return ImageBatch(**{name: getattr(batch, name) for name in names})
    if not isinstance(batch, VideoBatch):
        return batch
    image, mask = torch.as_tensor(batch.image), batch.gt_mask
    if image.ndim == 5:
        # The batch does not record which of its frames is the target; the original image is the target's.
        image = torch.as_tensor(batch.original_image).flatten(0, 1).float() / 255
        if mask is not None and mask.shape[-2:] != image.shape[-2:] and resize is not None:
            image = resize(image)
    frames = torch.as_tensor(batch.frames).tolist()
    paths = [_frame_file(clip, index) for clip, index in zip(batch.video_path or [], frames, strict=True)]
    return ImageBatch(image=image, gt_mask=mask, gt_label=batch.gt_label, image_path=paths)


def _frame_file(video: str, index: int) -> str:
    files = list_images(video) if Path(video).is_dir() else []
    return str(files[index] if index < len(files) else frame_path(video, index))


def normal_frames(dataset: AnomalibVideoDataset) -> list[Path]:
    """List the frames of a dataset's videos, in a train split all normal: paths as :func:`as_images` gives them."""
    indexer: Any = dataset.indexer
    videos = sorted(
        (str(path), len(stamps)) for path, stamps in zip(indexer.video_paths, indexer.video_pts, strict=True)
    )
    return [Path(_frame_file(video, index)) for video, count in videos for index in range(count)]
