# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The sheet says what it is given, and says it where a person looks for it."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageChops

from anomalib_inctrl.visualization import HeatMap, explanation_figure
from anomalib_inctrl.visualization import sheet as sheet_module

TILE, GAP, TOP = 240, 16, 60 + 24  # of the default sheet: side of a tile, space between tiles, first row of pictures


def grey(width=240, height=240, level=128):
    return Image.new("RGB", (width, height), (level, level, level))


def gaussian(row, column, side=60, peak=1.0):
    y, x = np.mgrid[:side, :side]
    return peak * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * 4.0**2))


def tile_of(sheet, position):
    left = GAP + position % 4 * (TILE + GAP)
    top = TOP + position // 4 * (24 + TILE + 44)
    return np.asarray(sheet.crop((left, top, left + TILE, top + TILE))).astype(int)


def redness(pixels):
    return pixels[..., 0] - pixels[..., 2]


def differ(first, second):
    return first.size != second.size or ImageChops.difference(first, second).getbbox() is not None


@pytest.mark.parametrize("size", [(240, 240), (32, 32), (640, 200), (50, 900), (1, 1)])
@pytest.mark.parametrize("shape", [(15, 15), (1, 1), (240, 240), (7, 31)])
def test_any_size_gives_the_same_page(size, shape):
    sheet = explanation_figure(
        grey(*size), maps={"anomaly map": HeatMap(np.zeros(shape))}, mask=np.ones(shape), score=0.5, class_name="a"
    )
    reference = explanation_figure(grey(), maps={"anomaly map": HeatMap(np.zeros((15, 15)))}, score=0.5, class_name="a")
    assert sheet.mode == "RGB"
    assert sheet.size == reference.size


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_images_of_every_mode(mode):
    assert explanation_figure(grey().convert(mode), prompts=[grey().convert(mode)]).mode == "RGB"


@pytest.mark.parametrize("k_shot", range(9))
def test_every_prompt_is_drawn(k_shot):
    green = Image.new("RGB", (50, 50), (0, 255, 0))
    pixels = np.asarray(explanation_figure(grey(), prompts=[green] * k_shot)).astype(int)
    area = ((pixels == (0, 255, 0)).all(-1)).sum()
    side = TILE if k_shot <= 2 else (TILE - 5) // 2
    assert area == k_shot * side**2


def test_more_prompts_than_fit_are_counted():
    eight = explanation_figure(grey(), prompts=[grey()] * 8)
    more = explanation_figure(grey(), prompts=[grey()] * 9)
    assert eight.size == more.size
    assert differ(eight, more)


@pytest.mark.parametrize("tile", [48, 64, 120, 480])
def test_size_follows_the_tile(tile):
    sheet = explanation_figure(
        grey(), maps={"m": HeatMap(np.eye(9))}, components={"t": 0.5}, class_name="long " * 20, tile=tile
    )
    assert abs(sheet.width - (4 * tile + 5 * tile / 15)) < 5


@pytest.mark.parametrize(
    "name",
    [
        "",
        "screw",
        "Käfer_ß",
        "Шайба",
        "βίδα",
        "برغي",
        "螺丝",
        "ねじ",
        "나사",
        "पेंच",
        "สกรู",
        "🔩",
        "two\nlines\tand\0null",
        "bad\udce9bytes",
        "x" * 500,
    ],
)
def test_names_in_any_script(name):
    sheet = explanation_figure(
        grey(), class_name=name, file_name=name, maps={name: HeatMap(np.eye(9))}, components={name: 0.5}
    )
    other = explanation_figure(grey(), class_name="", file_name="", maps={"": HeatMap(np.eye(9))}, components={"": 0.5})
    assert sheet.size == other.size
    assert differ(sheet, other) == bool(name)
    edges = [
        sheet.crop((0, 0, GAP - 2, sheet.height)),
        sheet.crop((sheet.width - GAP + 2, 0, sheet.width, sheet.height)),
    ]
    assert all(edge.getextrema() == ((255, 255),) * 3 for edge in edges), "text runs off the page"


def test_the_hot_spot_is_hot_where_it_is():
    sheet = explanation_figure(grey(), maps={"anomaly map": HeatMap(gaussian(row=15, column=45))})
    for position in (1, 2):  # overlay, map
        pixels = redness(tile_of(sheet, position))
        row, column = np.unravel_index(pixels.argmax(), pixels.shape)
        assert abs(row - 62) < 20
        assert abs(column - 182) < 20
        assert pixels[62, 182] > 60
        assert pixels[200, 40] <= 0


