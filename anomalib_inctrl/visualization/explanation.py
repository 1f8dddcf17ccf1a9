# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""One picture per query that shows what was compared with what, and how the score came about."""

from __future__ import annotations

import math
import unicodedata
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from anomalib.visualization.image.functional import apply_colormap
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from anomalib_inctrl.visualization.heat_map import HeatMap, check_heat_map, colours, heat_overlay

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

MAX_PROMPTS = 8
COLUMNS = 4

PAPER, INK, MUTED, FRAME = "#ffffff", "#1a1a1a", "#666666", "#e4e4e4"
BAR, RED, GREEN = "#3b6ea5", "#b3261e", "#2e7d32"


def explanation_figure(
    image: Image.Image,
    *,
    maps: Mapping[str, HeatMap] | None = None,
    overlay: str | None = None,
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
    tile: int = 240,
    font: str | None = None,
) -> Image.Image:
    """Draw the explanation sheet of one query.

    From top to bottom: class and file name; the query, the overlay and every map, four to a row; the prompts, the score
    and its components as bars.

    **Colours.** Each map is drawn on the fixed range that comes with it, printed under the map together with the map's
    own maximum. A map is never stretched to its own extremes: that would paint the noise of a flawless part as red as a
    hole. Sheets drawn with the same ranges can therefore be compared by eye. In the overlay the colour becomes opaque
    with the value, so that the query stays visible where nothing was found. Pixels that are not finite are grey.

    Text is set in DejaVu Sans where matplotlib is installed, else in Pillow's own font. Characters that the font lacks
    (with DejaVu: Chinese, Japanese, Korean and some Indian scripts) appear as boxes unless `font` names one that has
    them.

    Args:
        image: The query, of any size and mode.
        maps: The maps by name, drawn in the order given.
        overlay: Name of the map laid over the query. Defaults to the last one.
        mask: Ground truth `(H, W)`, anomalous where non-zero; drawn as a contour on the overlay.
        prompts: Pictures of the prompts; the first eight are drawn.
        k_shot: Number of prompts in use. Defaults to the number of pictures.
        score: Raw anomaly score in [0, 1], drawn large.
        pred_score: Normalised score.
        threshold: Value above which the normalised score, or the raw one where none is normalised, means anomalous.
        pred_label: True where the query was judged anomalous.
        gt_label: True where the query is anomalous.
        components: What the score is computed from, by name, each in [0, 1].
        class_name: Class name, in any script.
        file_name: Name of the query's file; its middle is left out where it is too long.
        tile: Side of a tile in pixels; text and spacing grow with it.
        font: File or name of a TrueType font.

    Returns:
        The sheet, in mode `RGB`.

    Raises:
        ValueError: If a map or the mask is not two-dimensional, a range is empty, `overlay` names no map, or `tile` is
            smaller than 48.
    """
    maps, components = maps or {}, components or {}
    _check(maps, overlay, mask, tile)
    page = _Page(tile, font)
    count = len(prompts) if k_shot is None else k_shot
    shots = [_fit(prompt.convert("RGB"), page.thumb_side(count)) for prompt in prompts[:MAX_PROMPTS]]

    query = _fit(image.convert("RGB"), tile)
    tiles = [("query", query)]
    if maps:
        overlay = list(maps)[-1] if overlay is None else overlay
        tiles.append((f"{overlay} on query", heat_overlay(query, maps[overlay])))
    elif mask is not None:
        tiles.append(("ground truth", query))
    if mask is not None:
        tiles[-1] = (tiles[-1][0], _contour(tiles[-1][1], mask))
    first_map = len(tiles)
    tiles += [(name, colours(heat_map, query.size)) for name, heat_map in maps.items()]

    rows = -(-len(tiles) // COLUMNS)
    bottom = page.header + rows * page.row
    page.start(bottom + max(page.prompts_height(len(shots), count), page.terms_height(len(components))) + page.gap)
    page.write_header(class_name, file_name)
    for position, (name, picture) in enumerate(tiles):
        x, y = page.tile_corner(position)
        page.write(name, (x, y), page.caption, width=tile)
        page.paste(picture, (x, y + page.line), tile)
        below = (x, y + page.line + tile + page.pad)
        if position >= first_map:
            page.colour_bar(maps[name], below)
        elif position == first_map - 1 and mask is not None:
            empty = "no pixel marked" if gt_label else "no defect"
            note = "white line: ground truth" if np.any(mask) else f"ground truth: {empty}"
            page.write(note, below, page.small, MUTED, width=tile)
    page.write_prompts(shots, count, bottom)
    notes = {
        "ground truth": None if gt_label is None else _word(gt_label),
        "normalised score": None if pred_score is None else _number(pred_score),
        # Where scores are normalised the threshold is on their scale, not on that of the number above.
        "threshold" if pred_score is None else "its threshold": None if threshold is None else _number(threshold),
    }
    page.write_verdict(score, pred_label=pred_label, notes=notes, y=bottom)
    page.write_terms(components, bottom)
    return page.canvas


def _check(maps: Mapping[str, HeatMap], overlay: str | None, mask: NDArray[Any] | None, tile: int) -> None:
    for name, heat_map in maps.items():
        check_heat_map(heat_map, name)
    if overlay is not None and overlay not in maps:
        msg = f"overlay='{overlay}' is none of the maps {sorted(maps)}."
        raise ValueError(msg)
    if mask is not None and (mask.ndim != 2 or not mask.size):
        msg = f"The mask has shape {mask.shape}; expected (H, W)."
        raise ValueError(msg)
    if tile < 48:
        msg = f"tile={tile} is too small to read; use 48 or more."
        raise ValueError(msg)


def _fit(image: Image.Image, side: int) -> Image.Image:
    """Scale to the largest size that fits a square of `side`, keeping proportions."""
    scale = side / max(image.size)
    return image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BICUBIC
    )


