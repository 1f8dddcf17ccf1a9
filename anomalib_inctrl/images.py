# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Reading image files of every common mode as RGB."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from anomalib_inctrl.errors import ImageFileError

if TYPE_CHECKING:
    from torch import Tensor

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
_DEEP_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N", "F"})


def is_deep(path: str | Path) -> bool:
    """Tell from the header whether an image has more than 8 bits a channel, which Pillow clips when converting."""
    try:
        with Image.open(path) as image:
            return image.mode in _DEEP_MODES
    except (OSError, ValueError):
        return False


def image_size(path: str | Path) -> tuple[int, int]:
    """Read the size of an image from its header.

    Args:
        path: Image file.

    Returns:
        Height and width in pixels.

    Raises:
        ImageFileError: If the file is missing or no image.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, ValueError) as error:
        msg = f"{path}: not readable as an image ({error}). Replace or remove the file."
        raise ImageFileError(msg) from error


def read_image(path: str | Path) -> Tensor:
    """Read an image file as RGB.

    Grey, palette, RGBA (alpha dropped), CMYK and 16-bit images are converted; 16-bit ones by their upper 8 bits,
    floating-point ones by their own range.

    Args:
        path: Image file.

    Returns:
        ``(3, H, W)`` float32 in [0, 1].

    Raises:
        ImageFileError: If the file is missing, empty, truncated or no image.
    """
    try:
        with Image.open(path) as image:
            return rgb_tensor(image)
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        size = Path(path).stat().st_size if Path(path).is_file() else None
        found = "no such file" if size is None else f"{size} bytes, not readable as an image ({error})"
        msg = f"{path}: {found}. Replace or remove the file."
        raise ImageFileError(msg) from error


def rgb_tensor(image: Image.Image) -> Tensor:
    """Convert an image of any mode to RGB, by the rules of :func:`read_image`.

    Args:
        image: The image.

    Returns:
        ``(3, H, W)`` float32 in [0, 1].

    Raises:
        OSError: If its pixels, which Pillow reads when first needed, cannot be read.
    """
    pixels = _to_eight_bits(image) if image.mode in _DEEP_MODES else image
    array = np.array(pixels.convert("RGB"))
    return torch.from_numpy(array).permute(2, 0, 1).contiguous().float() / 255


def _to_eight_bits(image: Image.Image) -> Image.Image:
    values = np.array(image).astype(np.float64)
    if image.mode == "F":
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        values = (np.nan_to_num(values, nan=low) - low) / (high - low or 1.0) * 255
    elif image.mode != "I" or values.max(initial=0) > 255:
        # Older Pillow releases read 16-bit images as "I", which may as well hold 8-bit values.
        values = values // 256
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def list_images(folder: str | Path) -> list[Path]:
    """List the image files directly in a folder, sorted by name.

    Args:
        folder: Folder to look into.

    Returns:
        Sorted paths; empty if the folder holds no image files.
    """
    return sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
