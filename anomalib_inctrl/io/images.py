# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Reading image files of every common mode as RGB, and masks."""

from __future__ import annotations

import logging
import os
import re
import struct
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    IMAGEDESCRIPTION,
    IMAGELENGTH,
    IMAGEWIDTH,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
)

from anomalib_inctrl.errors import ImageFileError
from anomalib_inctrl.io.video import is_frame, read_frame

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

logger = logging.getLogger(__name__)

# What files may hold, whatever they are called: pixel images that have a signature. Pillow knows more: readers
# that start other programs (EPS), documents, videos and data without a reader, and FITS, whose offset it ignores.
_COMMON = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
_RARE = ("DIB", "ICO", "PCX", "PSD", "QOI", "SUN")
Image.init()
FORMATS = tuple(name for name in _COMMON + _RARE if name in Image.OPEN)  # builds of Pillow lack some
# MPO, of cameras with two lenses and of phones, is opened as JPEG.
IMAGE_SUFFIXES = frozenset(end for end, name in Image.registered_extensions().items() if name in {*FORMATS, "MPO"})
# What Pillow raises of broken files, by what was met in practice.
UNREADABLE = (
    *(OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, ArithmeticError, MemoryError, struct.error),
    AssertionError,
    Image.DecompressionBombError,
)
_DEEP_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N", "F"})
_DEEP_PPM = ("RGB", 65535)  # how Pillow notes it, colour and largest value
_DEPTHS = (8, 10, 12, 14, 16)
_MAX_SAMPLE_VALUES = (281, 341)  # TIFF's tags MaxSampleValue and SMaxSampleValue
_WARNED: set[str] = set()
_DEPTHS_SEEN: dict[int, str] = {}


class ImageHeader(NamedTuple):
    """Contents of the header of an image file.

    Attributes:
        size: Height and width as displayed, that is turned by the EXIF orientation.
        orientation: EXIF orientation, 1 to 8.
        plain_size: Height and width as Pillow alone reads it, which turns TIFF files only.
        plain: Whether Pillow's conversion to RGB, as by anomalib's reader, gives the right pixels; not so for
            orientations other than 1, more than 8 bits a channel, and transparency.
    """

    size: tuple[int, int]
    orientation: int
    plain_size: tuple[int, int]
    plain: bool


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """Open an image; whatever is wrong with the file becomes an ``ImageFileError`` that names it."""
    try:
        # Not by its path: then Pillow maps the pixels of some TIFF files into memory, and scrambles those it turns.
        with Path(path).open("rb") as file, Image.open(file, formats=FORMATS) as image:
            yield image
    except UNREADABLE as error:
        size = os.path.getsize(path) if os.path.isfile(path) else None  # noqa: PTH113, PTH202  # names of no file as well
        found = "no such file" if size is None else f"{size} bytes, not readable as an image ({error})"
        msg = f"{path}: {found}. Replace or remove the file."
        raise ImageFileError(msg) from error