def _contour(picture: Image.Image, mask: NDArray[Any]) -> Image.Image:
    """Draw a white line with a black rim around the non-zero part of the mask."""
    binary = Image.fromarray((np.asarray(mask) != 0).astype(np.uint8) * 255)
    # Box averages keep defects that are smaller than a pixel of the tile.
    area = binary.resize(picture.size, Image.Resampling.BOX).point([0] + [255] * 255)
    # What lies within the line shows the picture, save along the border, where the line has no room outside.
    inner = np.array(area)
    inner[:2], inner[-2:], inner[:, :2], inner[:, -2:] = 0, 0, 0, 0
    result = picture.copy()
    result.paste("black", mask=area.filter(ImageFilter.MaxFilter(7)))
    result.paste("white", mask=area.filter(ImageFilter.MaxFilter(5)))
    result.paste(picture, mask=Image.fromarray(inner))
    return result


@lru_cache(maxsize=32)
def _font(source: str | None, size: int, bold: bool) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if source is not None:
        try:
            return ImageFont.truetype(source, size)
        except OSError as error:
            msg = f"font='{source}' is no TrueType font that can be opened; give the path of a .ttf, .otf or .ttc file."
            raise ValueError(msg) from error
    spec = find_spec("matplotlib")
    if spec is not None and spec.origin is not None:
        name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
        path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / name
        if path.is_file():
            return ImageFont.truetype(str(path), size)  # Pillow 10.1 takes no Path
    return ImageFont.load_default(size)


def _printable(text: str) -> str:
    """One line without control characters and lone surrogates, which undecodable file names are made of."""
    return "".join("\ufffd" if unicodedata.category(c) in {"Cc", "Cs"} else c for c in " ".join(text.split()))


def _number(value: float | None) -> str:
    return f"{value:.3f}" if value is not None and math.isfinite(value) else "n/a"


def _word(label: bool) -> str:
    return "anomalous" if label else "normal"


def _bound(value: float) -> str:
    return f"{value:.3g}"


