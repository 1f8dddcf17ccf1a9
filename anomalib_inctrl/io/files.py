# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Writing files atomically."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL.Image import SAVE, registered_extensions

if TYPE_CHECKING:
    from PIL.Image import Image


def write_text_atomic(path: str | Path, text: str) -> Path:
    """Write a text file in UTF-8 by :func:`atomic_path`; names that are no text are written as their bytes."""
    return write_bytes_atomic(path, text.encode(errors="surrogateescape"))


def write_bytes_atomic(path: str | Path, content: bytes) -> Path:
    """Write a file by :func:`atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def write_image_atomic(path: str | Path, image: Image) -> Path:
    """Write an image by :func:`atomic_path`, in the format that the suffix names.

    Raises:
        ValueError: If Pillow writes no format with this suffix.
    """
    path = Path(path)
    kind = registered_extensions().get(path.suffix.lower())
    if kind not in SAVE:
        msg = f"{path}: unknown file extension: {path.suffix}. Give a file name that ends in .png or .jpg."
        raise ValueError(msg)
    with atomic_path(path) as temporary:
        image.save(temporary, format=kind, compress_level=1)  # what other formats than PNG ignore
    return path


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary file that replaces another at the end, or is removed on an error.

    A reader sees the old content or the new, never a part. The folder is created; each process has its own file in it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # a full disk is not filled further
