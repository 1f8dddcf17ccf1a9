# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Features of training images that are encoded once and kept, in memory or in a folder.

A store belongs to its settings: everything that features depend on besides the image. An image is identified by its
content. So another backbone, other weights, blocks or preprocessing, or an image file that was replaced, find nothing
in a store; they never find features of something else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anomalib_inctrl.backbones import ImageFeatures
from anomalib_inctrl.errors import ImageFileError
from anomalib_inctrl.io.files import write_text_atomic
from anomalib_inctrl.io.tensor_file import read_tensors, write_tensors

# To be raised when the same settings give other features.
_FORMAT = 2
_READERS = 8


class ImageKeys:
    """Keys of image files by their content; a file is read again only if its size or time has changed."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[int, int], str]] = {}

    def __call__(self, path: str | Path) -> str:
        """Hash the content of an image file, hexadecimal; an ``ImageFileError`` names one that cannot be read."""
        try:
            status = Path(path).stat()
            stamp = status.st_size, status.st_mtime_ns
            known = self._known.get(str(path))
            if known is None or known[0] != stamp:
                content = Path(path).read_bytes()
                known = self._known[str(path)] = stamp, hashlib.blake2b(content, digest_size=20).hexdigest()
        except OSError as error:
            msg = f"{path}: cannot be read ({error}). Replace the file."
            raise ImageFileError(msg) from error
        return known[1]


class FeatureStore:
    """Features in half precision by the content of their image.

    Half precision rounds by at most one part in 2048, far less than neighbouring patches differ by, and halves memory.

    In a folder there is one file an image, shared by all processes and runs that use the folder. Each settings have a
    folder of their own, described by ``settings.json`` in it; to clear up, delete it. Files are written atomically, so
    a process may be killed and several may write at once. Every file names its settings and image and carries a
    checksum, which is verified when it is read; a file that does not fit is reported, ignored, and written again.

    Args:
        settings: Everything that features depend on besides the image, as plain data.
        folder: Folder to keep features in; created when needed. None keeps them in the memory of this process.
    """

    def __init__(self, settings: Mapping[str, Any], folder: str | Path | None = None) -> None:
        self.settings = {"format": _FORMAT, **settings}
        text = json.dumps(self.settings, sort_keys=True)
        self.digest = hashlib.sha256(text.encode()).hexdigest()[:20]
        self.folder = None if folder is None else Path(folder) / self.digest
        self._in_memory: dict[str, ImageFeatures] = {}

    def __contains__(self, key: str) -> bool:
        """Whether there are features for a key; those in a file may still prove damaged when they are read."""
        return key in self._in_memory if self.folder is None else _path(self.folder, key).is_file()

    def get(self, keys: Sequence[str]) -> list[ImageFeatures | None]:
        """Look features up.

        Args:
            keys: From :class:`ImageKeys`.

        Returns:
            For each key the features of one image, patches ``(L, P, D_v)`` and class embedding ``(D,)``, float16 on the
            CPU; None where there are none, or damaged ones.
        """
        if self.folder is None:
            return [self._in_memory.get(key) for key in keys]
        with ThreadPoolExecutor(_READERS) as pool:
            return list(pool.map(self._read, keys))

    def put(self, key: str, features: ImageFeatures) -> ImageFeatures:
        """Keep the features of an image.

        Args:
            key: From :class:`ImageKeys`.
            features: Of one image, patches ``(L, P, D_v)`` and class embedding ``(D,)``.

        Returns:
            The features as they are kept: float16 on the CPU.

        Raises:
            OverflowError: If a value exceeds the range of half precision or is NaN.
        """
        # Copies: a view would keep its whole batch alive, and an inference tensor could not be trained with.
        with torch.inference_mode(mode=False):
            kept = ImageFeatures(_half(features.patches), _half(features.embedding))
        if self.folder is None:
            self._in_memory[key] = kept
            return kept
        if not (settings := self.folder / "settings.json").is_file():
            write_text_atomic(settings, json.dumps(self.settings, indent=2) + "\n")
        tensors = {"patches": kept.patches, "embedding": kept.embedding}
        write_tensors(_path(self.folder, key), f"{self.digest} {key}", tensors)
        return kept

    def _read(self, key: str) -> ImageFeatures | None:
        assert self.folder is not None
        found = read_tensors(_path(self.folder, key), f"{self.digest} {key}")
        return None if found is None else ImageFeatures(found["patches"], found["embedding"])


def _path(folder: Path, key: str) -> Path:
    return folder / key[:2] / f"{key}.safetensors"


def _half(values: Tensor) -> Tensor:
    half = values.detach().to("cpu", torch.float16, copy=True, memory_format=torch.contiguous_format)
    if not bool(half.isfinite().all()):
        msg = "Features exceed the range of half precision. Train without the store: --data.feature_store null."
        raise OverflowError(msg)
    return half
