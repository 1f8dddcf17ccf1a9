# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What the report says."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest
import torch

from anomalib_inctrl.benchmark.config import read_config
from anomalib_inctrl.benchmark.examples import Example, choose_examples, draw_examples
from anomalib_inctrl.benchmark.metrics import METRICS
from anomalib_inctrl.benchmark.report import Report
from anomalib_inctrl.benchmark.report.figures import curves
from anomalib_inctrl.benchmark.report.tables import Cell, cell, dataset_lines, published
from anomalib_inctrl.benchmark.store import COLUMNS

CATEGORIES = [("VisA", "candle"), ("VisA", "pcb <1>")]


@pytest.fixture
def config():
    model = {"class_path": "InCTRL", "init_args": {"backbone": "mini-clip-16-240", "pretrained": "demo"}}
    return read_config(
        {
            "output": "results",
            "title": "A <title> & more",
            "models": {"ours": model, "floor | x": model, "absent": model},
            "targets": {"VisA": {"datamodule": "Visa"}},
            "k_shots": [2, 4],
            "seeds": [0, 1, 2],
        }
    )


@pytest.fixture
def table():
    generator = np.random.default_rng(0)
    rows = []
    for model in ("ours", "floor | x"):
        for k in (2, 4):
            for seed in (0, 1, 2):
                for _, category in CATEGORIES:
                    row = dict.fromkeys(COLUMNS, "")
                    row |= {"model": model, "target": "VisA", "category": category, "k_shot": k, "seed": seed}
                    row |= dict(zip(METRICS, generator.random(5) / 2 + 0.4, strict=True))
                    row |= {"normal": 10, "abnormal": 10, "masks": 20, "pass_seconds": 2.0, "setting_seconds": 0.1}
                    rows.append(row)
    frame = pd.DataFrame(rows)
    frame["k_shot"] = frame["k_shot"].astype("Int64")
    return frame


def test_a_cell_is_the_mean_over_seeds_of_the_mean_over_categories(config, table):
    found = cell(table, config, "ours", "VisA", ["candle", "pcb <1>"], 2, "image_AUPR")
    rows = table[(table.model == "ours") & (table.k_shot == 2)]
    by_seed = [100 * rows[rows.seed == seed].image_AUPR.mean() for seed in (0, 1, 2)]
    assert found.mean == pytest.approx(np.mean(by_seed))
    assert found.spread == pytest.approx(np.std(by_seed, ddof=1))
    assert re.fullmatch(r"\d+\.\d ± \d+\.\d", str(found))


def test_what_is_not_there_says_so(config, table):
    names = ["candle", "pcb <1>"]
    assert str(cell(table, config, "absent", "VisA", names, 2, "image_AUROC")) == "not run"
    assert str(cell(table, config, "ours", "VisA", names, 1, "image_AUROC")) == "–"
    incomplete = table[table.category == "candle"]
    assert str(cell(incomplete, config, "ours", "VisA", names, 2, "image_AUROC")) == "1 of 2 categories"
    # A seed that lacks a category does not count.
    part = table[~((table.category == "candle") & (table.seed == 1))]
    with_all = part[part.seed != 1]
    found = cell(part, config, "ours", "VisA", names, 2, "image_AUROC")
    assert found == cell(with_all, config, "ours", "VisA", names, 2, "image_AUROC")
    blind = table.assign(pixel_AUROC=np.nan)
    assert str(cell(blind, config, "ours", "VisA", names, 2, "pixel_AUROC")) == "no masks"


def test_the_best_of_each_k_is_marked_published_ones_included(config, table):
    lines = dataset_lines(table, config, "VisA", ["candle", "pcb <1>"], "image_AUROC")
    assert [line.published for line in lines][:3] == [False] * 3
    assert lines[-1].published
    for column in range(2):
        shown = [(line.cells[column].mean, line.cells[column].best) for line in lines]
        best = max(round(mean, 1) for mean, _ in shown if mean is not None)
        assert [marked for _, marked in shown] == [mean is not None and round(mean, 1) == best for mean, _ in shown]


