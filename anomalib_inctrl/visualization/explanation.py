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
from PIL import Image, ImageOps

from anomalib_inctrl.visualization.heat_map import CLEAR_SHARE, HeatMap, check_heat_map, colours, heat_overlay

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

MAX_PROMPTS = 8

# Lengths in inches.
_TILE, _PANEL, _GAP, _HEADER, _CAPTION, _LINE = 4.4, 3.6, 0.25, 0.65, 0.28, 0.2
_SCORE, _AXIS, _NOTE, _BAR, _BELOW = 1.05, 0.75, 0.25, 0.36, 0.45
_LARGEST_MAP = 3.0
_INK, _MUTED, _GROUND, _BAND, _BLUE, _RED = "#1a1a1a", "#666666", "#e4e4e4", "#7fabdb", "#2f5f96", "#b3261e"


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
    maps, components = dict(maps or {}), dict(components or {})
    _check(maps, mask, dpi)
    ratio = min(max(image.height / image.width, 0.25), 1.6)
    tile = _TILE / max(ratio, 1)
    query = ImageOps.contain(image.convert("RGB"), (round(tile * dpi), max(1, round(tile * ratio * dpi))))
    large: list[_Tile] = [_Tile("image", query)]
    truth = []
    if mask is not None:
        found = "white line" if mask.any() else "no pixel marked" if gt_label else "no defect"
        truth = [f"ground truth: {found}"]
    if maps:
        name, heat_map = list(maps.items())[-1]
        below_map = [*_notes(heat_map), *truth]
        large.append(_Tile(f"{name} over the image", heat_overlay(query, heat_map), heat_map, mask, below_map))
    elif mask is not None:
        large.append(_Tile("ground truth", query, None, mask, truth))
    # A single map is what the overlay shows.
    small = [_Tile(name, colours(heat, query.size), heat, None, _notes(heat)) for name, heat in maps.items()]
    rows = [large, small] if len(small) > 1 else [large]
    width = len(large) * (tile + _GAP)
    sides = [tile, min(width / max(len(small), 1) - _GAP, _LARGEST_MAP)][: len(rows)]
    below = [_BELOW + _LINE * max(len(drawn.notes) for drawn in row) for row in rows]

    label = None if gt_label is None else f"ground truth: {_label(gt_label)}"
    bars = _CAPTION + len(components) * _BAR + _GAP if components else 0
    bars += len(notes) * _LINE
    panel = _SCORE + _AXIS + bool(label) * _NOTE + bars + _CAPTION + _GAP + bool(prompts) * 0.9
    height = _HEADER + max(panel, sum(_CAPTION + s * ratio + b for s, b in zip(sides, below, strict=True)))
    page = _Page(width + _PANEL + 2 * _GAP, height, dpi)
    half = (page.width - 3 * _GAP) / 2
    page.write(class_name, _GAP, 0.18, half, 17, weight="bold")
    page.write(file_name, page.width - _GAP, 0.24, half, 10, color=_MUTED, ha="right")
    y = _HEADER
    for row, side, space in zip(rows, sides, below, strict=True):
        for position, drawn in enumerate(row):
            page.show_tile(drawn, _GAP + position * (side + _GAP), y, side, side * ratio)
        y += _CAPTION + side * ratio + space

    x, y = width + _GAP, _HEADER
    page.show_score(score, threshold, pred_label, x, y)
    page.show_axis(score, threshold, normal_scores, x, y + _SCORE)
    y += _SCORE + _AXIS
    if label:
        page.write(label, x, y - _NOTE / 2, _PANEL, 10, color=_MUTED)
        y += _NOTE
    page.show_bars(components, x, y)
    for number, note in enumerate(reversed(notes), start=1):
        page.write(note, x, y + bars - _GAP - number * _LINE + 0.04, _PANEL, 9, color=_MUTED)
    page.show_prompts(prompts, len(prompts) if k_shot is None else k_shot, x, y + bars)
    page.canvas.draw()
    return Image.fromarray(np.asarray(page.canvas.buffer_rgba())).convert("RGB")


class _Tile(NamedTuple):
    """A picture, the map it shows and the mask to draw on it, and notes to write below."""

    name: str
    picture: Image.Image
    heat_map: HeatMap | None = None
    mask: NDArray[Any] | None = None
    notes: Sequence[str] = ()


