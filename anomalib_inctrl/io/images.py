# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Reading image files of every common mode as RGB."""

from __future__ import annotations

import os
import struct
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from anomalib_inctrl.errors import ImageFileError
from anomalib_inctrl.io.video import is_frame, read_frame

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
# What these files hold, whatever they are called. Pillow knows formats whose readers start other programs.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
# What Pillow raises of broken files, by what was met in practice.
UNREADABLE = (
    *(OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, ArithmeticError, MemoryError, struct.error),
    Image.DecompressionBombError,
)
_DEEP_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N", "F"})


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """Open an image; whatever is wrong with the file becomes an ``ImageFileError`` that names it."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            yield image
    except UNREADABLE as error:
        size = os.path.getsize(path) if os.path.isfile(path) else None  # noqa: PTH113, PTH202  # names of no file as well
        found = "no such file" if size is None else f"{size} bytes, not readable as an image ({error})"
        msg = f"{path}: {found}. Replace or remove the file."
        raise ImageFileError(msg) from error


def is_deep(path: str | Path) -> bool:
    """Tell from the header whether an image has more than 8 bits a channel, which Pillow clips when converting."""
    try:
        with _opened(path) as image:
            return image.mode in _DEEP_MODES
    except ImageFileError:
        return False


def image_size(path: str | Path) -> tuple[int, int]:
    """Read height and width of an image in pixels from its header; an ``ImageFileError`` names a file that is none."""
    with _opened(path) as image:
        return image.height, image.width


def open_image(path: str | Path) -> Image.Image:
    """Read an image file in its own mode; an ``ImageFileError`` names a file that cannot be read."""
    with _opened(path) as image:
        image.load()
        return image


def read_image(path: str | Path) -> Tensor:
    """Read an image file as RGB.

    Grey, palette, RGBA (alpha dropped), CMYK and 16-bit images are converted; 16-bit ones by their upper 8 bits,
    floating-point ones by the range of their finite values, NaN as its lower end.

    Args:
        path: Image file, or a frame of a video file (:mod:`anomalib_inctrl.io.video`).

    Returns:
        ``(3, H, W)`` float32 in [0, 1].

    Raises:
        ImageFileError: If the file is missing, empty, truncated or no image.
    """
    if is_frame(path):
        return rgb_tensor(Image.fromarray(read_frame(path)))
    with _opened(path) as image:
        return rgb_tensor(image)


def rgb_tensor(image: Image.Image) -> Tensor:
    """Convert an image to RGB ``(3, H, W)`` float32 in [0, 1], by the rules of :func:`read_image`."""
    pixels = _to_eight_bits(image) if image.mode in _DEEP_MODES else image
    array = np.array(pixels.convert("RGB"))
    # One copy at a time: images may be large.
    return torch.from_numpy(array).permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    values = np.array(image).astype(np.float64)
    if image.mode == "F":
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        values = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / (high - low or 1.0) * 255
    elif image.mode != "I" or values.max(initial=0) > 255:
        # Older Pillow releases read 16-bit images as "I", which may as well hold 8-bit values.
        values = values // 256
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def list_images(folder: str | Path) -> list[Path]:
    """List the image files directly in a folder, sorted by name."""
    return sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
