# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Reading weights files without running code from them."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anomalib_inctrl.errors import CheckpointError, PretrainedWeightsError


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint: tensors and plain data only, code in it is refused.

    Args:
        path: A file written by ``torch.save`` or a ``.safetensors`` file.

    Returns:
        The dictionary in the file, its tensors on the CPU.

    Raises:
        PretrainedWeightsError: If there is no such file.
        CheckpointError: If the file is damaged, holds code, or holds no dictionary.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"{path}: no such weights file. Check the path."
        raise PretrainedWeightsError(msg)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        msg = f"{path}: refused, the file holds more than tensors and plain data, or is damaged: {error}"
        raise CheckpointError(msg) from error
    except (EOFError, OSError, RuntimeError, ValueError, KeyError, zipfile.BadZipFile) as error:
        msg = f"{path}: the file is damaged or is no weights file: {error}"
        raise CheckpointError(msg) from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        msg = f"{path}: the file is damaged or is no weights file: {error}"
        raise CheckpointError(msg) from error
    if not isinstance(content, dict):
        msg = f"{path}: expected a dictionary of tensors, found {type(content).__name__}."
        raise CheckpointError(msg)
    return content


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a weights file, unwrapping a ``state_dict`` entry.

    Args:
        path: See :func:`read_checkpoint`.

    Returns:
        Tensors by name.

    Raises:
        PretrainedWeightsError: If there is no such file.
        CheckpointError: If the file is damaged, holds code, or holds no tensors.
    """
    content = read_checkpoint(path)
    content = content.get("state_dict", content)
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        msg = f"{path}: holds no tensors; its entries are {sorted(content)[:10]}."
        raise CheckpointError(msg)
    return tensors


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hash tensors by name, shape and value; the same whatever file they were read from and wherever they lie.

    Args:
        tensors: Tensors by name; floating-point ones are taken in single precision.

    Returns:
        SHA-256 in hexadecimal.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        value = tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
