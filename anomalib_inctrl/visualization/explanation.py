# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""One figure per query: what it was compared with, where it differs, and what its score is made of."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from PIL import Image, ImageOps

from anomalib_inctrl.visualization.heat_map import HeatMap, check_heat_map, colours, heat_overlay

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    _Tile = tuple[str, Image.Image, HeatMap | None]

MAX_PROMPTS = 8

# Lengths in inches.
_TILE, _PANEL, _GAP, _HEADER, _CAPTION, _BELOW = 4.4, 3.2, 0.25, 0.65, 0.28, 0.65
_SCORE, _LINE, _BAR = 1.0, 0.25, 0.42
_INK, _MUTED, _GROUND, _BLUE, _RED, _GREEN = "#1a1a1a", "#666666", "#e4e4e4", "#3b6ea5", "#b3261e", "#2e7d32"


def explanation_figure(
    image: Image.Image,
    *,
    maps: Mapping[str, HeatMap] | None = None,
    mask: NDArray[Any] | None = None,
    prompts: Sequence[Image.Image] = (),
    k_shot: int | None = None,
    score: float | None = None,
    pred_score: float | None = None,
    threshold: float | None = None,
    pred_label: bool | None = None,
    gt_label: bool | None = None,
    components: Mapping[str, float] | None = None,
    class_name: str = "",
    file_name: str = "",
    dpi: int = 100,
) -> Image.Image:
    """Draw the explanation figure of one query.

    On the left the query, the overlay, and every map with its colour bar; on the right the score, its components as
    bars, and the prompts. Each map is drawn on the fixed range that comes with it, never stretched to its own
    extremes, so that figures with the same ranges can be compared by eye. Values that are not finite are grey.

    Args:
        image: The query, of any size and mode.
        maps: The maps by name, drawn in the order given; the last one is laid over the query too.
        mask: Ground truth `(H, W)`, anomalous where non-zero; drawn as a contour on the overlay.
        prompts: The prompt images; the first eight are drawn.
        k_shot: Number of prompts in use. Defaults to the number of images.
        score: Raw anomaly score in [0, 1].
        pred_score: Normalised score.
        threshold: Value above which the normalised score, or the raw one where none is normalised, means anomalous.
        pred_label: True where the query was labelled anomalous.
        gt_label: True where the query is anomalous.
        components: What the score is computed from, by name, each in [0, 1].
        class_name: Class name; characters that DejaVu Sans lacks appear as question marks.
        file_name: Name of the query's file. Names that are too long are shortened in the middle.
        dpi: Pixels per inch; the figure is about 12 inches wide.

    Returns:
        The figure, in mode `RGB`; equal arguments give equal pixels.

    Raises:
        ValueError: If a map or the mask is not two-dimensional, a range is empty, or `dpi` is below 20.
    """
    maps, components = dict(maps or {}), dict(components or {})
    _check(maps, mask, dpi)
    ratio = min(max(image.height / image.width, 0.25), 1.6)
    tile = _TILE / max(ratio, 1)
    query = ImageOps.contain(image.convert("RGB"), (round(tile * dpi), max(1, round(tile * ratio * dpi))))
    tiles: list[_Tile] = [("query", query, None)]
    if maps:
        last = list(maps)[-1]
        tiles.append((f"{last} on query", heat_overlay(query, maps[last]), None))
    elif mask is not None:
        tiles.append(("ground truth", query, None))
    drawn_maps: list[_Tile] = [(name, colours(heat_map, query.size), heat_map) for name, heat_map in maps.items()]
    # A single map would leave its row half empty.
    rows = [tiles, drawn_maps] if len(maps) > 1 else [tiles + drawn_maps]
    width = len(rows[0]) * (tile + _GAP)
    sides = [width / len(row) - _GAP for row in rows]

    values = {
        "normalised score": None if pred_score is None else f"{pred_score:.3f}",
        "threshold" if pred_score is None else "its threshold": None if threshold is None else f"{threshold:.3f}",
        "ground truth": None if gt_label is None else _label(gt_label),
    }
    notes = [f"{name}: {value}" for name, value in values.items() if value is not None]
    panel = _SCORE + len(notes) * _LINE + len(components) * _BAR + 2 * (_GAP + _CAPTION) + (1.7 if prompts else 0)
    height = _HEADER + max(panel, sum(_CAPTION + side * ratio + _BELOW for side in sides))
    page = _Page(width + _PANEL + 2 * _GAP, height, dpi)
    half = (page.width - 3 * _GAP) / 2
    page.write(class_name, _GAP, 0.18, half, 17, weight="bold")
    page.write(file_name, page.width - _GAP, 0.24, half, 10, color=_MUTED, ha="right")
    y = _HEADER + _CAPTION
    for row, side in zip(rows, sides, strict=True):
        below = y + side * ratio + 0.06
        for position, (name, drawn, heat_map) in enumerate(row):
            x = _GAP + position * (side + _GAP)
            contour = mask if heat_map is None and name != "query" else None
            page.write(name, x, y - _CAPTION, side, 10, weight="bold")
            page.show(drawn, x, y, side, side * ratio, contour)
            if heat_map is not None:
                page.show_colour_bar(heat_map, x, below, side)
            elif contour is not None:
                found = "white line" if contour.any() else "no pixel marked" if gt_label else "no defect"
                page.write(f"ground truth: {found}", x, below, side, 9, color=_MUTED)
        y += _CAPTION + side * ratio + _BELOW

    x, y = width + _GAP, _HEADER
    page.show_score(score, pred_label, x, y)
    y += _SCORE
    for note in notes:
        page.write(note, x, y, _PANEL, 10, color=_MUTED)
        y += _LINE
    y += _GAP / 2
    page.show_bars(components, x, y)
    y += len(components) * _BAR + (_CAPTION + _GAP if components else 0)
    page.show_prompts(prompts, len(prompts) if k_shot is None else k_shot, x, y)
    page.canvas.draw()
    return Image.fromarray(np.asarray(page.canvas.buffer_rgba())).convert("RGB")


