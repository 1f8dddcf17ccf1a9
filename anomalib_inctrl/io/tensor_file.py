# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Small files of tensors that can be recomputed: written atomically, verified when read, ignored when damaged."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from anomalib_inctrl.io.files import write_bytes_atomic

logger = logging.getLogger(__name__)


def write_tensors(path: str | Path, identity: str, tensors: Mapping[str, Tensor]) -> Path:
    """Write contiguous tensors on the CPU in the safetensors format, with a checksum of them and of their identity."""
    return write_bytes_atomic(path, save(dict(tensors), {"check": _check(identity, tensors)}))


def read_tensors(path: str | Path, identity: str) -> dict[str, Tensor] | None:
    """Read what :func:`write_tensors` wrote for the same identity.

    None if there is no such file, or, with a warning, if it cannot be read, is damaged or has another identity.
    """
    path = Path(path)
    try:
        if not path.is_file():
            return None
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            check = (file.metadata() or {}).get("check")
    except (SafetensorError, OSError) as error:
        logger.warning("%s: damaged or not readable (%s); it is ignored and recomputed.", path, error)
        return None
    if check != _check(identity, tensors):
        logger.warning("%s: damaged, its checksum does not fit; it is ignored and recomputed.", path)
        return None
    return tensors


def _check(identity: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(identity.encode(), digest_size=20)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()
