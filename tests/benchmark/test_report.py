# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Numbers and tables of the report."""

import base64
import re
from html.parser import HTMLParser
from itertools import product

import numpy as np
import pandas as pd
import pytest

from anomalib_inctrl.benchmark.config import read_config
from anomalib_inctrl.benchmark.metrics import METRICS
from anomalib_inctrl.benchmark.report import Report
from anomalib_inctrl.benchmark.results_folder import COLUMNS
from tests.shared import DEMO

CATEGORIES = [("VisA", "candle"), ("VisA", "pcb <1>")]
MODELS = ("ours", "baseline | $x")


@pytest.fixture
def config():
    model = {"class_path": "InCTRL", "init_args": DEMO}
    return read_config(
        {
            "output": "results",
            "title": "A <title> & more",
            "models": dict.fromkeys([*MODELS, "absent"], model),
            "targets": {"VisA": {"datamodule": "Visa"}},
            "k_shots": [2, 4],
        }
    )


@pytest.fixture
def table():
    generator = np.random.default_rng(0)
    rows = []
    for model, k, seed, (target, category) in product(MODELS, (2, 4), (0, 1, 2), CATEGORIES):
        row = dict.fromkeys(COLUMNS, "") | dict(zip(METRICS, generator.random(5) / 2 + 0.4, strict=True))
        row |= {"model": model, "target": target, "category": category, "k_shot": k, "seed": seed}
        row |= {"normal": 10, "abnormal": 10, "masks": 20, "pass_seconds": 2.0, "setting_seconds": 0.1}
        rows.append(row)
    return pd.DataFrame(rows).astype({"k_shot": "Int64"})


def lines_of(report, title):
    """Cells of the lines of a metric's table, by method."""
    block = report.render("md").split(f"## {title}\n")[1].split("##")[0]
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines() if line.startswith("| VisA")]
    return {cells[1].strip(): [cell.strip() for cell in cells[2:]] for cells in lines}


def test_a_number_is_the_mean_over_seeds_of_the_mean_over_categories(config, table):
    rows = table[(table.model == "ours") & (table.k_shot == 2)]
    by_seed = [100 * rows[rows.seed == seed].image_AUPR.mean() for seed in (0, 1, 2)]
    shown = lines_of(Report(config, table, CATEGORIES), "image AP")["ours"][0].strip("*")
    assert shown == f"{np.mean(by_seed):.1f} ± {np.std(by_seed, ddof=1):.1f}"


def test_missing_numbers_name_the_reason(config, table):
    unmeasured = table.assign(pixel_AUROC=table.pixel_AUROC.where(table.model != "ours"))
    lines = lines_of(Report(config, unmeasured, CATEGORIES), "pixel AUROC")
    assert lines["absent"] == ["not run"] * 2
    assert lines["ours"] == ["no masks"] * 2
    incomplete = Report(config, table[table.category == "candle"], CATEGORIES)
    assert lines_of(incomplete, "image AUROC")["ours"] == ["not run"] * 2
    # A seed that lacks a category does not count.
    part = table[~((table.category == "candle") & (table.seed == 1))]
    found, expected = (Report(config, rows, CATEGORIES).numbers("image_AUROC") for rows in (part, part[part.seed != 1]))
    pd.testing.assert_frame_equal(found, expected)


def test_published_numbers_have_sources_and_are_shown_only_for_full_datasets(config, table):
    report = Report(config, table, CATEGORIES)
    lines = lines_of(report, "image AUROC")
    assert list(lines)[:3] == ["ours", r"baseline \| $x", "absent"]
    assert lines["InCTRL (paper) †"] == ["85.8", "87.7"]
    assert all(entry["source"] for entry in report.published)
    assert not report.numbers("pixel_AUROC").reset_index().published.any()
    config.targets["VisA"].categories = ["candle"]
    assert not report.numbers("image_AUROC").reset_index().published.any()


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("ours", 99.9, 0.1), ("baseline | $x", 98, 0.1)], {"ours"}),
        ([("ours", 99.9, 0.1), ("baseline | $x", 99, 1.2)], set()),  # the other one varies by more than the lead
        ([("ours", 99.9, 1.2), ("baseline | $x", 99, 0.1)], set()),
        ([("ours", 90, 0.1)], {"UniADet DINOv2-R-L †"}),
    ],
)
def test_only_what_is_ahead_beyond_the_spread_is_marked_published_ones_included(config, table, rows, expected):
    values = {(name, seed): mean + (seed - 1) * spread for name, mean, spread in rows for seed in (0, 1, 2)}
    table = table[table.model.isin([name for name, *_ in rows])]
    auroc = [values[key] / 100 for key in zip(table.model, table.seed, strict=True)]
    lines = lines_of(Report(config, table.assign(image_AUROC=auroc), CATEGORIES), "image AUROC")
    assert {name for name, cells in lines.items() if cells[0].startswith("**")} == expected


class _Page(HTMLParser):
    """Collects links, and checks that every tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.links += [value for key, value in attrs if key in ("href", "src")]
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html_report_is_one_valid_file_without_external_links(config, table):
    html = Report(config, table, CATEGORIES).render("html")
    page = _Page(html)
    assert page.open == []
    assert len(page.links) == 2  # curves of two metrics
    assert all(link.startswith("data:") for link in page.links)
    for text in ("A &lt;title&gt; &amp; more", "pcb &lt;1&gt;", "not run", "second-hand", "24 of 36 rows"):
        assert text in html


def test_methods_with_the_same_values_share_a_curve(config, table):
    ours = table[table.model == "ours"]
    page = _Page(Report(config, pd.concat([ours, ours.assign(model="absent")]), CATEGORIES).render("html"))
    assert "ours = absent" in base64.b64decode(page.links[0].partition(",")[2]).decode()


def test_the_markdown_tables_are_tables(config, table):
    text = Report(config, table, CATEGORIES).render("md")
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block
    assert "\n\n\n" not in text
