# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Whether the content of a checkpoint fits a model, checked before any of it is used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from lightning.pytorch.plugins.io.wrapper import _WrappingCheckpointIO
from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from torch import Tensor

from anomalib_inctrl.backbones import Backbone
from anomalib_inctrl.errors import CheckpointError
from anomalib_inctrl.io.weights import check_keys, read_checkpoint
from anomalib_inctrl.models.components.few_shot_model import FewShotModel

_PROMPT_TENSORS = ("patches", "embeddings", "prototypes")
_Content = TypeVar("_Content", bound=BaseModel)


class SafeCheckpointIO(_WrappingCheckpointIO):
    """Reads the trainer's checkpoint files by :func:`read_checkpoint`, whose errors name the file.

    Args:
        checkpoint_io: The trainer's own, which does everything else.
    """

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint file; a ``CheckpointError`` names one that is damaged or holds code."""
        return read_checkpoint(path) if Path(path).is_file() else super().load_checkpoint(path, *args, **kwargs)

    def teardown(self) -> None:
        """Finish what the trainer's own may still be writing."""
        if self.checkpoint_io is not None:
            self.checkpoint_io.teardown()


class _Preprocessing(BaseModel):
    image_size: int
    resize_mode: Literal["squash", "center_crop"]
    mean: list[float]
    std: list[float]


class _ModelState(BaseModel):
    heads_trained: bool


class _BankState(BaseModel):
    class_names: list[str] = []
    files: list[list[str]] = []


def _parse(model: type[_Content], content: Any, source: str) -> _Content:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()[:5])
        msg = f"{source}: damaged or changed, {faults}. Give another copy of the file."
        raise CheckpointError(msg) from error


def check_settings(model: str, types: Mapping[str, Any], content: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Check the settings in a checkpoint that shape the model.

    Args:
        model: Name of the Lightning module's class, for messages.
        types: The arguments that must be there, with their types.
        content: The checkpoint.
        source: Its file, for messages.

    Returns:
        All settings in the checkpoint.

    Raises:
        CheckpointError: If there are none, some are missing, or one has the wrong type.
    """
    saved = content.get("hyper_parameters")
    saved = saved if isinstance(saved, Mapping) else {}
    if missing := [name for name in types if name not in saved]:
        msg = (
            f"{source}: not a checkpoint of {model}; its settings lack {missing} (they are "
            f"{sorted(map(str, saved))[:20]}). Give a checkpoint written by this model."
        )
        raise CheckpointError(msg)
    fields: dict[str, Any] = {name: (kind, ...) for name, kind in types.items()}
    settings = create_model("Settings", __config__=ConfigDict(strict=True), **fields)
    _parse(settings, {name: saved[name] for name in types}, source)
    return dict(saved)


def check_preprocessing(config: object, source: str) -> None:
    """Check the preprocessing in a checkpoint, as :meth:`BackbonePreProcessor.checkpoint_config` gives it.

    Args:
        config: The preprocessing.
        source: Where it comes from, for messages.

    Raises:
        CheckpointError: If it lacks a setting, or one has the wrong type.
    """
    _parse(_Preprocessing, config, source)


def check_state(content: Mapping[str, Any], backbone: Backbone, source: str) -> list[str]:
    """Check the entries of a checkpoint's model that would load and give wrong results.

    Args:
        content: The entries of the PyTorch model, by its own names.
        backbone: The model's backbone, which the prompts must fit.
        source: Where they come from, for messages.

    Returns:
        Class names of the prompts.

    Raises:
        CheckpointError: If values are not finite, or prompts do not fit the backbone; names the entries.
    """
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    if wrong := sorted(key for key, value in tensors.items() if not value.isfinite().all()):
        msg = f"{source}: damaged, NaN or infinite values in {wrong[:10]}. Give another copy of the file."
        raise CheckpointError(msg)
    _parse(_ModelState, content.get("_extra_state", {"heads_trained": False}), source)
    bank = _parse(_BankState, content.get("bank._extra_state", {}), source)
    entries = sorted({key.rpartition(".")[0] for key in content if key.startswith("bank.entries.")})
    if not len(bank.class_names) == len(bank.files) == len(entries):
        msg = f"{source}: damaged, {len(bank.class_names)} class names for prompts of {len(entries)} classes."
        raise CheckpointError(msg)
    for entry in entries:
        shapes = [tuple(getattr(content.get(f"{entry}.{name}"), "shape", ())) for name in _PROMPT_TENSORS]
        if not _fits(backbone, *shapes):
            msg = f"{source}: damaged, prompts {entry!r} of shapes {shapes} do not fit the backbone."
            raise CheckpointError(msg)
    return bank.class_names


def _fits(
    backbone: Backbone, patches: tuple[int, ...], embeddings: tuple[int, ...], prototypes: tuple[int, ...]
) -> bool:
    """Whether the shapes of a class's prompts are those of the backbone, with as many patch grids for each prompt."""
    if prototypes != (2 if backbone.has_text else 0, backbone.embed_dim) or embeddings[1:] != (backbone.embed_dim,):
        return False
    if patches[1:] != (len(backbone.blocks), backbone.num_patches, backbone.patch_width):
        return False
    views, k_shot = patches[0], embeddings[0]
    if not k_shot:
        return views == 0
    return views > 0 and views % k_shot == 0


def load_heads(model: FewShotModel, checkpoint: Mapping[str, Any], source: str) -> None:
    """Load the trained heads of a checkpoint into a model, without its prompts.

    Args:
        model: The model.
        checkpoint: Content of the checkpoint.
        source: Its file, for messages.

    Raises:
        CheckpointError: If they do not fit, or were trained on another backbone.
    """
    state = {
        key.removeprefix("model."): value
        for key, value in checkpoint["state_dict"].items()
        if key.startswith("model.") and not key.startswith("model.bank.")
    }
    own = model.state_dict()
    state |= {key: value for key, value in own.items() if key.startswith("bank.")}
    check_keys(state, own, source)
    check_state(state, model.backbone, source)
    try:
        model.load_state_dict(state)
    except CheckpointError as error:  # of the backbone, which does not know the file
        msg = f"{source}: {error}"
        raise CheckpointError(msg) from error