def read_header(path: str | Path) -> ImageHeader:
    """Read the header of an image; an ``ImageFileError`` names a file that is none."""
    with _opened(path) as image:
        orientation, tags = _orientation(image), _tags(image)
        # Releases of Pillow differ in whether the size of a TIFF file is that before or after turning.
        width, height = (tags[IMAGEWIDTH], tags[IMAGELENGTH]) if tags else image.size
        stored, turned = (height, width), (width, height) if orientation >= 5 else (height, width)
        plain = not (_is_deep(image) or image.has_transparency_data or orientation > 1)
        return ImageHeader(turned, orientation, turned if tags else stored, plain)


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width of an image in pixels as displayed; an ``ImageFileError`` names a file that is none."""
    return read_header(path).size


def open_image(path: str | Path) -> Image.Image:
    """Read an image file in its own mode, upright; an ``ImageFileError`` names a file that cannot be read."""
    with _opened(path) as image:
        image.load()
        return ImageOps.exif_transpose(image)


def read_image(path: str | Path) -> Tensor:
    """Read an image file as RGB, upright by its EXIF orientation.

    Grey, palette, CMYK and other modes are converted, transparency is laid over black, and of several pages or frames
    the first is read. Values of more than 8 bits are scaled to 8 by the number of bits they use: the smallest of 8,
    10, 12, 14 and 16 that holds the largest value of the image, and not less than the file states (TIFF's
    BitsPerSample, MaxSampleValue and SMaxSampleValue, OME's SignificantBits, PNG's sBIT). Floating-point values below
    2 are taken as they are, cut off at 1, and those from 256 on as numbers of so many bits. For other ones, negative
    values and those above 65535 there is no convention: they are read by the range of the image's own values. NaN is
    read as the lowest value.

    Args:
        path: Image file, or a frame of a video file (:mod:`anomalib_inctrl.io.video`).

    Returns:
        ``(3, H, W)`` float32 in [0, 1].

    Raises:
        ImageFileError: If the file is missing, empty, truncated or no image.
    """
    if is_frame(path):
        return _to_tensor(read_frame(path))
    with _opened(path) as image:
        return rgb_tensor(image, path)


def rgb_tensor(image: Image.Image, path: str | Path | None = None) -> Tensor:
    """Convert an image to RGB ``(3, H, W)`` float32 in [0, 1], by the rules of :func:`read_image`.

    Of colours of 16 bits Pillow keeps the upper 8, so that such files are better given by their path.
    """
    # Before the pixels are loaded, which drops some of this.
    orientation, tags, deep = _orientation(image), _tags(image), _is_deep(image)
    bits = _stated_bits(image, path) if deep else 0
    image.load()
    name = str(path or getattr(image, "filename", "") or "an image")
    # Of JPEG files it is the preview for a screen that follows, as every phone writes it.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        message = f"{name} holds several pages or frames: the first is read, as of every such file."
        _warn_once(f"pages of {image.format}", message)
    if image.mode in _DEEP_MODES:
        values = np.array(image)
        grey = eight_bits(values, name, bits)
        if tags.get(PHOTOMETRIC_INTERPRETATION) == 0 and values.dtype.kind != "f":
            grey = 255 - grey  # white is 0; Pillow inverts 8 bits only
        pixels = np.repeat(grey[..., None], 3, axis=-1)
    elif deep and path is not None:
        if tags.get(PLANAR_CONFIGURATION) == 2:
            msg = "16 bits in a plane for each colour; save them pixel by pixel, with PlanarConfiguration 1"
            raise ValueError(msg)
        pixels, tags = _deep_colours(path, bits, image.has_transparency_data), {}
    elif image.has_transparency_data:
        pixels = _on_black(np.array(image.convert("RGBA")))
    else:
        pixels = np.array(image.convert("RGB"))
    return _to_tensor(upright(pixels, 1 if tags else orientation))  # Pillow turns TIFF files


def read_mask(path: str | Path, image_path: str | Path) -> Tensor:
    """Read a mask as it lies over the image as displayed.

    A mask of the size that the image has before turning, but not after, is turned with it.

    Args:
        path: Mask file; every value but 0 counts as marked.
        image_path: File of its image.

    Returns:
        ``(H, W)`` bool, of the mask's own size.

    Raises:
        ImageFileError: If one of the files cannot be read.
    """
    header = read_header(image_path)
    with _opened(path) as image:
        orientation = _orientation(image)
        image.load()
        values = np.array(image if image.mode in {"1", "L", *_DEEP_MODES} else image.convert("RGB")) != 0
        mask = values.any(axis=-1) if values.ndim == 3 else values
        mask = mask if image.format == "TIFF" else upright(mask, orientation)
    if header.orientation >= 5 and mask.shape == header.size[::-1] != header.size:
        mask = upright(mask, header.orientation)
    return torch.from_numpy(mask.copy())


def upright(array: Any, orientation: int) -> Any:
    """Turn an array or tensor ``(H, W, ...)`` by an EXIF orientation; returns ``(H, W, ...)`` or ``(W, H, ...)``."""
    array = array.swapaxes(0, 1) if orientation >= 5 else array
    flipped = tuple(axis for axis, cases in ((0, (3, 4, 7, 8)), (1, (2, 3, 6, 7))) if orientation in cases)
    return array.flip(flipped) if isinstance(array, torch.Tensor) else np.flip(array, flipped)


def eight_bits(values: NDArray[Any], name: str, bits: int = 0) -> NDArray[np.uint8]:
    """Scale values to 0 to 255 by the rules of :func:`read_image`.

    Args:
        values: Numbers of any shape and type.
        name: What they belong to, for the log.
        bits: Number of bits that the file states.

    Returns:
        uint8, of the same shape.
    """
    floating = values.dtype.kind == "f"
    finite = values[np.isfinite(values)] if floating else values
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    used, top = max(bits, int(high).bit_length()), high - low or 1.0
    if low >= 0 and floating and used <= 1:
        low, top = 0.0, 1.0
    elif low >= 0 and (8 if floating else 0) < used <= _DEPTHS[-1]:
        depth = next(depth for depth in _DEPTHS if depth >= used)
        low, top = 0.0, 2.0**depth - 1
        if bits < depth:
            _note_depth(depth, name)
    if floating:
        values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    # One copy at a time, as images may be large; doubles only where values need them.
    scaled: NDArray[Any] = values.astype(np.float64 if values.dtype.itemsize > 2 else np.float32)
    scaled -= low
    scaled *= 255 / top
    return scaled.round(out=scaled).clip(0, 255, out=scaled).astype(np.uint8)


def list_images(folder: str | Path) -> list[Path]:
    """List the image files directly in a folder, sorted by name; hidden files are left out.

    Other files are counted in the log, by their endings.
    """
    visible = [path for path in Path(folder).iterdir() if path.is_file() and not path.name.startswith(".")]
    warn_of_skipped(folder, (path for path in visible if path.suffix.lower() not in IMAGE_SUFFIXES))
    return sorted(path for path in visible if path.suffix.lower() in IMAGE_SUFFIXES)


def warn_of_skipped(folder: str | Path, files: Iterable[Path]) -> None:
    """Log, once for a folder, how many files of which endings are not read; nothing if there are none."""
    if counts := Counter(path.suffix.lower() or "without ending" for path in files):
        endings = ", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items()))
        message = f"{folder}: {counts.total()} files are not read, by their endings ({endings})."
        _warn_once(message, message)


def _warn_once(key: str, message: str) -> None:
    if key not in _WARNED:
        _WARNED.add(key)
        logger.warning(message)


def _note_depth(depth: int, name: str) -> None:
    """Warn, once in a process, of images whose depths were taken from their values and differ."""
    _DEPTHS_SEEN.setdefault(depth, name)
    other, first = next(iter(_DEPTHS_SEEN.items()))
    if depth != other:
        message = (
            f"{first} is read as an image of {other} bits and {name} of {depth}, by their largest values. If they come "
            "from one camera, one of them is read too bright or too dark: store the number of bits in the files (TIFF "
            "MaxSampleValue, PNG sBIT), or give images of 8 bits."
        )
        _warn_once("depths", message)


def _to_tensor(array: NDArray[np.uint8]) -> Tensor:
    # One copy at a time: images may be large.
    pixels = torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)
    return pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def _on_black(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lay RGBA ``(H, W, 4)`` over black; alpha that is 0 everywhere is taken for an unused channel."""
    colours, alpha = values[..., :3], values[..., 3:]
    if not alpha.any() or alpha.min() == 255:
        return colours
    return ((colours.astype(np.uint16) * alpha + 127) // 255).astype(np.uint8)


def _deep_colours(path: str | Path, bits: int, has_alpha: bool) -> NDArray[np.uint8]:
    """Colours of 16 bits, of which Pillow reads the upper 8: ``(H, W, 3)`` as stored."""
    import cv2  # slow to import and rarely needed

    values: Any = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.ndim != 3:
        msg = "colours of 16 bits that cannot be decoded"
        raise ValueError(msg)
    colours = eight_bits(values[..., 2::-1], str(path), bits)  # OpenCV has blue first
    if not has_alpha:
        return colours
    alpha = values[..., 3]
    return _on_black(np.dstack([colours, eight_bits(alpha, str(path), int(alpha.max()).bit_length())]))


def _tags(image: Image.Image) -> dict[int, Any]:
    """The tags of a TIFF file, none of other ones."""
    return getattr(image, "tag_v2", None) or {}


def _is_deep(image: Image.Image) -> bool:
    """Whether an image that is not loaded yet has more than 8 bits a channel, also where Pillow would cut them."""
    if image.mode in _DEEP_MODES:
        return True
    if image.mode not in {"RGB", "RGBA", "RGBX", "LA"} or image.format not in {"PNG", "TIFF", "PPM"}:
        return False
    layouts = [tile[3] for tile in getattr(image, "tile", ())]
    largest = np.max(_tags(image).get(BITSPERSAMPLE, 1))
    return bool(largest > 8) or any(";16" in str(layout) or layout == _DEEP_PPM for layout in layouts)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 where there is none or it cannot be read."""
    try:
        # The method of the base: that of PNG files decodes all pixels.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except UNREADABLE:
        return 1
    return value if value in range(1, 9) else 1


def _stated_bits(image: Image.Image, path: str | Path | None) -> int:
    """How many bits of more than 8 are used, as far as the file states; otherwise 0."""
    if tags := _tags(image):
        largest = [float(np.max(tags[tag])) for tag in _MAX_SAMPLE_VALUES if tag in tags]
        stated = [int(value).bit_length() for value in largest if 0 <= value < 2**16]
        stated += map(int, re.findall(r'SignificantBits="(\d+)"', str(tags.get(IMAGEDESCRIPTION, "")))[:1])
        container = int(np.max(tags.get(BITSPERSAMPLE, 1)))
        return max(*stated, container if container in _DEPTHS[1:-1] else 0, 0)
    if image.format == "PPM" and any(tile[0] == "ppm" and tile[3] != _DEEP_PPM for tile in getattr(image, "tile", ())):
        return 16  # Pillow scales to all of them
    if image.format == "PNG" and path is not None:  # Pillow does not read sBIT
        head = Path(path).read_bytes().partition(b"IDAT")[0]
        chunk = re.search(rb"\0\0\0[\1-\4]sBIT(.{1,4})", head, re.DOTALL)
        return max(chunk[1][: chunk[0][3]]) if chunk else 0
    return 0
