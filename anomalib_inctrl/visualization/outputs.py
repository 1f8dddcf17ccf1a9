# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Reading what the models of this package leave on a batch besides anomalib's own fields.

After a test or predict step a batch may carry `raw_score (B,)` and `raw_map (B, H, W)` from before post-processing,
`class_name` with one name per image, and `components`, a dataclass of tensors. Each may be missing, as with other models.
The components are read by their shapes and names, so that a model with more of them needs no change here.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from anomalib.data import ImageBatch
    from lightning.pytorch import LightningModule, Trainer


def to_cpu(values: torch.Tensor) -> torch.Tensor:
    """Copy to the host, as float32 where the values are in a floating format; in any autograd or inference mode."""
    values = values.detach().cpu().as_subclass(torch.Tensor)
    return values.float() if values.is_floating_point() else values


def _tensors(batch: ImageBatch) -> dict[str, torch.Tensor]:
    components: Any = getattr(batch, "components", None)
    if not is_dataclass(components):
        return {}
    values = {field.name: getattr(components, field.name) for field in fields(components)}
    return {name: to_cpu(value) for name, value in values.items() if isinstance(value, torch.Tensor)}


def score_components(batch: ImageBatch) -> dict[str, torch.Tensor]:
    """The components with one value per image, `(B,)` each, by field name; without `score`, which is their result."""
    size = batch.batch_size
    return {name: value for name, value in _tensors(batch).items() if value.shape == (size,) and name != "score"}


def map_components(batch: ImageBatch) -> dict[str, torch.Tensor]:
    """The components whose name ends in `_map`, as maps `(B, h, w)` by field name.

    A map stored over patches, `(B, P)`, is given the components' `grid`, or a square one where they have none.
    """
    size = batch.batch_size
    maps = {}
    for name, value in _tensors(batch).items():
        if not name.endswith("_map") or value.shape[:1] != (size,):
            continue
        if value.ndim == 2:
            side = round(value.shape[1] ** 0.5)
            height, width = getattr(getattr(batch, "components", None), "grid", None) or (side, side)
            maps[name] = value.reshape(size, height, width)
        else:
            maps[name] = value
    return maps


def raw_score(batch: ImageBatch) -> torch.Tensor | None:
    """The score before post-processing `(B,)`, or None for a model that does not keep it."""
    value = getattr(batch, "raw_score", None)
    if value is None:
        value = _tensors(batch).get("score")
    return None if value is None else to_cpu(value).reshape(batch.batch_size)


def pred_label(batch: ImageBatch, pl_module: LightningModule | None) -> torch.Tensor | None:
    """The labels `(B,)`, or None where the post-processor has no threshold: anomalib then cuts raw scores at 0.5."""
    threshold = getattr(getattr(pl_module, "post_processor", None), "image_threshold", None)
    undecided = isinstance(threshold, torch.Tensor) and bool(threshold.isnan())
    return None if undecided or batch.pred_label is None else to_cpu(batch.pred_label)


def class_names(batch: ImageBatch, trainer: Trainer) -> list[str]:
    """One class name per image: the batch's own, else the datamodule's category, else empty."""
    names = getattr(batch, "class_name", None)
    if names is not None:
        return [str(name) for name in names]
    category = getattr(getattr(trainer, "datamodule", None), "category", None)
    return [str(category or "")] * batch.batch_size
