# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Numbers and tables of the report."""

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from anomalib_inctrl.benchmark.config import read_config
from anomalib_inctrl.benchmark.metrics import METRICS
from anomalib_inctrl.benchmark.report import _LINE, Report, _best, _same
from anomalib_inctrl.benchmark.results_folder import COLUMNS

CATEGORIES = [("VisA", "candle"), ("VisA", "pcb <1>")]


@pytest.fixture
def config():
    model = {"class_path": "InCTRL", "init_args": {"backbone": "mini-clip-16-240", "pretrained": "demo"}}
    return read_config(
        {
            "output": "results",
            "title": "A <title> & more",
            "models": {"ours": model, "baseline | $x": model, "absent": model},
            "targets": {"VisA": {"datamodule": "Visa"}},
            "k_shots": [2, 4],
            "seeds": [0, 1, 2],
        }
    )


@pytest.fixture
def table():
    generator = np.random.default_rng(0)
    rows = []
    for model in ("ours", "baseline | $x"):
        for k in (2, 4):
            for seed in (0, 1, 2):
                for target, category in CATEGORIES:
                    row = dict.fromkeys(COLUMNS, "")
                    row |= {"model": model, "target": target, "category": category, "k_shot": k, "seed": seed}
                    row |= dict(zip(METRICS, generator.random(5) / 2 + 0.4, strict=True))
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
    blind = table.assign(pixel_AUROC=table.pixel_AUROC.where(table.model != "ours"))
    lines = lines_of(Report(config, blind, CATEGORIES), "pixel AUROC")
    assert lines["absent"] == ["not run"] * 2
    assert lines["ours"] == ["no masks"] * 2
    incomplete = Report(config, table[table.category == "candle"], CATEGORIES)
    assert lines_of(incomplete, "image AUROC")["ours"] == ["not run"] * 2
    # A seed that lacks a category does not count.
    part = table[~((table.category == "candle") & (table.seed == 1))]
    found, expected = (Report(config, rows, CATEGORIES).numbers("image_AUROC") for rows in (part, part[part.seed != 1]))
    pd.testing.assert_frame_equal(found, expected)


def test_the_best_of_each_k_is_marked_published_ones_included(config, table):
    lines = lines_of(Report(config, table, CATEGORIES), "image AUROC")
    assert list(lines)[:3] == ["ours", r"baseline \| $x", "absent"]
    assert lines["InCTRL (paper) †"] == ["85.8", "87.7"]
    for column in range(2):
        texts = [cells[column] for cells in lines.values() if cells[column][-1].isdigit() or cells[column][-1] == "*"]
        means = {text: float(text.strip("*").split()[0]) for text in texts}
        assert {text for text in means if text[0] == "*"} == {t for t in means if means[t] == max(means.values())}


def test_published_numbers_have_sources_and_are_shown_only_for_full_datasets(config, table):
    report = Report(config, table, CATEGORIES)
    assert all(entry["source"] for entry in report.published)
    assert not report.numbers("pixel_AUROC").reset_index().published.any()
    config.targets["VisA"].categories = ["candle"]
    assert not report.numbers("image_AUROC").reset_index().published.any()


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


def test_the_markdown_tables_are_tables(config, table):
    text = Report(config, table, CATEGORIES).render("md")
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block
    assert "\n\n\n" not in text


def numbers(*rows):
    index = pd.MultiIndex.from_tuples([("Demo", name, False, 4) for name, *_ in rows], names=_LINE)
    return pd.DataFrame([values for _, *values in rows], index, columns=["mean", "std"])


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("a", 93.0, 0.3), ("b", 92.0, 0.4)], "a"),
        ([("a", 93.0, 0.3), ("b", 92.0, 1.2)], None),  # the other one varies by more than the lead
        ([("a", 93.0, 1.2), ("b", 92.0, 0.3)], None),
        ([("b", 92.0, 0.1), ("a", 93.0, 0.1), ("c", 92.95, 0.1)], None),
        ([("a", 93.0, 0.3)], None),
    ],
)
def test_only_what_is_ahead_beyond_the_spread_is_marked(rows, expected):
    found = _best(numbers(*rows))
    assert (found and found[1]) == expected


def test_methods_with_the_same_values_share_a_curve():
    lines = pd.DataFrame(
        {"method": list("aabbcc"), "k_shot": [1, 2] * 3, "mean": [90.0, 91, 90, 91, 90, 92], "std": 0.1}
    )
    assert _same(lines) == [["a", "b"], ["c"]]
