# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Images given by users: files, folders, Pillow images, NumPy arrays and tensors."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from anomalib_inctrl.errors import ImageDataError, ImageFileError
from anomalib_inctrl.io.images import UNREADABLE, eight_bits, list_images, read_image, rgb_tensor
from anomalib_inctrl.io.video import is_frame

ImageInput: TypeAlias = str | Path | Image.Image | NDArray[Any] | Tensor

_KINDS = (str, Path, Image.Image, np.ndarray, Tensor)
_WANTED = "Give paths of images or folders, Pillow images, NumPy arrays (H, W, 3) or tensors (3, H, W)."


class NamedImage(NamedTuple):
    """One image that has not been read yet.

    Attributes:
        name: Path of its file, or its position among the images given: ``images[2]``.
        source: The file, or the image itself.
    """

    name: str
    source: ImageInput

    def read(self) -> Tensor:
        """Read the image as RGB.

        Grey is repeated, transparency laid over black, and 16-bit values are scaled by the bits they use, as those of
        files are; see :func:`~anomalib_inctrl.io.images.read_image`.

        Returns:
            ``(3, H, W)`` float32 in [0, 1].

        Raises:
            ImageFileError: If its file is missing or cannot be read.
            ImageDataError: If it has a wrong shape, a wrong type, or values outside their range.
        """
        if isinstance(self.source, (str, Path)):
            return read_image(self.source)
        if not isinstance(self.source, Image.Image):
            return _rgb_from_values(self.source, self.name)
        try:
            return rgb_tensor(self.source)
        except UNREADABLE as error:
            msg = f"{self.name}: the pixels of this Pillow image cannot be read ({error})."
            raise ImageDataError(msg) from error


def list_inputs(
    images: ImageInput | Iterable[ImageInput],
    argument: str = "images",
    missing_ok: bool = False,
    empty_ok: bool = False,
) -> list[NamedImage]:
    """List images without reading them.

    Args:
        images: One or several of: path of an image file or of a folder (the image files directly in it, sorted), Pillow
            image, NumPy array ``(H, W, 3)`` or ``(H, W)``, tensor ``(3, H, W)``; integer values as 8 or 16 bits,
            floating-point ones in [0, 1]. An array or tensor with one axis more is a batch.
        argument: The caller's argument, for names and errors.
        missing_ok: Whether a path that does not exist is listed, so that only reading it fails.
        empty_ok: Whether there may be no images.

    Returns:
        The images, in order.

    Raises:
        ImageFileError: If a path does not exist or a folder holds no images.
        ImageDataError: If there are no images, or something else than images.
    """
    items: Any = images
    if isinstance(images, _KINDS) and getattr(images, "ndim", 0) != 4:  # a batch iterates over its images
        items = [images]
    if not isinstance(items, Iterable):
        msg = f"{argument}: found {type(images).__name__}. {_WANTED}"
        raise ImageDataError(msg)
    found: list[NamedImage] = []
    for index, item in enumerate(items):
        if isinstance(item, (str, Path)):
            found += [NamedImage(str(path), path) for path in _files(Path(item), missing_ok)]
        elif isinstance(item, _KINDS):
            found.append(NamedImage(f"{argument}[{index}]", item))
        else:
            msg = f"{argument}[{index}]: found {type(item).__name__}. {_WANTED}"
            raise ImageDataError(msg)
    if not (found or empty_ok):
        msg = f"{argument}: found no images. {_WANTED}"
        raise ImageDataError(msg)
    return found


def _files(path: Path, missing_ok: bool) -> list[Path]:
    if os.path.isdir(path):  # noqa: PTH112  # False for names that no file can have
        if files := list_images(path):
            return files
        msg = f"{path}: the folder holds no images. Put them directly into it."
        raise ImageFileError(msg)
    if not (missing_ok or os.path.exists(path) or is_frame(path)):  # noqa: PTH110
        msg = f"{path}: no such file or folder. Correct the path."
        raise ImageFileError(msg)
    return [path]


def _rgb_from_values(source: NDArray[Any] | Tensor, name: str) -> Tensor:
    """Convert an array with its channels last, or a tensor with its channels first, to RGB in [0, 1]."""
    if isinstance(source, Tensor):
        kind, channels, wanted, turn = "a tensor", 0, "(3, H, W)", "first: tensor.permute(2, 0, 1)"
        source = source.detach().cpu()
        array: NDArray[Any] = (source.float() if source.is_floating_point() else source).numpy()
    else:
        kind, channels, wanted, turn = "an array", -1, "(H, W, 3)", "last: array.transpose(1, 2, 0)"
        array = source
    floating, sixteen_bits = array.dtype.kind == "f", array.dtype.newbyteorder("=") == np.uint16
    top = 1 if floating else 65535 if sixteen_bits else 255
    # Rounding in resizing and colour conversion leaves [0, 1] by a little.
    slack = 1e-3 if floating else 0
    fault = None
    if array.dtype.kind not in "uif":
        fault = f"found {kind} of {source.dtype}. Give numbers: uint8, uint16, or floating point in [0, 1]."
    elif array.ndim not in {2, 3} or (array.ndim == 3 and array.shape[channels] not in {1, 3, 4}):
        hint = f" Bring the channels {turn}." if array.ndim == 3 and array.shape[-1 - channels] in {1, 3, 4} else ""
        fault = f"found {kind} {array.shape}; expected {wanted} or (H, W).{hint}"
    elif not array.size:
        fault = f"the image is empty, found {kind} {array.shape}."
    elif floating and not np.isfinite(array).all():
        fault = "holds NaN or infinite values."
    elif array.min() < -slack or array.max() > top + slack:
        low, high = float(array.min()), float(array.max())
        fault = (
            f"values reach from {low:.4g} to {high:.4g}; expected 0 to {top}. Give the image as it is, neither "
            "normalised nor standardised: uint8, or floating point in [0, 1]."
        )
    if fault:
        msg = f"{name}: {fault}"
        raise ImageDataError(msg)
    array = np.moveaxis(array, channels, 0) if array.ndim == 3 else array[None]
    if sixteen_bits:
        opacity = eight_bits(array[3:], name, int(array[3:].max(initial=0)).bit_length())
        array = np.concatenate([eight_bits(array[:3], name), opacity])
    pixels = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    pixels = pixels.clamp(0, 1) if floating else pixels / 255
    if len(pixels) == 4:
        colours, alpha = pixels[:3], pixels[3:]
        return colours * alpha if alpha.any() else colours  # 0 everywhere is an unused channel
    return pixels.expand(3, -1, -1).contiguous()