def test_the_overlay_shows_the_query_where_nothing_was_found():
    query = Image.fromarray(np.random.default_rng(0).integers(0, 255, (240, 240, 3), dtype=np.uint8))
    sheet = explanation_figure(query, maps={"anomaly map": HeatMap(gaussian(15, 45))})
    assert np.array_equal(tile_of(sheet, 1)[140:], np.asarray(query)[140:])
    assert not np.array_equal(tile_of(sheet, 1)[60], np.asarray(query)[60])


def test_the_range_is_the_callers_and_not_the_maps_own():
    faint, strong = gaussian(30, 30, peak=0.1), gaussian(30, 30, peak=1.0)
    hot = [redness(tile_of(explanation_figure(grey(), maps={"m": HeatMap(m)}), 2)).max() for m in (faint, strong)]
    assert hot[0] < 0 < hot[1]
    stretched = explanation_figure(grey(), maps={"m": HeatMap(faint, 0.0, 0.1)})
    assert redness(tile_of(stretched, 2)).max() == hot[1]
    assert differ(stretched, explanation_figure(grey(), maps={"m": HeatMap(strong)})), "the range is printed"


def test_the_chosen_map_is_overlaid():
    maps = {"a": HeatMap(gaussian(10, 10)), "b": HeatMap(gaussian(50, 50))}
    for overlay, hot, cold in (("a", 41, 201), ("b", 201, 41), (None, 201, 41)):
        pixels = redness(tile_of(explanation_figure(grey(), maps=maps, overlay=overlay), 1))
        assert pixels[hot, hot] > 60
        assert pixels[cold, cold] == 0


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 7.0, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_constant_and_non_finite_maps(value, dtype):
    sheet = explanation_figure(grey(), maps={"m": HeatMap(np.full((9, 9), value, dtype=dtype))}, mask=np.zeros((9, 9)))
    pixels = tile_of(sheet, 2)
    assert (pixels == pixels[0, 0]).all()
    assert (len(set(pixels[0, 0])) == 1) == (not np.isfinite(value)), "only values that are not finite are grey"


def test_a_hole_of_nan_leaves_the_rest_readable():
    values = gaussian(15, 45)
    values[40:, :20] = np.nan
    pixels = tile_of(explanation_figure(grey(), maps={"m": HeatMap(values)}), 2)
    assert (pixels[200, 40] == 128).all()
    assert redness(pixels)[62, 182] > 60


@pytest.mark.parametrize("rows", [slice(20, 40), slice(30, 31), slice(0, 20), slice(0, 60)])
def test_the_contour_runs_along_the_mask(rows):
    mask = np.zeros((60, 60), dtype=bool)
    mask[rows, rows] = True
    maps = {"m": HeatMap(np.zeros((9, 9)))}
    plain, marked = (tile_of(explanation_figure(grey(), maps=maps, mask=m), 1) for m in (np.zeros_like(mask), mask))
    changed = (plain != marked).any(-1)
    white = (marked == 255).all(-1)
    assert white.any()
    near = np.zeros((240, 240), dtype=bool)
    start, stop = rows.start * 4, rows.stop * 4
    near[max(0, start - 4) : stop + 4, max(0, start - 4) : stop + 4] = True
    assert not changed[~near].any()
    if rows.stop - rows.start > 5:
        assert not changed[start + 3 : stop - 3, start + 3 : stop - 3].any(), "the defect itself stays visible"


def test_a_defect_of_one_pixel_is_marked():
    mask = np.zeros((1000, 1000))
    mask[501, 499] = 1
    sheet = explanation_figure(grey(1000, 1000), maps={"m": HeatMap(np.zeros((9, 9)))}, mask=mask)
    assert (tile_of(sheet, 1)[115:125, 115:125] == 255).all(-1).any()


def bar_lengths(sheet):
    column = np.asarray(sheet.crop((GAP + 3 * (TILE + GAP), 0, GAP + 3 * (TILE + GAP) + TILE, sheet.height))).astype(
        int
    )
    blue = (column == (0x3B, 0x6E, 0xA5)).all(-1).sum(1)
    starts = np.flatnonzero((blue > 0) & (np.roll(blue, 1) == 0))
    return [int(blue[start]) for start in starts]