class _Page:
    """The canvas with its measures; every length follows from the tile's side."""

    def __init__(self, tile: int, font: str | None) -> None:
        def px(length: float) -> int:
            return max(1, round(length * tile / 240))

        self.tile, self.px = tile, px
        self.gap, self.pad = px(16), px(5)
        self.line = px(24)  # a caption above a tile
        self.row = self.line + tile + px(44)  # caption, tile, colour bar with its numbers
        self.header = px(60)
        self.width = COLUMNS * (tile + self.gap) + self.gap
        self.title = _font(font, max(9, px(26)), True)
        self.caption = _font(font, max(8, px(15)), True)
        self.text = _font(font, max(8, px(15)), False)
        self.small = _font(font, max(7, px(13)), False)
        self.huge = _font(font, max(12, px(52)), True)

    def start(self, height: int) -> None:
        self.canvas = Image.new("RGB", (self.width, height), PAPER)
        self.draw = ImageDraw.Draw(self.canvas)

    def tile_corner(self, position: int) -> tuple[int, int]:
        row, column = divmod(position, COLUMNS)
        return self.gap + column * (self.tile + self.gap), self.header + row * self.row

    def write(
        self,
        text: str,
        at: tuple[int, int],
        font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
        colour: str = INK,
        *,
        width: int,
        anchor: str = "la",
        middle: bool = False,
    ) -> None:
        """Write one line, shortened to `width`: in the middle, or at the end."""
        text, keep = _printable(text), len(text)
        shown = text
        while font.getlength(shown) > width and keep > 1:
            keep -= 1
            tail = keep // 2 if middle else 0
            shown = f"{text[: keep - tail]}…{text[len(text) - tail :]}"
        # Pillow's bitmap font, the last resort, knows no anchors.
        place = anchor if isinstance(font, ImageFont.FreeTypeFont) else None
        self.draw.text(at, shown, fill=colour, font=font, anchor=place)

    def write_header(self, class_name: str, file_name: str) -> None:
        inner, y = self.width - 2 * self.gap, self.header // 2
        half = round(inner * 0.48)
        self.write(class_name, (self.gap, y), self.title, width=half, anchor="lm")
        self.write(file_name, (self.width - self.gap, y), self.text, MUTED, width=half, anchor="rm", middle=True)

    def paste(self, picture: Image.Image, at: tuple[int, int], side: int) -> None:
        """Paste in the middle of a square, framed where the picture does not fill it."""
        x, y = at
        if picture.size != (side, side):
            self.draw.rectangle((x, y, x + side - 1, y + side - 1), fill=FRAME)
        self.canvas.paste(picture, (x + (side - picture.width) // 2, y + (side - picture.height) // 2))

    def colour_bar(self, heat_map: HeatMap, at: tuple[int, int]) -> None:
        x, y = at
        height = self.px(9)
        ramp = Image.fromarray(np.linspace(0, 255, self.tile).astype(np.uint8)[None])
        self.canvas.paste(apply_colormap(ramp).resize((self.tile, height)), at)
        low, high, threshold = heat_map.low, heat_map.high, heat_map.threshold
        finite = heat_map.values[np.isfinite(heat_map.values)]
        note = f"max {_bound(float(finite.max()))}" if finite.size else "no finite value"
        if 0 < finite.size < heat_map.values.size:
            note += ", grey: not finite"
        elif threshold is not None and low <= threshold <= high:
            mark = x + round((threshold - low) / (high - low) * (self.tile - 1))
            self.draw.line((mark, y - self.px(2), mark, y + height + self.px(2)), fill=INK, width=self.px(2))
            note += f", threshold {_bound(threshold)}"
        y += height + self.px(4)
        side = self.tile // 7
        self.write(_bound(low), (x, y), self.small, MUTED, width=side)
        self.write(note, (x + self.tile // 2, y), self.small, width=self.tile - 2 * side, anchor="ma")
        self.write(_bound(high), (x + self.tile, y), self.small, MUTED, width=side, anchor="ra")

    def thumb_side(self, count: int) -> int:
        return self.tile if count <= 2 else (self.tile - self.pad) // 2

    def prompts_height(self, shown: int, count: int) -> int:
        per_row = 2 if count <= 2 else 4
        rows = max(1, -(-shown // per_row))
        return self.line + rows * (self.thumb_side(count) + self.pad)

    def write_prompts(self, shots: Sequence[Image.Image], count: int, y: int) -> None:
        label = f"prompts (K={count})" + (f", {len(shots)} shown" if 0 < len(shots) < count else "")
        self.write(label, (self.gap, y), self.caption, width=2 * self.tile + self.gap)
        y += self.line
        if not shots:
            note = "zero-shot: no prompts" if count == 0 else "the prompts have no files"
            self.write(note, (self.gap, y), self.text, MUTED, width=2 * self.tile)
        side = self.thumb_side(count)
        for index, shot in enumerate(shots):
            # Thumbnails keep to the columns of the tiles above: one or two to a tile.
            if count <= 2:
                row, x = 0, self.gap + index * (self.tile + self.gap)
            else:
                row, place = divmod(index, 4)
                x = self.gap + place // 2 * (self.tile + self.gap) + place % 2 * (self.tile - side)
            self.paste(shot, (x, y + row * (side + self.pad)), side)

    def write_verdict(
        self, score: float | None, *, pred_label: bool | None, notes: Mapping[str, str | None], y: int
    ) -> None:
        x = self.tile_corner(2)[0]
        self.write("score", (x, y), self.caption, width=self.tile)
        y += self.line
        colour = INK if pred_label is None else RED if pred_label else GREEN
        self.write(_number(score), (x, y), self.huge, colour, width=self.tile)
        y += self.px(64)
        if pred_label is not None:
            box = (x, y, x + self.px(130), y + self.px(30))
            self.draw.rounded_rectangle(box, radius=self.px(6), fill=colour)
            centre = ((box[0] + box[2]) // 2, (box[1] + box[3]) // 2)
            self.write(_word(pred_label), centre, self.caption, PAPER, width=self.px(126), anchor="mm")
            y += self.px(44)
        for name, value in notes.items():
            if value is not None:
                self.write(f"{name}: {value}", (x, y), self.text, MUTED, width=self.tile)
                y += self.px(24)

    def terms_height(self, count: int) -> int:
        return max(self.line + self.px(190), self.line + count * self.px(40))

    def write_terms(self, components: Mapping[str, float], y: int) -> None:
        if not components:
            return
        x, full, height = self.tile_corner(3)[0], self.tile, self.px(12)
        self.write("components of the score", (x, y), self.caption, width=full)
        y += self.line
        for name, value in components.items():
            self.write(name, (x, y), self.text, width=round(full * 0.75))
            self.write(_number(value), (x + full, y), self.text, width=full // 4, anchor="ra")
            top = y + self.px(20)
            self.draw.rectangle((x, top, x + full - 1, top + height - 1), fill=FRAME)
            length = round(min(max(value, 0.0), 1.0) * full) if math.isfinite(value) else 0
            if length:
                self.draw.rectangle((x, top, x + length - 1, top + height - 1), fill=BAR)
            y += self.px(40)
