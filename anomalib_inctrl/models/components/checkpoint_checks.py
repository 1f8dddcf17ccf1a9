# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Whether what a checkpoint holds fits a model, before anything of it is used."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from anomalib_inctrl.errors import BackboneError, CheckpointError

if TYPE_CHECKING:
    from anomalib_inctrl.backbone import FrozenCLIP


@contextmanager
def naming(source: object) -> Iterator[None]:
    """Name the checkpoint in errors of reading it, and tell by which one its content is none of this model.

    Args:
        source: File or address of the checkpoint.

    Raises:
        CheckpointError: If what it holds makes the code within fail.
    """
    try:
        yield
    except (CheckpointError, BackboneError) as error:
        if str(source) in str(error):
            raise
        msg = f"{source}: {error}"
        raise type(error)(msg) from error
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        msg = (
            f"{source}: does not hold what a checkpoint of this model holds ({type(error).__name__}: {error}). It is "
            "damaged or was changed; give another file."
        )
        raise CheckpointError(msg) from error


def check_values(state: Mapping[str, Any], backbone: FrozenCLIP, source: str) -> None:
    """Refuse what could be loaded and would give nonsense: values that are not finite, prompts of another shape.

    Args:
        state: Entries of the PyTorch model, by its own names.
        backbone: The model's, which the prompts must fit.
        source: Where they come from.

    Raises:
        CheckpointError: If there are such entries; names them.
    """
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if wild := sorted(key for key, value in tensors.items() if not value.isfinite().all()):
        msg = f"{source}: damaged, NaN or infinite values in {wild[:10]}. Give another copy of the file."
        raise CheckpointError(msg)
    widths = {
        "patches": (len(backbone.layers), backbone.num_patches, backbone.patch_width),
        "image": (backbone.embed_dim,),
        "prototypes": (backbone.embed_dim,),
    }
    entries = {key.rpartition(".")[0] for key in state if key.startswith("bank.entries.")}
    names = state.get("bank._extra_state", {}).get("class_names", [])
    if len(names) != len(entries):
        msg = f"{source}: damaged, {len(names)} class names for prompts of {len(entries)} classes."
        raise CheckpointError(msg)
    for entry in sorted(entries):
        found = {name: tuple(getattr(state.get(f"{entry}.{name}"), "shape", ())) for name in widths}
        if (
            not all(found.values())
            or any(found[name][1:] != width for name, width in widths.items())
            or not _belong_together(found["image"][0], found["patches"][0])
            or found["prototypes"][:1] != (2,)
        ):
            msg = f"{source}: damaged, prompts {entry!r} of shapes {found} do not fit the backbone."
            raise CheckpointError(msg)


def _belong_together(k_shot: int, views: int) -> bool:
    """Whether there are as many views of each prompt, a square number of them; see `anomalib_inctrl.prompts.shifts`."""
    each, rest = divmod(views, k_shot) if k_shot else (1, views)
    return rest == 0 and each > 0 and math.isqrt(each) ** 2 == each
