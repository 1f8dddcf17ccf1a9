# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures as people hold them: files, folders, Pillow images, NumPy arrays and tensors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from anomalib_inctrl.errors import ImageDataError, ImageFileError
from anomalib_inctrl.io.images import UNREADABLE, list_images, read_image, rgb_tensor
from anomalib_inctrl.io.video import is_frame

ImageInput: TypeAlias = str | Path | Image.Image | NDArray[Any] | Tensor

_EIGHT_BITS, _SIXTEEN_BITS = 255.0, 65535.0


class NamedImage(NamedTuple):
    """One picture that has not been read yet.

    Attributes:
        name: Path of its file, or its place among the pictures given: ``images[2]``.
        source: The file, or the picture itself.
    """

    name: str
    source: ImageInput

    def read(self) -> Tensor:
        """Read the picture as RGB.

        Grey is repeated, alpha dropped, 16-bit values are read by their upper 8 bits, as from files.

        Returns:
            ``(3, H, W)`` float32 in [0, 1].

        Raises:
            ImageFileError: If its file is missing or cannot be read.
            ImageDataError: If it is no picture: wrong shape, wrong type, or values outside their range.
        """
        if isinstance(self.source, (str, Path)):
            return read_image(self.source)
        if isinstance(self.source, Image.Image):
            try:
                return rgb_tensor(self.source)
            except UNREADABLE as error:
                msg = f"{self.name}: the pixels of this Pillow image cannot be read ({error})."
                raise ImageDataError(msg) from error
        if isinstance(self.source, Tensor):
            return _as_rgb(_channels_first(self.source, self.name))
        return _as_rgb(_channels_first_of_array(self.source, self.name))


def list_inputs(images: ImageInput | Iterable[ImageInput], argument: str = "images") -> list[NamedImage]:
    """List pictures without reading them.

    Args:
        images: One or several of: path of an image file or of a folder (the image files directly in it, sorted), Pillow
            image, NumPy array ``(H, W, 3)`` or ``(H, W)``, tensor ``(3, H, W)``; integer values as 8 or 16 bits,
            floating-point ones in [0, 1]. An array or tensor with one axis more is a batch.
        argument: What the caller calls them, for names and errors.

    Returns:
        The pictures, in order.

    Raises:
        ImageFileError: If a path does not exist or a folder holds no images.
        ImageDataError: If there are no pictures, or something else than pictures.
    """
    single = isinstance(images, (str, Path, Image.Image, np.ndarray, Tensor))
    if isinstance(images, (np.ndarray, Tensor)) and images.ndim == 4:
        single = False  # a batch iterates over its pictures
    if not single and not isinstance(images, Iterable):
        msg = f"{argument}: found {type(images).__name__}. {_WANTED}"
        raise ImageDataError(msg)
    pictures: list[NamedImage] = []
    for index, item in enumerate([images] if single else images):  # type: ignore[arg-type]
        if isinstance(item, (str, Path)):
            pictures += [NamedImage(str(path), path) for path in _files(Path(item))]
        elif isinstance(item, (Image.Image, np.ndarray, Tensor)):
            pictures.append(NamedImage(f"{argument}[{index}]", item))
        else:
            msg = f"{argument}[{index}]: found {type(item).__name__}. {_WANTED}"
            raise ImageDataError(msg)
    if not pictures:
        msg = f"{argument}: found no pictures. {_WANTED}"
        raise ImageDataError(msg)
    return pictures


_WANTED = "Give paths of images or folders, Pillow images, NumPy arrays (H, W, 3) or tensors (3, H, W)."


def _files(path: Path) -> list[Path]:
    try:
        is_folder, exists = path.is_dir(), path.exists() or is_frame(path)
    except OSError:  # no name that a file can have
        is_folder = exists = False
    if not is_folder:
        if not exists:
            msg = f"{path}: no such file or folder. Correct the path."
            raise ImageFileError(msg)
        return [path]
    if not (files := list_images(path)):
        msg = f"{path}: the folder holds no images. Put them directly into it."
        raise ImageFileError(msg)
    return files