def test_published_numbers_stand_only_beside_whole_datasets(config, table):
    part = config.model_copy(deep=True)
    part.targets["VisA"].categories = ["candle"]
    assert not any(line.published for line in dataset_lines(table, part, "VisA", ["candle"], "image_AUROC"))
    assert not any(line.published for line in dataset_lines(table, config, "VisA", ["candle"], "pixel_AUROC"))


def test_published_numbers_have_sources():
    for entry in published()["entries"]:
        assert entry["source"]
        for numbers in entry["image_AUROC"].values():
            assert all(50 < number <= 100 for number in numbers.values())
    by_method = {entry["method"]: entry["image_AUROC"] for entry in published()["entries"]}
    assert by_method["InCTRL (paper)"]["Visa"] == {2: 85.8, 4: 87.7, 8: 88.7}


class Checker(HTMLParser):
    """Every tag is closed, and nothing is fetched."""

    VOID = frozenset({"meta", "img", "link", "br", "input", "hr"})

    def __init__(self):
        super().__init__()
        self.open = []
        self.ids = []
        self.links = []
        self.images = 0

    def handle_starttag(self, tag, attributes):
        names = dict(attributes)
        self.ids += [names["id"]] if "id" in names else []
        self.links += [names[key] for key in ("href", "src", "xlink:href") if key in names]
        self.images += tag == "img"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        names = dict(attributes)
        self.ids += [names["id"]] if "id" in names else []
        self.links += [names[key] for key in ("href", "src", "xlink:href") if key in names]


def picture():
    image, mask = torch.rand(3, 32, 32), torch.zeros(32, 32, dtype=torch.bool)
    shown = [Example(image, mask, torch.rand(32, 32), True), Example(image, None, torch.rand(32, 32), True)]
    return draw_examples(shown, torch.rand(4, 32, 32))


def test_the_page_is_one_file_and_whole(config, table):
    jpeg = picture()
    assert jpeg[:2] == b"\xff\xd8"
    html = Report(config, table, CATEGORIES, lambda model, *_: jpeg if model == "ours" else None).html()
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    assert checker.images == 2
    assert len(set(checker.ids)) == len(checker.ids)
    for link in checker.links:
        assert link.startswith("data:") or (link.startswith("#") and link[1:] in checker.ids), link
    assert "A &lt;title&gt; &amp; more" in html
    assert "pcb &lt;1&gt;" in html
    assert "not run" in html
    assert "second-hand" in html
    assert "12 of 36 rows" not in html
    assert "24 of 36 rows" in html


def test_the_markdown_tables_are_tables(config, table):
    text = Report(config, table, CATEGORIES, lambda *_: None).markdown()
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block
    assert "\n\n\n" not in text
    assert "**" in text
    assert "second-hand" in text


def test_curves_are_svg_without_names_of_colours_for_text():
    lines = {"one": [Cell(80.0, 1.0), Cell(85.0, 2.0)], "two": [Cell(text="not run"), Cell(70.0)]}
    svg = curves(lines, [1, 2], "A title & more", "AUROC, %")
    root = ET.fromstring(svg)
    assert root.tag.endswith("svg")
    assert "viewBox" in root.attrib
    assert "width" not in root.attrib
    assert "height" not in root.attrib
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert svg == curves(lines, [1, 2], "A title & more", "AUROC, %")
    assert curves({"one": [Cell(text="not run")]}, [1], "x", "y") == ""


def test_names_in_curves_are_plain_text():
    svg = curves({r"5$ or $\nothing": [Cell(80.0), Cell(85.0)]}, [1, 2], "$^", "AUROC, %")
    words = "".join(ET.fromstring(svg).itertext())
    assert r"5$ or $\nothing" in words
    assert "$^" in words


def test_examples_are_the_best_and_the_worst_of_both_kinds():
    scores = torch.tensor([0.1, 0.9, 0.4, 0.5, 0.2, 0.8])
    abnormal = torch.tensor([False, True, True, False, False, True])
    assert choose_examples(scores, abnormal, 4) == [1, 2, 0, 3]
    assert choose_examples(scores, abnormal, 3) == [1, 2, 0]
    assert sorted(choose_examples(scores, abnormal, 99)) == list(range(6))
    assert choose_examples(scores, abnormal, 0) == []
