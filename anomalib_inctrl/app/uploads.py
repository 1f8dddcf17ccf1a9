# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of uploads before a pixel is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from anomalib_inctrl.errors import ImageFileError
from anomalib_inctrl.io.images import FORMATS, IMAGE_SUFFIXES, UNREADABLE, read_image


@dataclass(frozen=True)
class Limits:
    """Limits of one request: numbers of images, their file size and pixels, and letters of the class name."""

    prompts: int = 8
    queries: int = 64
    megabytes: int = 20
    megapixels: int = 40
    letters: int = 80


def check_count(files: Sequence[str] | None, most: int, kind: str) -> list[Path]:
    """The paths of uploads; raises ImageFileError, which names their kind, if there are none or more than `most`."""
    if not files:
        msg = f"No {kind} yet. Drop 1 to {most}."
        raise ImageFileError(msg)
    if len(files) > most:
        msg = f"{len(files)} {kind} are too many. Drop 1 to {most}."
        raise ImageFileError(msg)
    return [Path(file) for file in files]


def check_image(path: Path, limits: Limits) -> None:
    """Check that an upload is an image of a common format and of a size within the limits.

    Raises:
        ImageFileError: If it is not; names the file without the server's folder.
    """
    name, size = path.name, path.stat().st_size
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        msg = f"{name}: not one of the formats {', '.join(sorted(IMAGE_SUFFIXES))}."
        raise ImageFileError(msg)
    if size > limits.megabytes * 2**20:
        msg = f"{name}: {size / 2**20:.1f} MB; at most {limits.megabytes} MB are taken."
        raise ImageFileError(msg)
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
    except UNREADABLE as error:
        msg = f"{name}: {size} bytes, not readable as an image. Replace or remove the file."
        raise ImageFileError(msg) from error
    if width * height > limits.megapixels * 1e6:
        msg = f"{name}: {width} x {height} pixels; at most {limits.megapixels} million are taken. Make it smaller."
        raise ImageFileError(msg)
    try:
        read_image(path)
    except ImageFileError as error:
        msg = str(error).replace(str(path), name)
        raise ImageFileError(msg) from error
