# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Files of the authors' code: reading them, and the names of their weights and of the same tensors here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from anomalib_inctrl.errors import CheckpointError
from anomalib_inctrl.io.weights import check_keys, read_checkpoint, read_safely

if TYPE_CHECKING:
    from anomalib_inctrl.models.inctrl.torch_model import InCTRLModel

# The authors' heads and layers, and where the same ones stand here. Their bn1 layers are never used.
_HEADS = {"diff_head_ref": "image_scorer.head", "diff_head": "map_head"}
_LAYERS = {"projection1": 0, "bn2": 2, "projection2": 3, "bn3": 5, "projection3": 6}
_IDLE_LAYER = "bn1"


def from_official(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Sort weights under the authors' names into backbone and heads; nothing is checked.

    ===================================================  ===============================================
    authors                                              here
    ===================================================  ===============================================
    ``adapter.fc.{0,2}.weight``                          ``image_scorer.adapter.fc.{0,2}.weight``
    ``diff_head_ref.projection{1,2,3}.*``                ``image_scorer.head.layers.{0,3,6}.*``
    ``diff_head_ref.bn{2,3}.*``                          ``image_scorer.head.layers.{2,5}.*``
    ``diff_head.projection{1,2,3}.*``                    ``map_head.layers.{0,3,6}.*``
    ``diff_head.bn{2,3}.*``                              ``map_head.layers.{2,5}.*``
    ``diff_head_ref.bn1.*``, ``diff_head.bn1.*``         left out, the authors never use them
    everything else (``visual.*``, ``transformer.*``)    the backbone, under OpenCLIP's names
    ===================================================  ===============================================

    Args:
        state_dict: Tensors under the authors' names.

    Returns:
        The backbone under OpenCLIP's names in float32, and the heads under the names of ``InCTRLModel``.
    """
    clip: dict[str, Tensor] = {}
    heads: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        owner, _, rest = key.partition(".")
        layer, _, parameter = rest.partition(".")
        if owner in _HEADS and layer == _IDLE_LAYER:
            continue
        if owner in _HEADS and layer in _LAYERS:
            heads[f"{_HEADS[owner]}.layers.{_LAYERS[layer]}.{parameter}"] = value
        elif owner == "adapter":
            heads[f"image_scorer.{key}"] = value
        else:
            clip[key] = value.float()
    return clip, heads


def load_official_weights(model: InCTRLModel, state_dict: Mapping[str, Tensor]) -> None:
    """Load weights under the names of the authors' code, backbone and heads.

    Prompts in the bank were encoded by other weights and are removed.

    Args:
        model: Their model.
        state_dict: Content of the authors' ``.pyth`` file.

    Raises:
        CheckpointError: If a key is missing, unknown, or of another shape; nothing is loaded then.
    """
    backbone, heads = from_official(state_dict)
    ours = ("fusion.", "patch_metric.")
    own = {name: value for name, value in model.head_tensors().items() if not name.startswith(ours)}
    check_keys(heads, own, "official weights of the heads")
    model.backbone.load_weights(backbone, "official weights of the backbone")
    for key, value in heads.items():
        own[key].copy_(value)
    model.bank.clear()
    model.heads_trained = True


def read_official_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a checkpoint of the InCTRL authors' code: a plain state dict, or one under ``model_state``.

    Args:
        path: Their ``.pyth`` file.

    Returns:
        Tensors under the authors' names; a common ``module.`` prefix is removed.

    Raises:
        PretrainedWeightsError: If there is no such file.
        CheckpointError: If the file is damaged, holds code, or holds other things than tensors.
    """
    content = read_checkpoint(path)
    state = content.get("model_state", content)
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        msg = (
            f"{path}: expected the authors' weights, a dictionary of tensors by name (or one under 'model_state'); its "
            f"entries are {sorted(map(str, content))[:10]}. Checkpoints of this package need no conversion."
        )
        raise CheckpointError(msg)
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def read_prompt_tensors(path: str | Path, image_size: tuple[int, int]) -> Tensor:
    """Read a few-shot file of the InCTRL authors: a list of preprocessed images.

    Args:
        path: Their ``.pt`` file.
        image_size: Height and width the images must have.

    Returns:
        The images ``(K, 3, H, W)``, normalised, ready for ``set_prompts``.

    Raises:
        PretrainedWeightsError: If there is no such file.
        CheckpointError: If the file is damaged, holds code, or holds other things.
    """
    content = read_safely(path)
    images = list(content) if isinstance(content, (list, tuple, Tensor)) else []
    shape = (3, *image_size)
    if not images or not all(isinstance(image, Tensor) and tuple(image.shape) == shape for image in images):
        found = [tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__ for image in images[:3]]
        msg = (
            f"{path}: expected a list of preprocessed images {shape}, found "
            f"{type(content).__name__}{f' of {len(images)}, the first {found}' if images else ''}."
        )
        raise CheckpointError(msg)
    return torch.stack(images).float()
