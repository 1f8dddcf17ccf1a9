# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Cache of text prototypes on disk: 242 sentences take seconds to encode, and are the same for the same weights."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from platformdirs import user_cache_path
from torch import Tensor

from anomalib_inctrl.io.tensor_file import read_tensors, write_tensors

logger = logging.getLogger(__name__)

SWITCH = "ANOMALIB_INCTRL_CACHE"


def cache_folder() -> Path | None:
    """Folder of the cache.

    Returns:
        The folder in the environment variable ``ANOMALIB_INCTRL_CACHE``, or the user's cache folder
        (``$XDG_CACHE_HOME/anomalib-inctrl`` on Linux); None if the variable is ``0``, ``off``, ``no`` or ``false``.
    """
    named = os.environ.get(SWITCH, "").strip()
    if named.lower() in {"0", "off", "no", "false"}:
        return None
    return Path(named).expanduser() if named else user_cache_path("anomalib-inctrl")


def read_prototypes(key: str) -> Tensor | None:
    """Look up prototypes.

    Args:
        key: Hash of everything they depend on.

    Returns:
        Prototypes ``(2, D)``; None if there are none, or damaged ones.
    """
    folder = cache_folder()
    found = None if folder is None else read_tensors(_path(folder, key), key)
    return None if found is None else found.get("prototypes")


def write_prototypes(key: str, prototypes: Tensor) -> None:
    """Keep prototypes; where that fails, they are encoded again next time.

    Args:
        key: Hash of everything they depend on.
        prototypes: ``(2, D)`` on the CPU.
    """
    if (folder := cache_folder()) is None:
        return
    try:
        write_tensors(_path(folder, key), key, {"prototypes": prototypes})
    except OSError as error:
        logger.info("Text prototypes are not kept: %s", error)


def _path(folder: Path, key: str) -> Path:
    return folder / "text" / f"{key}.safetensors"
