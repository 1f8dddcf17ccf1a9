# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Weights: read without running code, written atomically, checked against a model, hashed."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from anomalib_inctrl.errors import CheckpointError, PretrainedWeightsError
from anomalib_inctrl.io.files import write_bytes_atomic

_SUFFIXES = {".bin", ".ckpt", ".pt", ".pth", ".pyth", ".safetensors"}


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint or ``.safetensors`` file onto the CPU: tensors and plain data only, code in it is refused.

    Raises:
        PretrainedWeightsError: If there is no such file.
        CheckpointError: If the file is damaged, holds code, or holds no dictionary.
    """
    content = read_safely(path)
    if not isinstance(content, dict):
        msg = f"{path}: expected a dictionary of tensors, found {type(content).__name__}."
        raise CheckpointError(msg)
    return content


def read_safely(path: str | Path) -> Any:
    """Read a file of any content that holds no code; see :func:`read_checkpoint` for arguments and errors."""
    path = Path(path)
    if not path.is_file():
        msg = f"{path}: no such weights file. Check the path."
        raise PretrainedWeightsError(msg)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if zipfile.is_zipfile(path):  # not so PyTorch's format before 1.6; PyTorch leaves the checksums unread
            with zipfile.ZipFile(path) as parts:
                if damaged := parts.testzip():
                    msg = f"the checksum of its part {damaged} does not fit"
                    raise zipfile.BadZipFile(msg)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch raises nearly anything of broken files
        refused = "refused, the file holds more than tensors and plain data, or is damaged"
        found = refused if isinstance(error, UnpicklingError) else "the file is damaged or is no weights file"
        msg = f"{path}: {found}: {error}"
        raise CheckpointError(msg) from error


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a weights file by name, unwrapping a ``state_dict`` entry.

    Raises:
        PretrainedWeightsError: If there is no such file.
        CheckpointError: If the file is damaged, holds code, or holds no tensors.
    """
    content = read_checkpoint(path)
    inside = content.get("state_dict", content)
    entries = inside.items() if isinstance(inside, Mapping) else ()
    tensors = {str(key): value for key, value in entries if isinstance(value, Tensor)}
    if not tensors:
        msg = f"{path}: holds no tensors; its entries are {sorted(map(str, content))[:10]}."
        raise CheckpointError(msg)
    return tensors


def write_checkpoint(path: str | Path, content: Mapping[str, Any]) -> Path:
    """Write tensors and plain data atomically; the same content gives the same bytes."""
    buffer = BytesIO()  # written to a file, PyTorch would hide the system's error when the disk is full
    torch.save(content, buffer)
    return write_bytes_atomic(path, buffer.getvalue())


def check_keys(found: Mapping[str, Any], expected: Mapping[str, Any], source: str) -> None:
    """Refuse entries that do not fit those expected under the same names.

    Raises:
        CheckpointError: If keys are missing or unknown, or entries of another shape; it names them.
    """
    missing, unexpected = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    wrong = sorted(
        key
        for key in found.keys() & expected.keys()
        if (isinstance(expected[key], Mapping) and not isinstance(found[key], Mapping))
        or (isinstance(expected[key], Tensor) and getattr(found[key], "shape", None) != expected[key].shape)
    )
    if missing or unexpected or wrong:
        msg = (
            f"{source}: does not fit this model; missing keys: {_shortened(missing)}, unexpected keys: "
            f"{_shortened(unexpected)}, keys of another shape: {_shortened(wrong)}."
        )
        raise CheckpointError(msg)


def _shortened(keys: list[str]) -> str:
    return f"{keys}" if len(keys) <= 3 else f"{keys[:3]} and {len(keys) - 3} more"


def find_weights_file(
    saved: str | bool | None, folder: Path | None = None, own: str | bool | None = None
) -> str | bool | None:
    """Find the backbone weights that a checkpoint names.

    The user's own file if there is one; otherwise what was saved, or a file of the same name in the checkpoint's folder
    where that path does not exist. Loading checks that these are the weights the checkpoint was made with.
    """
    if isinstance(own, str) and Path(own).is_file():
        return own
    if not isinstance(saved, str) or folder is None or Path(saved).suffix not in _SUFFIXES or Path(saved).is_file():
        return saved
    beside = folder / Path(saved).name
    return str(beside) if beside.is_file() else saved


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors by name, shape and value in single precision; independent of file and device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        value = tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