def _check(maps: Mapping[str, HeatMap], mask: NDArray[Any] | None, dpi: int) -> None:
    for name, heat_map in maps.items():
        check_heat_map(heat_map, name)
    if mask is not None and (mask.ndim != 2 or not mask.size):
        msg = f"The mask has shape {mask.shape}; expected (H, W)."
        raise ValueError(msg)
    if dpi < 20:
        msg = f"dpi={dpi} is too small to read; use 20 or more."
        raise ValueError(msg)


class _Page:
    """A figure with one axes that covers it, in inches from the top left."""

    def __init__(self, width: float, height: float, dpi: int) -> None:
        self.width, self.height, self.dpi = width, height, dpi
        figure = Figure((width, height), dpi, facecolor="white")
        self.canvas: Any = FigureCanvasAgg(figure)  # its methods have no types
        self.axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), autoscale_on=False)
        self.axes.set_axis_off()
        self.known = get_font(findfont(FontProperties(family="DejaVu Sans"))).get_charmap()

    def write(self, text: str, x: float, y: float, width: float, size: float, **style: Any) -> None:
        """Write one line, shortened in the middle to `width`."""
        text = "".join(c if ord(c) in self.known else "?" for c in " ".join(text.split()))
        font = FontProperties(family="DejaVu Sans", size=size, weight=style.pop("weight", "normal"))
        defaults: dict[str, Any] = {"va": "top", "color": _INK, "parse_math": False, "usetex": False}
        line = self.axes.text(x, y, "", fontproperties=font, **(defaults | style))
        for length in range(min(len(text), 100), 0, -1):
            cut = f"{text[: (length + 1) // 2]}…{text[len(text) - length // 2 :]}"
            line.set_text(text if length == len(text) else cut)
            if line.get_window_extent().width <= width * self.dpi:
                break

    def show(
        self, image: Image.Image, x: float, y: float, width: float, height: float, mask: NDArray[Any] | None = None
    ) -> None:
        """Show an image in the middle of a box, and a white line with a black rim around what a mask marks."""
        scale = min(width / image.width, height / image.height)
        left, top = x + (width - image.width * scale) / 2, y + (height - image.height * scale) / 2
        extent = (left, left + image.width * scale, top + image.height * scale, top)
        self.axes.imshow(image, extent=extent, interpolation="bilinear")
        if mask is None or not mask.any():
            return
        # Box averages keep defects that are smaller than a pixel of the image.
        area = Image.fromarray((mask != 0).astype(np.float32)).resize(image.size, Image.Resampling.BOX)
        marked = np.pad(np.asarray(area) > 0, 1).astype(float)  # closes the line along the border
        columns, rows = (
            start + (np.arange(length + 2) - 0.5) * scale for start, length in zip((left, top), image.size, strict=True)
        )
        for colour, line_width in (("black", 3.5), ("white", 1.6)):
            self.axes.contour(columns, rows, marked, [0.5], colors=colour, linewidths=line_width)

    def show_prompts(self, prompts: Sequence[Image.Image], k_shot: int, x: float, y: float) -> None:
        """Show the prompts in squares, four in a row, as large as the space below `y` allows."""
        shown = prompts[:MAX_PROMPTS]
        caption = f"prompts (K={k_shot})" + (f", {len(shown)} shown" if len(shown) < k_shot else "")
        self.write(caption if k_shot else "zero-shot: no prompts", x, y, _PANEL, 10, weight="bold")
        gap, columns = 0.08, max(1, min(len(shown), 4))
        height = (self.height - y - _CAPTION - _GAP + gap) / max(1, math.ceil(len(shown) / columns))
        side = min((_PANEL + gap) / columns, height) - gap
        for position, image in enumerate(shown):
            row, column = divmod(position, columns)
            small = ImageOps.contain(image.convert("RGB"), (max(1, round(side * self.dpi)),) * 2)
            self.show(small, x + column * (side + gap), y + _CAPTION + row * (side + gap), side, side)

    def show_colour_bar(self, heat_map: HeatMap, x: float, y: float, width: float) -> None:
        low, high, threshold = heat_map.low, heat_map.high, heat_map.threshold
        ramp = colours(HeatMap(np.linspace(low, high, 256)[None], low, high), (256, 1))
        self.axes.imshow(ramp, extent=(x, x + width, y + 0.11, y), aspect="auto")
        finite = heat_map.values[np.isfinite(heat_map.values)]
        note = f"max {float(finite.max()):.3g}" if finite.size else "no finite value"
        self.write(f"{low:.3g}", x, y + 0.15, width / 4, 9, color=_MUTED)
        self.write(f"{high:.3g}", x + width, y + 0.15, width / 4, 9, color=_MUTED, ha="right")
        self.write(note, x + width / 2, y + 0.15, width / 2, 9, ha="center")
        marks = ["grey: not finite"] if finite.size < heat_map.values.size else []
        if threshold is not None and low <= threshold <= high:
            self.axes.vlines(x + (threshold - low) / (high - low) * width, y - 0.02, y + 0.13, _INK, linewidths=2)
            marks.append(f"threshold {threshold:.3g}")
        self.write(", ".join(marks), x + width / 2, y + 0.32, width, 9, color=_MUTED, ha="center")

    def show_score(self, score: float | None, label: bool | None, x: float, y: float) -> None:
        colour = _INK if label is None else _RED if label else _GREEN
        self.write("score", x, y, _PANEL, 10, weight="bold")
        text = "n/a" if score is None else f"{score:.3f}"
        self.write(text, x, y + _CAPTION, _PANEL, 38, weight="bold", color=colour)
        if label is not None:
            box = {"boxstyle": "round,pad=0.4", "facecolor": colour, "edgecolor": "none"}
            style: dict[str, Any] = {"ha": "right", "va": "center", "weight": "bold", "color": "white", "bbox": box}
            self.write(_label(label), x + _PANEL - 0.1, y + 0.57, 1.2, 11, **style)

    def show_bars(self, components: Mapping[str, float], x: float, y: float) -> None:
        if components:
            self.write("components of the score", x, y, _PANEL, 10, weight="bold")
        for name, value in components.items():
            self.write(name, x, y + _CAPTION + 0.04, 0.75 * _PANEL, 10)
            self.write(f"{value:.3f}", x + _PANEL, y + _CAPTION + 0.04, 0.25 * _PANEL, 10, ha="right")
            for length, colour in ((1.0, _GROUND), (float(np.clip(np.nan_to_num(value), 0, 1)), _BLUE)):
                self.axes.barh(y + _CAPTION + 0.28, length * _PANEL, 0.12, left=x, color=colour)
            y += _BAR


def _label(label: bool) -> str:
    return "anomalous" if label else "normal"
