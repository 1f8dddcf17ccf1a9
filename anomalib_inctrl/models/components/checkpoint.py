# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Whether the content of a checkpoint fits a model, checked before any of it is used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, create_model
from torch import Tensor

from anomalib_inctrl.backbones import Backbone
from anomalib_inctrl.errors import CheckpointError

_PREPROCESSING = TypeAdapter(dict[str, int | float | str | list[float]])


class _BankState(BaseModel):
    class_names: list[str] = []
    files: list[list[str]] = []


class _ModelState(BaseModel):
    heads_trained: bool


def check_settings(
    module_class: type, names: tuple[str, ...], content: Mapping[str, Any], source: str
) -> dict[str, Any]:
    """Check the settings in a checkpoint that shape the model.

    Args:
        module_class: The Lightning module's class, whose constructor gives the types.
        names: Arguments that must be there.
        content: The checkpoint.
        source: Its file, for messages.

    Returns:
        All settings in the checkpoint.

    Raises:
        CheckpointError: If there are none, some are missing, or one has the wrong type.
    """
    saved = content.get("hyper_parameters", {})
    if not isinstance(saved, Mapping) or (missing := [name for name in names if name not in saved]):
        found = sorted(map(str, saved))[:20] if isinstance(saved, Mapping) else type(saved).__name__
        lacks = f"; its settings lack {missing} (they are {found})" if isinstance(saved, Mapping) else ""
        msg = f"{source}: not a checkpoint of {module_class.__name__}{lacks}. Give a checkpoint written by this model."
        raise CheckpointError(msg)
    hints = get_type_hints(module_class.__init__)  # type: ignore[misc]
    fields: dict[str, Any] = {name: (hints[name], ...) for name in names}
    try:
        create_model("Settings", __config__=ConfigDict(strict=True), **fields)(**{name: saved[name] for name in names})
    except ValidationError as error:
        raise _invalid(source, error) from error
    return dict(saved)


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
    if wrong := sorted(
        key for key, value in content.items() if isinstance(value, Tensor) and not value.isfinite().all()
    ):
        msg = f"{source}: damaged, NaN or infinite values in {wrong[:10]}. Give another copy of the file."
        raise CheckpointError(msg)
    try:
        _ModelState.model_validate(content.get("_extra_state", {"heads_trained": False}))
        bank = _BankState.model_validate(content.get("bank._extra_state", {}))
    except ValidationError as error:
        raise _invalid(source, error) from error
    widths = {
        "patches": (len(backbone.blocks), backbone.num_patches, backbone.patch_width),
        "embeddings": (backbone.embed_dim,),
        "prototypes": (backbone.embed_dim,),
    }
    num_prototypes = 2 if backbone.has_text else 0
    entries = {key.rpartition(".")[0] for key in content if key.startswith("bank.entries.")}
    if not len(bank.class_names) == len(bank.files) == len(entries):
        msg = f"{source}: damaged, {len(bank.class_names)} class names for prompts of {len(entries)} classes."
        raise CheckpointError(msg)
    for entry in sorted(entries):
        found = {name: tuple(getattr(content.get(f"{entry}.{name}"), "shape", ())) for name in widths}
        if (
            not all(found.values())
            or any(found[name][1:] != width for name, width in widths.items())
            or not _is_square_multiple(found["patches"][0], found["embeddings"][0])
            or found["prototypes"][:1] != (num_prototypes,)
        ):
            msg = f"{source}: damaged, prompts {entry!r} of shapes {found} do not fit the backbone."
            raise CheckpointError(msg)
    return bank.class_names


def check_preprocessing(config: object, source: str) -> None:
    """Check the preprocessing in a checkpoint.

    Args:
        config: See :meth:`BackbonePreProcessor.checkpoint_config`; other pre-processors' are not looked at.
        source: Where it comes from, for messages.

    Raises:
        CheckpointError: If it lacks a setting, or one has the wrong type.
    """
    try:
        names = _PREPROCESSING.validate_python(config).keys()
    except ValidationError as error:
        raise _invalid(source, error) from error
    if missing := sorted({"image_size", "resize_mode", "mean", "std"} - names):
        msg = f"{source}: damaged, its preprocessing lacks {missing}. Give another copy of the file."
        raise CheckpointError(msg)


def _is_square_multiple(views: int, k_shot: int) -> bool:
    """Whether there are equally many views of each prompt, a square number of them (``prompt_shifts`` squared)."""
    each, rest = divmod(views, k_shot) if k_shot else (1, views)
    return rest == 0 and each > 0 and math.isqrt(each) ** 2 == each


def _invalid(source: str, error: ValidationError) -> CheckpointError:
    faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()[:5])
    return CheckpointError(f"{source}: damaged or changed, {faults}. Give another copy of the file.")
