# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Example pictures of a category: image, truth and heat map, the best and the worst cases alike."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from anomalib_inctrl.visualization import HeatMap, heat_overlay

TILE = 144
_GAP = 4
_GROUND = (128, 128, 128)


class Example(NamedTuple):
    """One picture.

    Attributes:
        image: ``(3, H, W)`` in [0, 1].
        mask: ``(H, W)`` bool, None where it is not known.
        anomaly_map: ``(H, W)``.
        abnormal: Whether it is abnormal.
    """

    image: Tensor
    mask: Tensor | None
    anomaly_map: Tensor
    abnormal: bool


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


def draw_examples(examples: Sequence[Example], maps: Tensor) -> bytes:
    """Draw examples side by side; from top to bottom image, truth and heat map.

    Args:
        examples: What to draw.
        maps: All maps of the category ``(N, H, W)``: they share one range, from their smallest value to the one that
            a thousandth of all pixels exceeds, so that pictures can be compared.

    Returns:
        A JPEG file.
    """
    values = maps.float().flatten().numpy()
    low, high = float(values.min()), float(np.quantile(values, 0.999))
    high = max(high, low + 1e-6)
    step = TILE + _GAP
    sheet = Image.new("RGB", (len(examples) * step - _GAP, 3 * step - _GAP), _GROUND)
    for column, example in enumerate(examples):
        pixels = (example.image.permute(1, 2, 0).numpy() * 255).round().clip(0, 255).astype(np.uint8)
        picture = Image.fromarray(pixels).resize((TILE, TILE))
        tiles = [picture, _truth(example), heat_overlay(picture, HeatMap(example.anomaly_map.numpy(), low, high))]
        for row, tile in enumerate(tiles):
            sheet.paste(tile, (column * step, row * step))
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=80)
    return file.getvalue()


def _truth(example: Example) -> Image.Image:
    if example.mask is None and example.abnormal:
        return Image.new("RGB", (TILE, TILE), _GROUND)  # abnormal, but nobody says where
    mask = torch.zeros(1, 1) if example.mask is None else torch.as_tensor(example.mask).squeeze()
    pixels = mask.byte().mul(255).numpy()
    return Image.fromarray(pixels).convert("RGB").resize((TILE, TILE), Image.Resampling.NEAREST)
