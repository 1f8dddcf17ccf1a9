# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Frames of videos as images with paths: a video file stands for a folder of frames, ``walk.avi/000012.png``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomalib_inctrl.errors import ImageFileError


def frame_path(video: str | Path, index: int) -> Path:
    """Name a frame of a video file, counted from 0; nothing is written there. Frames sort in their order."""
    return Path(video) / f"{index:06}.png"


def is_frame(path: str | Path) -> bool:
    """Whether a path names a frame of a video file that exists."""
    path = Path(path)
    return path.stem.isdecimal() and path.suffix == ".png" and os.path.isfile(path.parent)  # noqa: PTH113  # False for names that no file can have


def read_frame(path: str | Path) -> NDArray[np.uint8]:
    """Read a frame ``(H, W, 3)``, RGB; an ``ImageFileError`` names a file that is no video or has no such frame."""
    import cv2  # slow to import and rarely needed

    video, index = Path(path).parent, int(Path(path).stem)
    capture: Any = cv2.VideoCapture(str(video))
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    found = index < count and capture.set(cv2.CAP_PROP_POS_FRAMES, index)
    read, pixels = capture.read() if found else (False, None)
    capture.release()
    if not read or pixels is None:
        holds = f"has {count} frames" if count else "is no video that OpenCV can read"
        msg = f"{path}: frame {index} cannot be read, {video} {holds}."
        raise ImageFileError(msg)
    return np.ascontiguousarray(pixels[..., ::-1])