def _notes(heat_map: HeatMap) -> list[str]:
    """What a reader cannot see in the colours: a map that is empty, where the threshold is, what is not finite."""
    low, high, threshold = heat_map.low, heat_map.high, heat_map.threshold
    finite = heat_map.values[np.isfinite(heat_map.values)]
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

    def show_tile(self, drawn: _Tile, x: float, y: float, width: float, height: float) -> None:
        """Show a picture under its name, and below it the colour bar and the notes."""
        self.write(drawn.name, x, y, width, 10, weight="bold")
        self.show(drawn.picture, x, y + _CAPTION, width, height, drawn.mask)
        y += _CAPTION + height + 0.06
        if drawn.heat_map is not None:
            self.show_colour_bar(drawn.heat_map, x, y, width)
            y += 0.3
        for note in drawn.notes:
            self.write(note, x + width / 2, y, width, 9, color=_MUTED, ha="center")
            y += _LINE

    def show_prompts(self, prompts: Sequence[Image.Image], k_shot: int, x: float, y: float) -> None:
        """Show the normal references in squares, as large as the space below `y` allows."""
        shown = prompts[:MAX_PROMPTS]
        caption = f"normal references ({k_shot})" + (f", {len(shown)} shown" if len(shown) < k_shot else "")
        self.write(caption if k_shot else "no normal references (zero-shot)", x, y, _PANEL, 10, weight="bold")
        if not shown:
            return
        gap, space = 0.08, self.height - y - _CAPTION - _GAP

        def side_of(columns: int) -> float:
            return min((_PANEL + gap) / columns, (space + gap) / math.ceil(len(shown) / columns)) - gap

        columns = max(range(1, len(shown) + 1), key=side_of)
        side = side_of(columns)
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
        if threshold is not None and low <= threshold <= high:
            self.tick(x + (threshold - low) / (high - low) * width, y - 0.02, y + 0.13)

    def tick(self, x: float, top: float, bottom: float) -> None:
        """Mark a place on a bar, visible on dark and light colours."""
        for colour, line_width in (("white", 4), (_INK, 2)):
            self.axes.vlines(x, top, bottom, colour, linewidths=line_width)

    def show_score(self, score: float | None, threshold: float | None, label: bool | None, x: float, y: float) -> None:
        colour = _INK if label is None else _RED if label else _BLUE
        caption = "score (no threshold is known)" if threshold is None else "score and threshold"
        self.write(caption, x, y, _PANEL, 10, weight="bold")
        text = _comparison(score, threshold, label)
        self.write(text, x, y + _CAPTION + 0.05, _PANEL, 23 if len(text) < 14 else 18, weight="bold", color=colour)
        if label is not None:
            box = {"boxstyle": "round,pad=0.4", "facecolor": colour, "edgecolor": "none"}
            style: dict[str, Any] = {"ha": "right", "va": "center", "weight": "bold", "color": "white", "bbox": box}
            self.write(_label(label), x + _PANEL - 0.1, y + 0.08, 1.2, 11, **style)

    def show_axis(
        self, score: float | None, threshold: float | None, normals: Sequence[float], x: float, y: float
    ) -> None:
        """Show the score, its threshold and the range of normal scores on one axis."""
        normals = [value for value in normals if math.isfinite(value)]
        centre = max(normals, default=0.5) if threshold is None else threshold
        high = min(1.0, 2 * centre) if centre > 0 else 1.0

        def place(value: float) -> float:
            return x + float(np.clip(value / high, 0, 1)) * _PANEL

        self.axes.barh(y, _PANEL, 0.16, left=x, color=_GROUND)
        if normals:
            left, right = place(min(normals)), place(max(normals))
            self.axes.barh(y, max(right - left, 0.03), 0.16, left=left, color=_BAND)
        if threshold is not None:
            self.tick(place(threshold), y - 0.13, y + 0.13)
        if score is not None and math.isfinite(score):
            self.axes.scatter([place(score)], [y - 0.13], s=60, c=_INK, marker="v", linewidths=0, clip_on=False)
        self.write("0", x, y + 0.14, _PANEL / 4, 9, color=_MUTED)
        self.write(f"{high:.3g}", x + _PANEL, y + 0.14, _PANEL / 4, 9, color=_MUTED, ha="right")
        span = f"{min(normals):.3f} to {max(normals):.3f}" if normals else "not known"
        count = f"{len(normals)} normal images" if normals else "scores of normal images"
        self.write(f"{count}: {span}", x, y + 0.34, _PANEL, 10, color=_MUTED)

    def show_bars(self, components: Mapping[str, float], x: float, y: float) -> None:
        if components:
            self.write("components of the score", x, y, _PANEL, 10, weight="bold")
        for name, value in components.items():
            self.write(name, x, y + _CAPTION, 0.75 * _PANEL, 10)
            self.write(f"{value:.3f}", x + _PANEL, y + _CAPTION, 0.25 * _PANEL, 10, ha="right")
            for length, colour in ((1.0, _GROUND), (float(np.clip(np.nan_to_num(value), 0, 1)), _MUTED)):
                self.axes.barh(y + _CAPTION + 0.23, length * _PANEL, 0.08, left=x, color=colour)
            y += _BAR


def _comparison(score: float | None, threshold: float | None, label: bool | None) -> str:
    """Score and threshold with as many digits as it takes to tell them apart."""
    if score is None:
        return "n/a"
    if threshold is None:
        return f"{score:.3f}"
    above = score > threshold if label is None else label
    digits = next((count for count in range(3, 7) if f"{score:.{count}f}" != f"{threshold:.{count}f}"), 3)
    return f"{score:.{digits}f} {'>' if above else '≤'} {threshold:.{digits}f}"


def _label(label: bool) -> str:
    return "anomalous" if label else "normal"