def test_bars_are_as_long_as_the_terms():
    components = {
        "text score": 0.25,
        "image score": 1.0,
        "patch score": 0.5,
        "beyond": 1.7,
        "none": 0.0,
        "lost": float("nan"),
    }
    assert bar_lengths(explanation_figure(grey(), components=components)) == [60, 240, 120, 240]


def test_the_page_grows_with_terms_and_maps():
    few = explanation_figure(grey(), maps={"m": HeatMap(np.eye(3))}, components={"t": 0.5})
    many = explanation_figure(
        grey(), maps={f"{i}": HeatMap(np.eye(3)) for i in range(9)}, components={f"{i}": 0.5 for i in range(12)}
    )
    assert many.width == few.width
    assert many.height > few.height + 2 * TILE
    assert len(bar_lengths(many)) == 12


def test_all_that_is_stated_is_on_the_sheet():
    values = {
        "score": 0.25,
        "pred_score": 0.75,
        "threshold": 0.5,
        "pred_label": True,
        "gt_label": False,
        "class_name": "washer",
        "file_name": "000.png",
        "components": {"text score": 0.1},
    }
    full = explanation_figure(grey(), **values)
    for name in values:
        assert differ(full, explanation_figure(grey(), **{k: v for k, v in values.items() if k != name})), name
    for name, other in {"score": 0.26, "pred_label": False, "gt_label": True, "file_name": "001.png"}.items():
        assert differ(full, explanation_figure(grey(), **(values | {name: other}))), name
    assert not differ(full, explanation_figure(grey(), **values))


def test_it_says_which_score_the_threshold_is_for(monkeypatch):
    written, write = [], sheet_module._Page.write
    monkeypatch.setattr(
        sheet_module._Page, "write", lambda page, text, *a, **k: (written.append(text), write(page, text, *a, **k))
    )
    explanation_figure(grey(), score=0.43, pred_score=0.79, threshold=0.5, pred_label=True)
    assert {"0.430", "normalised score: 0.790", "its threshold: 0.500"} <= set(written)
    written.clear()
    explanation_figure(grey(), score=0.43, threshold=0.4, pred_label=True)
    assert {"0.430", "threshold: 0.400"} <= set(written)


def test_threshold_is_marked_on_the_colour_bar():
    plain, marked = (explanation_figure(grey(), maps={"m": HeatMap(np.eye(3), 0, 1, t)}) for t in (None, 0.25))
    left, top = GAP + 2 * (TILE + GAP), TOP + TILE
    box = ImageChops.difference(plain, marked).crop((left, top, left + TILE, top + 15)).getbbox()
    assert box is not None
    assert abs((box[0] + box[2]) / 2 - 60) < 3


def test_inputs_are_left_alone():
    query, values, mask = grey(), gaussian(15, 45), np.eye(9)
    before = query.tobytes(), values.copy(), mask.copy()
    explanation_figure(query, maps={"m": HeatMap(values)}, mask=mask, prompts=[query])
    assert query.tobytes() == before[0]
    assert np.array_equal(values, before[1])
    assert np.array_equal(mask, before[2])


def test_a_font_can_be_chosen():
    font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSerif.ttf"
    plain, serif = (explanation_figure(grey(), class_name="washer", font=f) for f in (None, str(font)))
    assert differ(plain, serif)
    with pytest.raises(ValueError, match="no-such-font"):
        explanation_figure(grey(), font="no-such-font.ttf")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"maps": {"residual map": HeatMap(np.zeros(9))}}, r"residual map.*\(9,\)"),
        ({"maps": {"residual map": HeatMap(np.zeros((0, 4)))}}, r"residual map.*\(0, 4\)"),
        ({"maps": {"residual map": HeatMap(np.eye(3), 0.5, 0.5)}}, "residual map.*0.5 to 0.5"),
        ({"mask": np.zeros((1, 3, 3))}, r"mask.*\(1, 3, 3\)"),
        ({"maps": {"a": HeatMap(np.eye(3))}, "overlay": "b"}, "overlay='b'"),
        ({"tile": 10}, "tile=10"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        explanation_figure(grey(), **arguments)
