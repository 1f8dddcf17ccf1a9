# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Frames of videos as images with paths: a video file stands for a folder of frames, ``walk.avi/000012.png``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomalib_inctrl.errors import ImageFileError


def frame_path(video: str | Path, index: int) -> Path:
    """Name a frame of a video file; nothing is written there.

    Args:
        video: Video file.
        index: Number of the frame, from 0.

    Returns:
        A path below the file. Frames sort in their order.
    """
    return Path(video) / f"{index:06}.png"


def is_frame(path: str | Path) -> bool:
    """Whether a path names a frame of a video file that exists."""
    path = Path(path)
    return path.stem.isdecimal() and path.suffix == ".png" and path.parent.is_file()


def read_frame(path: str | Path) -> NDArray[np.uint8]:
    """Read a frame of a video file.

    Args:
        path: As :func:`frame_path` gives it.

    Returns:
        ``(H, W, 3)``, RGB.

    Raises:
        ImageFileError: If the file is no video or has no such frame.
    """
    import cv2  # slow to import, and few need it

    path = Path(path)
    video, index = path.parent, int(path.stem)
    capture: Any = cv2.VideoCapture(str(video))
    try:
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        found = index < count and capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        read, pixels = capture.read() if found else (False, None)
    finally:
        capture.release()
    if not read or pixels is None:
        holds = f"has {count} frames" if count else "is no video that OpenCV can read"
        msg = f"{path}: frame {index} cannot be read, {video} {holds}."
        raise ImageFileError(msg)
    return np.ascontiguousarray(pixels[..., ::-1])
