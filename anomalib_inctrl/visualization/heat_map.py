# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Anomaly maps as colours on a fixed range, alone and over their image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Residuals of CLIP patch tokens stay far below their bound of 1; used until validation images have shown the range.
RESIDUAL_RANGE = (0.0, 0.3)
# Share of a range, from its lowest value on, that an overlay leaves clear.
CLEAR_SHARE = 1 / 8
# Perceptually uniform, and distinct for readers with any colour vision.
_COLOURS = (colormaps["inferno"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


class HeatMap(NamedTuple):
    """A map and the range of its colours.

    Attributes:
        values: The map `(H, W)`, of any resolution; it covers the whole query image.
        low: Value drawn in black; lower values too.
        high: Value drawn in light yellow; higher values too.
        threshold: Value above which a pixel counts as anomalous, marked on the colour bar; None for no mark.
    """

    values: NDArray[Any]
    low: float = 0.0
    high: float = 1.0
    threshold: float | None = None


def heat_overlay(image: Image.Image, heat_map: HeatMap) -> Image.Image:
    """Lay a map over its image: clear for the lowest eighth of its range, 56 % in the middle, 75 % near the top.

    Args:
        image: The image the map covers, of any size and mode.
        heat_map: The map and its range.

    Returns:
        The image with the map, of the image's size, in mode `RGB`.

    Raises:
        ValueError: If the map is not two-dimensional or its range is empty.
    """
    check_heat_map(heat_map)
    image = image.convert("RGB")
    opacity = [round(min(max(1.5 * (level - 256 * CLEAR_SHARE), 0), 0.75 * 255)) for level in range(256)]
    return Image.composite(colours(heat_map, image.size), image, _level(heat_map, image.size).point(opacity))


def check_heat_map(heat_map: HeatMap, name: str = "anomaly map") -> None:
    """Refuse a map that is not two-dimensional or has an empty range, with a :class:`ValueError`."""
    if heat_map.values.ndim != 2 or not heat_map.values.size:
        msg = f"Map '{name}' has shape {heat_map.values.shape}; expected (H, W)."
        raise ValueError(msg)
    if not heat_map.low < heat_map.high:
        msg = f"Map '{name}' has the empty range {heat_map.low} to {heat_map.high}; give low < high."
        raise ValueError(msg)


def _level(heat_map: HeatMap, size: tuple[int, int]) -> Image.Image:
    """Scale a map to `size` (bilinear) and its range to 0..255; NaN counts as low."""
    values = np.asarray(heat_map.values, dtype=np.float32)
    scaled = np.clip((values - heat_map.low) / (heat_map.high - heat_map.low), 0, 1)
    floats = Image.fromarray(np.nan_to_num(scaled)).resize(size, Image.Resampling.BILINEAR)
    return Image.fromarray(np.rint(np.asarray(floats) * 255).astype(np.uint8))


def colours(heat_map: HeatMap, size: tuple[int, int]) -> Image.Image:
    """Draw a map in its colours, in RGB, at a width and height; what is not finite is grey."""
    drawing = Image.fromarray(_COLOURS[np.asarray(_level(heat_map, size))])
    lost = ~np.isfinite(heat_map.values)
    if lost.any():
        area = Image.fromarray(lost.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)
        drawing.paste("grey", mask=area)
    return drawing