def _channels_first_of_array(array: NDArray[Any], name: str) -> Tensor:
    if array.dtype.kind not in "uif":
        msg = f"{name}: found an array of {array.dtype}. Give numbers: uint8, uint16, or floating point in [0, 1]."
        raise ImageDataError(msg)
    if array.ndim == 3 and array.shape[-1] not in {1, 3, 4}:
        turn = " Bring the channels last: array.transpose(1, 2, 0)." if array.shape[0] in {1, 3, 4} else ""
        msg = f"{name}: found an array {array.shape}; expected (H, W, 3) or (H, W).{turn}"
        raise ImageDataError(msg)
    if array.ndim not in {2, 3}:
        msg = f"{name}: found an array {array.shape}; expected (H, W, 3) or (H, W)."
        raise ImageDataError(msg)
    # PyTorch has no arithmetic on uint16 and takes neither reversed axes nor foreign byte orders.
    kind = np.dtype(np.float32) if array.dtype.kind == "f" else np.dtype(np.int64)
    limit = _SIXTEEN_BITS if (array.dtype.kind, array.dtype.itemsize) == ("u", 2) else _EIGHT_BITS
    tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=kind))
    channels = tensor.permute(2, 0, 1) if tensor.ndim == 3 else tensor.unsqueeze(0)
    return _scaled(channels, limit, name)


def _channels_first(tensor: Tensor, name: str) -> Tensor:
    tensor = tensor.detach().cpu()
    if tensor.ndim == 2:
        tensor = tensor.unsqueeze(0)
    if tensor.ndim != 3 or tensor.shape[0] not in {1, 3, 4}:
        turn = " Bring the channels first: tensor.permute(2, 0, 1)." if tensor.shape[-1] in {1, 3, 4} else ""
        msg = f"{name}: found a tensor {tuple(tensor.shape)}; expected (3, H, W) or (H, W).{turn}"
        raise ImageDataError(msg)
    if tensor.dtype == torch.bool or tensor.is_complex():
        msg = f"{name}: found a tensor of {tensor.dtype}. Give numbers: uint8, or floating point in [0, 1]."
        raise ImageDataError(msg)
    limit = _SIXTEEN_BITS if tensor.dtype == torch.uint16 else _EIGHT_BITS
    return _scaled(tensor.float() if tensor.is_floating_point() else tensor.long(), limit, name)


def _scaled(values: Tensor, limit: float, name: str) -> Tensor:
    """Bring values ``(C, H, W)`` to [0, 1]: integers by their limit, floating-point ones are there already."""
    if not values.numel():
        msg = f"{name}: the picture is empty, {tuple(values.shape[1:])} pixels."
        raise ImageDataError(msg)
    floating = values.is_floating_point()
    if floating and not values.isfinite().all():
        msg = f"{name}: holds NaN or infinite values."
        raise ImageDataError(msg)
    low, high, top = values.amin().item(), values.amax().item(), 1.0 if floating else limit
    # Rounding in resizing and colour conversion leaves [0, 1] by a little.
    slack = 1e-3 if floating else 0
    if low < -slack or high > top + slack:
        msg = (
            f"{name}: values reach from {low:.4g} to {high:.4g}; expected 0 to {top:g}. Give the picture as it is, "
            "neither normalised nor standardised: uint8, or floating point in [0, 1]."
        )
        raise ImageDataError(msg)
    if floating:
        return values.clamp(0, 1)
    return (values // 256 if limit == _SIXTEEN_BITS else values).float() / 255


def _as_rgb(values: Tensor) -> Tensor:
    """Repeat grey, drop alpha."""
    return values[:3].contiguous() if len(values) >= 3 else values[:1].repeat(3, 1, 1)
