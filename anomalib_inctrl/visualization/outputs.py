# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Reading what the models of this package leave on a batch besides anomalib's own fields.

After a test or predict step a batch carries `raw_score (B,)` and `raw_map (B, H, W)` from before post-processing,
`class_name` with one name per image, and `components`, a dataclass of tensors that are read by their shapes and names.
Each may be missing, as with other models.
"""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from anomalib.data import ImageBatch
    from lightning.pytorch import LightningModule, Trainer


def to_cpu(values: torch.Tensor) -> torch.Tensor:
    """Copy to the host, as float32 where the values are in a floating format; in any autograd or inference mode."""
    values = values.detach().cpu().as_subclass(torch.Tensor)
    return values.float() if values.is_floating_point() else values


def tensor_components(components: Any) -> dict[str, torch.Tensor]:
    """The tensors of a dataclass by field name, on the host; empty for None."""
    values = {} if components is None else {field.name: getattr(components, field.name) for field in fields(components)}
    return {name: to_cpu(value) for name, value in values.items() if isinstance(value, torch.Tensor)}


def score_components(components: Any) -> dict[str, torch.Tensor]:
    """The components with one value per image, `(B,)` each, by field name; without `score`, which is their result."""
    return {name: value for name, value in tensor_components(components).items() if value.ndim == 1 and name != "score"}


def pred_label(batch: ImageBatch, pl_module: LightningModule | None) -> torch.Tensor | None:
    """The labels `(B,)`, or None where the post-processor has no threshold: anomalib then cuts raw scores at 0.5."""
    threshold = getattr(getattr(pl_module, "post_processor", None), "image_threshold", None)
    undecided = isinstance(threshold, torch.Tensor) and bool(threshold.isnan())
    return None if undecided else batch.pred_label


def class_names(batch: ImageBatch, trainer: Trainer) -> list[str]:
    """One class name per image: the batch's own, else the datamodule's category, else empty."""
    names = getattr(batch, "class_name", None)
    if names is not None:
        return [str(name) for name in names]
    category = getattr(getattr(trainer, "datamodule", None), "category", None)
    return [str(category or "")] * batch.batch_size


def post_processor_value(pl_module: LightningModule, name: str) -> float | None:
    """A number of the post-processor; None where there is none or validation has not set it."""
    value: Any = getattr(getattr(pl_module, "post_processor", None), name, None)
    return float(value) if value is not None and math.isfinite(value) else None


def per_image(values: torch.Tensor | None, size: int) -> list[Any]:
    """One Python number per image, None each where there are no values."""
    return [None] * size if values is None else to_cpu(values).reshape(size).tolist()
