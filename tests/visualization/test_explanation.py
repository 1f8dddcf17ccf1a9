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

QUERY = Image.new("RGB", (60, 60), (90, 120, 90))
FULL = {
    "maps": {"residual map": HeatMap(np.eye(9)), "anomaly map": HeatMap(np.eye(15), 0, 1, 0.5)},
    "mask": np.eye(60),
    "prompts": [Image.new("RGB", (50, 50), "blue")] * 2,
    "score": 0.25,
    "pred_score": 0.75,
    "threshold": 0.5,
    "pred_label": True,
    "gt_label": False,
    "components": {"text score": 0.1},
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
@pytest.mark.parametrize("size", [(60, 60), (1, 1), (200, 40), (30, 300)])
def test_every_number_of_maps_and_prompts_and_every_shape_is_drawn(maps, prompts, size):
    query = QUERY.resize(size)
    arguments = {
        "maps": {f"map {i}": HeatMap(spot(30, 10 * i)) for i in range(maps)},
        "prompts": [QUERY.convert(mode) for mode in ("L", "RGBA", "P", "CMYK", "1", *"L" * 4)][:prompts],
        "components": {f"score {i}": 0.2 * i for i in range(maps)},
        "mask": np.ones((5, 5)) if prompts else None,
    }
    first = explanation_figure(query, **arguments, dpi=25)
    assert first.mode == "RGB"
    assert min(first.size) > 50
    assert first.tobytes() == explanation_figure(query, **arguments, dpi=25).tobytes()


@pytest.mark.parametrize("name", FULL)
def test_every_argument_changes_the_figure(name):
    full = draw(**FULL)
    assert not np.array_equal(full, draw(**{key: value for key, value in FULL.items() if key != name}))


def test_threads_and_the_users_settings_of_matplotlib_change_nothing():
    with ThreadPoolExecutor(4) as pool:
        drawn = {value.tobytes() for value in pool.map(lambda _: draw(**FULL), range(8))}
    settings = {"font.family": "serif", "font.size": 30, "text.color": "red", "axes.facecolor": "black"}
    with matplotlib.rc_context(settings | {"figure.facecolor": "black", "image.cmap": "gray", "figure.dpi": 300}):
        drawn.add(draw(**FULL).tobytes())
    assert len(drawn) == 1


def test_ranges_maxima_and_thresholds_are_written(written):
    holes = np.eye(4)
    holes[0, 0] = np.nan
    maps = {
        "residual map": HeatMap(spot(30, 30, 0.25), 0, 0.0314),
        "DASL map": HeatMap(np.full((4, 4), 1e-4)),
        "OASL map": HeatMap(holes),
        "anomaly map": HeatMap(np.full((4, 4), np.inf), 0, 1, 0.4),
    }
    draw(maps=maps, score=0.43, pred_score=0.79, threshold=0.5, pred_label=True, prompts=[QUERY] * 9)
    assert {"0.0314", "max 0.25", "max 0.0001", "max 1", "grey: not finite", "no finite value"} <= set(written)
    assert "grey: not finite, threshold 0.4" in written
    assert {"0.430", "anomalous", "normalised score: 0.790", "its threshold: 0.500"} <= set(written)
    assert "prompts (K=9), 8 shown" in written
    assert not [text for text in written if "…" in text]
    written.clear()
    draw(score=float("nan"), threshold=0.4, pred_label=False, mask=np.zeros((4, 4)), gt_label=True)
    assert {"nan", "normal", "threshold: 0.400", "ground truth: no pixel marked"} <= set(written)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["Käfer_ß", "螺丝 🔩", "$x^{2$", "two\nlines\tand\0null", "bad\udce9bytes", "W" * 500])
def test_odd_and_long_names_stay_on_the_figure(name):
    figure = draw(class_name=name, file_name=name, maps={name: HeatMap(np.eye(9))}, components={name: 0.5})
    assert figure.shape == draw(maps={"": HeatMap(np.eye(9))}, components={"": 0.5}).shape
    assert (figure[:, :6] == 255).all()
    assert (figure[:, -6:] == 255).all()


def test_the_range_is_fixed_whatever_the_values():
    red = []
    for peak, high in ((0.1, 1), (1, 1), (0.1, 0.1)):
        pixels = draw(maps={"m": HeatMap(spot(30, 30, peak), 0, high)})
        red.append(int(((pixels[..., 0] > 100) & (pixels[..., 2] < 50)).sum()))
    assert red[0] < red[1] == red[2]


def test_the_overlay_is_coloured_where_the_map_is_high_and_plain_elsewhere():
    query = Image.fromarray(np.random.default_rng(0).integers(0, 255, (120, 240, 3), dtype=np.uint8))
    overlay = np.asarray(heat_overlay(query, HeatMap(spot(15, 45)))).astype(int)
    redness = overlay[..., 0] - overlay[..., 2]
    assert redness[25:35, 175:185].min() > 0
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
