# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""One figure per image: what it was compared with, where it differs, and what its score is made of."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from PIL import Image

from anomalib_inctrl.visualization.heat_map import CLEAR_SHARE, HeatMap, check_heat_map, colours, heat_overlay

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

MAX_PROMPTS = 8

# Lengths in inches.
_TILE, _SMALL_TILE, _PANEL, _GAP, _LINE = 4.4, 3.0, 3.6, 0.25, 0.2
_INK, _MUTED, _GROUND, _BAND, _BLUE, _RED = "#1a1a1a", "#666666", "#e4e4e4", "#7fabdb", "#2f5f96", "#b3261e"
_LABELS = {False: "normal", True: "anomalous"}
_KNOWN = get_font(findfont(FontProperties(family="DejaVu Sans"))).get_charmap()


def explanation_figure(
    image: Image.Image,
    *,
    maps: Mapping[str, HeatMap] | None = None,
    mask: NDArray[Any] | None = None,
    prompts: Sequence[Image.Image] = (),
    k_shot: int | None = None,
    score: float | None = None,
    threshold: float | None = None,
    normal_scores: Sequence[float] = (),
    pred_label: bool | None = None,
    gt_label: bool | None = None,
    components: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
    class_name: str = "",
    file_name: str = "",
    dpi: int = 100,
) -> Image.Image:
    """Draw the explanation figure of one image.

    Large on the left the image and the last map over it, below them every map where there are several; on the right
    the score beside its threshold and the scores of normal images, its components as bars, and the normal references.
    Each map is drawn on the fixed range that comes with it, never stretched to its own extremes, so that figures with
    the same ranges can be compared by eye. Values that are not finite are grey.

    Args:
        image: The image that was predicted, of any size and mode.
        maps: The maps by name, drawn in the order given; the last one is laid over the image too.
        mask: Ground truth `(H, W)`, anomalous where non-zero; drawn as a contour on the overlay.
        prompts: The normal references; the first eight are drawn.
        k_shot: Number of normal references in use. Defaults to the number of images.
        score: Anomaly score in [0, 1].
        threshold: Score above which an image is anomalous, on the scale of `score`.
        normal_scores: Scores of normal images, on the scale of `score`; their range is drawn.
        pred_label: True where the image was labelled anomalous.
        gt_label: True where the image is anomalous.
        components: What the score is computed from, by name, each in [0, 1].
        notes: Lines of text below the components.
        class_name: Class name; characters that DejaVu Sans lacks appear as question marks.
        file_name: Name of the image's file. Names that are too long are shortened in the middle.
        dpi: Pixels per inch; the figure is about 13 inches wide.

    Returns:
        The figure, in mode `RGB`; equal arguments give equal pixels.

    Raises:
        ValueError: If a map or the mask is not two-dimensional, a range is empty, or `dpi` is below 20.
    """
    maps = dict(maps or {})
    for name, heat_map in maps.items():
        check_heat_map(heat_map, name)
    if mask is not None and (mask.ndim != 2 or not mask.size):
        msg = f"The mask has shape {mask.shape}; expected (H, W)."
        raise ValueError(msg)
    if dpi < 20:
        msg = f"dpi={dpi} is too small to read; use 20 or more."
        raise ValueError(msg)
    scale = _TILE * dpi / max(image.size)
    query = image.convert("RGB").resize([max(1, round(length * scale)) for length in image.size])
    large = [_Tile("image", query)]
    if maps:
        name, heat_map = list(maps.items())[-1]
        large.append(_Tile(f"{name} over the image", heat_overlay(query, heat_map), heat_map, mask))
    elif mask is not None:
        large.append(_Tile("ground truth", query, None, mask))
    # A single map is what the overlay shows.
    small = [_Tile(name, colours(heat, query.size), heat) for name, heat in maps.items()] if len(maps) > 1 else []

    figure = Figure(dpi=dpi, facecolor="white")
    canvas: Any = FigureCanvasAgg(figure)  # its methods have no types
    axes = figure.add_axes((0, 0, 1, 1), autoscale_on=False)
    axes.set_axis_off()
    ratio = min(max(image.height / image.width, 0.25), 1.6)
    side = _TILE / max(ratio, 1)
    width = len(large) * (side + _GAP)
    header = _Column(axes, _GAP, 0.18, width + _PANEL)
    header.write(class_name, 17, share=0.5, weight="bold")
    header.write(file_name, ha="right", share=0.5, color=_MUTED)
    bottom = 0.65
    for row, limit in ((large, side), (small, _SMALL_TILE)):
        wide = min(width / max(len(row), 1) - _GAP, limit)
        columns = [_Column(axes, _GAP + place * (wide + _GAP), bottom, wide) for place in range(len(row))]
        for column, tile in zip(columns, row, strict=True):
            column.show_tile(tile, wide * ratio, gt_label)
        bottom = max([bottom, *(column.y + _GAP for column in columns)])

    panel = _Column(axes, width + _GAP, 0.65, _PANEL)
    panel.show_score(score, threshold, pred_label)
    panel.show_axis(score, threshold, [value for value in normal_scores if math.isfinite(value)])
    if gt_label is not None:
        panel.write(f"ground truth: {_LABELS[gt_label]}", down=_GAP, color=_MUTED)
    panel.show_components(components or {}, notes)
    panel.show_prompts(prompts[:MAX_PROMPTS], len(prompts) if k_shot is None else k_shot, bottom)
    width, height = width + _PANEL + 2 * _GAP, max(bottom, panel.y + _GAP)
    figure.set_size_inches(width, height)
    axes.set(xlim=(0, width), ylim=(height, 0))
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


