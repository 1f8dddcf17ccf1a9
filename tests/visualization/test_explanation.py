# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Heat maps on fixed ranges, and explanation figures of every combination of inputs."""

from concurrent.futures import ThreadPoolExecutor

import matplotlib
import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from anomalib_inctrl.visualization import HeatMap, explanation_figure, heat_overlay
from anomalib_inctrl.visualization.heat_map import colours

QUERY = Image.new("RGB", (60, 60), (90, 120, 90))
FULL = {
    "maps": {"residual map": HeatMap(np.eye(9)), "anomaly map": HeatMap(np.eye(15), 0, 1, 0.5)},
    "mask": np.eye(60),
    "prompts": [Image.new("RGB", (50, 50), "blue")] * 2,
    "k_shot": 3,
    "score": 0.25,
    "threshold": 0.5,
    "normal_scores": [0.1, 0.2],
    "pred_label": True,
    "gt_label": False,
    "components": {"text score": 0.1},
    "notes": ["unknown words: none"],
    "class_name": "washer",
    "file_name": "000.png",
}


def draw(query=QUERY, **arguments):
    return np.asarray(explanation_figure(query, **{"dpi": 40} | arguments)).astype(int)


def spot(row, column, peak=1.0):
    y, x = np.mgrid[:60, :60]
    return peak * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 32)


@pytest.fixture
def written(monkeypatch):
    """Texts of the figures drawn."""
    texts, set_text = [], Text.set_text
    monkeypatch.setattr(Text, "set_text", lambda self, text: texts.append(text) or set_text(self, text))
    return texts


@pytest.mark.parametrize(("maps", "prompts"), [(0, 0), (0, 1), (1, 4), (4, 9)])
@pytest.mark.parametrize("size", [(60, 60), (1, 1), (2000, 1), (30, 300)])
def test_every_number_of_maps_and_prompts_and_every_shape_is_drawn(maps, prompts, size):
    figure = explanation_figure(
        QUERY.resize(size),
        maps={f"map {i}": HeatMap(spot(30, 10 * i)) for i in range(maps)},
        prompts=[QUERY.convert(mode).resize(size) for mode in ("L", "RGBA", "P", "CMYK", "1", *"L" * 4)][:prompts],
        components={f"score {i}": 0.2 * i for i in range(maps)},
        mask=np.ones((5, 5)) if prompts else None,
        dpi=25,
    )
    assert figure.mode == "RGB"
    assert min(figure.size) > 50


@pytest.mark.parametrize("name", FULL)
def test_every_argument_changes_the_figure(name):
    assert not np.array_equal(draw(**FULL), draw(**{key: value for key, value in FULL.items() if key != name}))


def test_threads_and_the_users_settings_of_matplotlib_change_nothing():
    with ThreadPoolExecutor(4) as pool:
        drawn = {value.tobytes() for value in pool.map(lambda _: draw(**FULL), range(8))}
    settings = {"font.family": "serif", "font.size": 30, "text.color": "red", "axes.facecolor": "black"}
    with matplotlib.rc_context(settings | {"figure.facecolor": "black", "image.cmap": "gray", "figure.dpi": 300}):
        drawn.add(draw(**FULL).tobytes())
    assert len(drawn) == 1


