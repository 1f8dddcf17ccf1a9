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


def post_processor_value(pl_module: LightningModule, name: str) -> float | None:
    """A number of the post-processor; None where there is none or validation has not set it."""
    value: Any = getattr(getattr(pl_module, "post_processor", None), name, None)
    return float(value) if value is not None and math.isfinite(value) else None


def raw_threshold(pl_module: LightningModule, level: str) -> float | None:
    """Threshold of raw scores (`image`) or maps (`pixel`) that the post-processor's labels amount to; None without one.

    anomalib applies `1 - sensitivity` to what it has normalised, or to raw values where it does not normalise.
    """
    threshold, cut = (post_processor_value(pl_module, f"{prefix}{level}_threshold") for prefix in ("", "normalized_"))
    if threshold is None or cut is None or not is_normalised(pl_module, level):
        return None if threshold is None else cut
    low, high = (float(post_processor_value(pl_module, f"{level}_{end}") or 0) for end in ("min", "max"))
    return threshold + (cut - 0.5) * (high - low)


def is_normalised(pl_module: LightningModule, level: str) -> bool:
    """Whether the post-processor normalises scores (`image`) or maps (`pixel`); it needs validation images for that."""
    enabled = getattr(getattr(pl_module, "post_processor", None), "enable_normalization", False)
    return enabled and None not in {post_processor_value(pl_module, f"{level}_{end}") for end in ("min", "max")}


def image_rows(batch: ImageBatch, trainer: Trainer, pl_module: LightningModule | None) -> list[dict[str, Any]]:
    """Path, class name, raw and final score, labels and score components of every image; None where not known."""
    size = batch.batch_size
    names = getattr(batch, "class_name", None)
    if names is None:
        names = [getattr(getattr(trainer, "datamodule", None), "category", None) or ""] * size
    threshold = getattr(getattr(pl_module, "post_processor", None), "image_threshold", None)
    # Without a threshold anomalib cuts raw scores at 0.5.
    undecided = isinstance(threshold, torch.Tensor) and bool(threshold.isnan())
    values = {
        "score": getattr(batch, "raw_score", None),
        "pred_score": batch.pred_score,
        "pred_label": None if undecided else batch.pred_label,
        "gt_label": batch.gt_label,
        "p_value": getattr(batch, "p_value", None),
        **score_components(getattr(batch, "components", None)),
    }
    columns: dict[str, list[Any]] = {
        "image_path": [str(path) for path in batch.image_path or [""] * size],
        "class_name": [str(name) for name in names],
    }
    for name, column in values.items():
        columns[name] = [None] * size if column is None else to_cpu(column).reshape(size).tolist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