class _Tile(NamedTuple):
    """An image, the map shown on it, and the mask to draw on it."""

    name: str
    image: Image.Image
    heat_map: HeatMap | None = None
    mask: NDArray[Any] | None = None


class _Column:
    """Draws one thing below the other, from `y` on, on axes in inches that cover the figure."""

    def __init__(self, axes: Axes, x: float, y: float, width: float) -> None:
        self.axes, self.x, self.y, self.width = axes, x, y, width

    def write(
        self, text: str, size: float = 10, ha: str = "left", share: float = 1, down: float = 0, **style: Any
    ) -> None:
        """Write one line, shortened in the middle to a share of the width, and move `down`."""
        text = "".join(c if ord(c) in _KNOWN else "?" for c in " ".join(text.split()))
        font = FontProperties(family="DejaVu Sans", size=size, weight=style.pop("weight", "normal"))
        style = {"va": "top", "color": _INK, "parse_math": False, "usetex": False, **style}
        x = self.x + {"left": 0, "center": 0.5, "right": 1}[ha] * self.width
        line = self.axes.text(x, self.y, "", fontproperties=font, ha=ha, **style)
        for length in range(min(len(text), 100), 0, -1):
            cut = f"{text[: (length + 1) // 2]}…{text[len(text) - length // 2 :]}"
            line.set_text(text if length == len(text) else cut)
            if line.get_window_extent().width <= share * self.width * self.axes.figure.dpi:
                break
        self.y += down

    def show(self, image: Image.Image, x: float, y: float, width: float, height: float) -> tuple[float, ...]:
        """Show an image in the middle of a box; returns its extent."""
        scale = min(width / image.width, height / image.height) / 2
        x, y, half, high = x + width / 2, y + height / 2, image.width * scale, image.height * scale
        extent = (x - half, x + half, y + high, y - high)
        self.axes.imshow(image, extent=extent, interpolation="bilinear", aspect="auto")
        return extent

    def show_tile(self, tile: _Tile, height: float, gt_label: bool | None) -> None:
        """Show an image under its name, a white line around what its mask marks, and the colour bar with notes."""
        self.write(tile.name, down=0.28, weight="bold")
        left, right, bottom, top = self.show(tile.image, self.x, self.y, self.width, height)
        self.y += height + 0.06
        notes = [] if tile.heat_map is None else self.show_colour_bar(tile.heat_map)
        if tile.mask is not None:
            found = "white line" if tile.mask.any() else "no pixel marked" if gt_label else "no defect"
            notes.append(f"ground truth: {found}")
            # Box averages keep defects that are smaller than a pixel; the margin closes the line along the border.
            area = Image.fromarray((tile.mask != 0).astype(np.float32)).resize(tile.image.size, Image.Resampling.BOX)
            marked = np.pad(np.asarray(area) > 0, 1).astype(float)
            half = (right - left) / tile.image.width / 2
            extent = (left - half, right + half, top - half, bottom + half)
            for colour, line_width in (("black", 3.5), ("white", 1.6)) if tile.mask.any() else ():
                self.axes.contour(marked, [0.5], extent=extent, colors=colour, linewidths=line_width)
        for note in notes:
            self.write(note, 9, "center", down=_LINE, color=_MUTED)

    def show_colour_bar(self, heat_map: HeatMap) -> list[str]:
        """Show the range, the threshold and the largest value; returns what cannot be seen in the colours."""
        low, high, threshold = heat_map.low, heat_map.high, heat_map.threshold
        extent = (self.x, self.x + self.width, self.y + 0.11, self.y)
        self.axes.imshow(np.linspace(0, 1, 256)[None], "inferno", extent=extent, aspect="auto")
        if threshold is not None and low <= threshold <= high:
            self.tick((threshold - low) / (high - low), self.y - 0.02, self.y + 0.13)
        finite = heat_map.values[np.isfinite(heat_map.values)]
        self.y += 0.15
        self.write(f"{low:.3g}", 9, share=0.25, color=_MUTED)
        self.write(f"{high:.3g}", 9, "right", share=0.25, color=_MUTED)
        self.write(f"max {finite.max():.3g}" if finite.size else "no value", 9, "center", 0.5, 0.16)
        faint = low + CLEAR_SHARE * (high - low)
        notes = []
        if finite.size and finite.max() < faint:
            notes.append(f"empty: no value above {faint:.3g}")
        elif finite.size and finite.max() == finite.min():
            notes.append("the same value everywhere")
        if threshold is not None:
            notes.append(f"threshold {threshold:.3g}")
        if finite.size < heat_map.values.size:
            notes.append("grey: not finite")
        return notes

    def bar(self, start: float, stop: float, height: float, colour: str) -> None:
        """Draw a bar around `y`, between two shares of the width."""
        self.axes.barh(self.y, (stop - start) * self.width, height, left=self.x + start * self.width, color=colour)

    def tick(self, share: float, top: float, bottom: float) -> None:
        """Mark a share of the width on a bar, visible on dark and light colours."""
        for colour, line_width in (("white", 4), (_INK, 2)):
            self.axes.vlines(self.x + share * self.width, top, bottom, colour, linewidths=line_width)

    def show_score(self, score: float | None, threshold: float | None, label: bool | None) -> None:
        colour = {None: _INK, True: _RED, False: _BLUE}[label]
        if label is not None:
            box = {"boxstyle": "round,pad=0.4", "facecolor": colour, "edgecolor": "none"}
            self.write(f"{_LABELS[label]} ", 11, "right", weight="bold", color="white", bbox=box)
        caption = "score (no threshold is known)" if threshold is None else "score and threshold"
        self.write(caption, down=0.33, weight="bold")
        text = _comparison(score, threshold, label)
        self.write(text, 23 if len(text) < 14 else 18, down=0.72, weight="bold", color=colour)

    def show_axis(self, score: float | None, threshold: float | None, normals: Sequence[float]) -> None:
        """Show the score, its threshold and the range of normal scores on one axis."""
        centre = max(normals, default=0.5) if threshold is None else threshold
        high = min(1.0, 2 * centre) if centre > 0 else 1.0
        self.bar(0, 1, 0.16, _GROUND)
        summary = "scores of normal images: not known"
        if normals:
            start, stop = (min(value / high, 1) for value in (min(normals), max(normals)))
            self.bar(start, max(stop, start + 0.01), 0.16, _BAND)
            summary = f"{len(normals)} normal images: {min(normals):.3f} to {max(normals):.3f}"
        if threshold is not None:
            self.tick(min(threshold / high, 1), self.y - 0.13, self.y + 0.13)
        if score is not None and math.isfinite(score):
            place = self.x + min(max(score / high, 0), 1) * self.width
            self.axes.scatter([place], [self.y - 0.13], s=60, c=_INK, marker="v", linewidths=0)
        self.y += 0.14
        self.write("0", 9, color=_MUTED)
        self.write(f"{high:.3g}", 9, "right", down=_LINE, color=_MUTED)
        self.write(summary, down=0.28, color=_MUTED)

    def show_components(self, components: Mapping[str, float], notes: Sequence[str]) -> None:
        if components:
            self.y += 0.13
            self.write("components of the score", down=0.28, weight="bold")
        for name, value in components.items():
            self.write(name, share=0.75)
            self.write(f"{value:.3f}", ha="right", share=0.25, down=0.23)
            self.bar(0, 1, 0.08, _GROUND)
            self.bar(0, float(np.clip(np.nan_to_num(value), 0, 1)), 0.08, _MUTED)
            self.y += 0.13
        for note in notes:
            self.write(note, 9, down=_LINE, color=_MUTED)
        self.y += _LINE

    def show_prompts(self, prompts: Sequence[Image.Image], k_shot: int, bottom: float) -> None:
        """Show the normal references in squares, as large as the space down to `bottom` allows."""
        caption = f"normal references ({k_shot})" + (f", {len(prompts)} shown" if len(prompts) < k_shot else "")
        self.write(caption if k_shot else "no normal references (zero-shot)", down=0.28, weight="bold")
        space = max(bottom - _GAP - self.y, 0.9)
        columns = math.ceil(math.sqrt(len(prompts) * _PANEL / space)) or 1
        rows = math.ceil(len(prompts) / columns)
        step = min(_PANEL / columns, space / max(rows, 1))
        for position, image in enumerate(prompts):
            row, column = divmod(position, columns)
            small = image.convert("RGB")
            small.thumbnail((round(step * self.axes.figure.dpi),) * 2)
            self.show(small, self.x + column * step, self.y + row * step, step - 0.08, step - 0.08)
        self.y += rows * step


def _comparison(score: float | None, threshold: float | None, label: bool | None) -> str:
    """Score and threshold with as many digits as it takes to make them differ."""
    if score is None or threshold is None:
        return "n/a" if score is None else f"{score:.3f}"
    above = score > threshold if label is None else label
    digits = next((count for count in range(3, 7) if f"{score:.{count}f}" != f"{threshold:.{count}f}"), 3)
    return f"{score:.{digits}f} {'>' if above else '≤'} {threshold:.{digits}f}"