def test_ranges_maxima_and_thresholds_are_written(written):
    maps = {
        "residual map": HeatMap(spot(30, 30, 0.25), 0, 0.0314),
        "DASL map": HeatMap(np.full((4, 4), 1e-4)),
        "OASL map": HeatMap(np.where(np.eye(4), np.nan, 1)),
        "anomaly map": HeatMap(np.full((4, 4), np.inf), 0, 1, 0.4),
    }
    draw(maps=maps, prompts=[QUERY] * 9, class_name="part", file_name="0.png")
    assert {"0.0314", "max 0.25", "max 0.0001", "max 1", "grey: not finite", "no value"} <= set(written)
    assert written.count("threshold 0.4") == 2  # below the overlay and below the map
    assert {"image", "anomaly map over the image", "normal references (9), 8 shown"} <= set(written)
    draw(mask=np.zeros((4, 4)), gt_label=True)
    assert {"ground truth: no pixel marked", "ground truth: anomalous"} <= set(written)
    assert {"n/a", "no normal references (zero-shot)", "scores of normal images: not known"} <= set(written)
    assert not [text for text in written if "…" in text]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ({"score": 0.345, "threshold": 0.309, "pred_label": True}, {"0.345 > 0.309", "anomalous"}),
        ({"score": 0.309, "threshold": 0.309, "pred_label": False}, {"0.309 ≤ 0.309", "normal"}),
        ({"score": 0.30904, "threshold": 0.30901}, {"0.30904 > 0.30901"}),
        ({"score": 0.345}, {"0.345", "score (no threshold is known)"}),
        ({"score": float("nan"), "threshold": 0.4, "pred_label": False}, {"nan ≤ 0.400"}),
        ({"score": 0.3, "normal_scores": [0.25, 0.1, 0.2]}, {"3 normal images: 0.100 to 0.250"}),
        ({"score": 0.3, "threshold": 0.8, "normal_scores": [0.0]}, {"1 normal images: 0.000 to 0.000", "1"}),
    ],
)
def test_score_threshold_and_normal_scores_are_written_on_one_scale(written, values, texts):
    draw(**values)
    assert texts <= set(written)


@pytest.mark.parametrize(
    ("heat_map", "note"),
    [
        (HeatMap(spot(30, 30, 0.03), 0, 0.3), "empty: no value above 0.0375"),
        (HeatMap(spot(30, 30, 0.2), 0.5, 0.9), "empty: no value above 0.55"),
        (HeatMap(np.full((4, 4), 0.6)), "the same value everywhere"),
        (HeatMap(spot(30, 30, 0.04), 0, 0.3), ""),
    ],
)
def test_a_map_that_shows_nothing_is_said_to(written, heat_map, note):
    draw(maps={"anomaly map": heat_map})
    assert [text for text in written if text.startswith(("empty", "the same"))] == ([note] if note else [])
    assert note.startswith("empty") == (heat_overlay(QUERY, heat_map).tobytes() == QUERY.tobytes())


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_maps_have_the_colours_of_inferno_on_their_own_fixed_range(share):
    values = np.array([[3 * share, 1]])
    colour = np.asarray(colours(HeatMap(values, 0, 3), (2, 1)))[0, 0]
    assert colour == pytest.approx([255 * part for part in matplotlib.colormaps["inferno"](share)[:3]], abs=3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["Käfer_ß", "螺丝 🔩", "$x^{2$", "two\nlines\tand\0null", "bad\udce9bytes", "W" * 500])
def test_odd_and_long_names_stay_on_the_figure(name):
    figure = draw(class_name=name, file_name=name, maps={name: HeatMap(np.eye(9))}, components={name: 0.5})
    assert figure.shape == draw(maps={"": HeatMap(np.eye(9))}, components={"": 0.5}).shape
    assert (figure[:, :6] == 255).all()
    assert (figure[:, -6:] == 255).all()


def test_the_overlay_is_coloured_where_the_map_is_high_and_plain_elsewhere():
    query = Image.fromarray(np.random.default_rng(0).integers(0, 255, (120, 240, 3), dtype=np.uint8))
    overlay = np.asarray(heat_overlay(query, HeatMap(spot(15, 45)))).astype(int)
    assert (overlay[..., 0] - overlay[..., 2])[25:35, 175:185].min() > 0
    assert np.array_equal(overlay[80:, :120], np.asarray(query)[80:, :120])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"maps": {"residual map": HeatMap(np.zeros(9))}}, r"residual map.*\(9,\)"),
        ({"maps": {"residual map": HeatMap(np.eye(3), 0.5, 0.5)}}, "residual map.*0.5 to 0.5"),
        ({"mask": np.zeros((1, 3, 3))}, r"mask.*\(1, 3, 3\)"),
        ({"dpi": 10}, "dpi=10"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        explanation_figure(QUERY, **arguments)
