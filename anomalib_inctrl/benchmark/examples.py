# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Example images of a category: image, ground truth and heat map, over the range of scores."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from anomalib_inctrl.visualization import HeatMap, heat_overlay

if TYPE_CHECKING:
    from anomalib_inctrl.data.dataset import GeneralistDataset

_TILE = 144
_GAP = 4
_UNKNOWN = (128, 128, 128)


def choose_examples(scores: Tensor, abnormal: Tensor, count: int) -> list[int]:
    """Choose images to show, without regard to how good they look.

    Args:
        scores: ``(N,)``.
        abnormal: ``(N,)`` bool.
        count: How many; half of them abnormal, rounded up.

    Returns:
        Rows: abnormal ones from the highest score to the lowest, then normal ones from the lowest to the highest,
        evenly spread over the ranks.
    """
    chosen = []
    for kind, wanted, descending in ((True, (count + 1) // 2, True), (False, count // 2, False)):
        rows = (abnormal == kind).nonzero().flatten()
        ranked = rows[scores[rows].argsort(descending=descending, stable=True)]
        places = torch.linspace(0, len(ranked) - 1, min(wanted, len(ranked))).round().long()
        chosen += ranked[places].tolist()
    return chosen


def draw_examples(dataset: GeneralistDataset, rows: Sequence[int], maps: Tensor) -> bytes:
    """Draw examples side by side; from top to bottom image, ground truth and heat map.

    Args:
        dataset: Images ``(3, H, W)`` in [0, 1] with labels and masks, resized by its augmentations.
        rows: Images to draw.
        maps: All maps of the category ``(N, H, W)``: they share one colour range, from their smallest value to the one
            that a thousandth of all pixels exceeds, so that images can be compared.

    Returns:
        A JPEG file.
    """
    values = maps.float().flatten().numpy()
    low, high = float(values.min()), float(np.quantile(values, 0.999))
    high = max(high, low + 1e-6)
    step = _TILE + _GAP
    canvas = Image.new("RGB", (len(rows) * step - _GAP, 3 * step - _GAP), _UNKNOWN)
    for column, row in enumerate(rows):
        item: Any = dataset[row]
        pixels = (item.image.permute(1, 2, 0).numpy() * 255).round().clip(0, 255).astype(np.uint8)
        image = Image.fromarray(pixels).resize((_TILE, _TILE))
        heat_map = heat_overlay(image, HeatMap(maps[row].numpy(), low, high))
        for place, tile in enumerate((image, _truth(item), heat_map)):
            if tile is not None:
                canvas.paste(tile, (column * step, place * step))
    file = io.BytesIO()
    canvas.save(file, "JPEG", quality=80)
    return file.getvalue()


def _truth(item: Any) -> Image.Image | None:
    """The mask as an image; None for an abnormal image without one."""
    if item.gt_mask is None and bool(item.gt_label):
        return None
    mask = torch.zeros(1, 1) if item.gt_mask is None else torch.as_tensor(item.gt_mask).squeeze()
    pixels = mask.byte().mul(255).numpy()
    return Image.fromarray(pixels).convert("RGB").resize((_TILE, _TILE), Image.Resampling.NEAREST)
