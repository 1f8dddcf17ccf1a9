# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Numbers, tables, curves and examples of the report."""

import io
import re
from html.parser import HTMLParser
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from anomalib_inctrl.benchmark.config import read_config
from anomalib_inctrl.benchmark.examples import choose_examples, draw_examples
from anomalib_inctrl.benchmark.metrics import METRICS
from anomalib_inctrl.benchmark.report import Report
from anomalib_inctrl.benchmark.report.figures import curves
from anomalib_inctrl.benchmark.report.tables import Cell, cell, dataset_lines, published
from anomalib_inctrl.benchmark.results_folder import COLUMNS

CATEGORIES = [("VisA", "candle"), ("VisA", "pcb <1>")]


@pytest.fixture
def config():
    model = {"class_path": "InCTRL", "init_args": {"backbone": "mini-clip-16-240", "pretrained": "demo"}}
    return read_config(
        {
            "output": "results",
            "title": "A <title> & more",
            "models": {"ours": model, "baseline | x": model, "absent": model},
            "targets": {"VisA": {"datamodule": "Visa"}},
            "k_shots": [2, 4],
            "seeds": [0, 1, 2],
        }
    )


@pytest.fixture
def table():
    generator = np.random.default_rng(0)
    rows = []
    for model in ("ours", "baseline | x"):
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


def test_missing_numbers_name_the_reason(config, table):
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


def test_published_numbers_are_shown_only_for_full_datasets(config, table):
    part = config.model_copy(deep=True)
    part.targets["VisA"].categories = ["candle"]
    assert not any(line.published for line in dataset_lines(table, part, "VisA", ["candle"], "image_AUROC"))
    assert not any(line.published for line in dataset_lines(table, config, "VisA", ["candle"], "pixel_AUROC"))


def test_published_numbers_have_sources():
    for entry in published():
        assert entry["source"]
        for numbers in entry["image_AUROC"].values():
            assert all(50 < number <= 100 for number in numbers.values())
    by_method = {entry["method"]: entry["image_AUROC"] for entry in published()}
    assert by_method["InCTRL (paper)"]["Visa"] == {2: 85.8, 4: 87.7, 8: 88.7}


class _Page(HTMLParser):
    """Collects ids and links, and checks that every tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.images = [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        names = dict(attrs)
        self.ids += [names["id"]] if "id" in names else []
        self.links += [names[key] for key in ("href", "src") if key in names]
        self.images += tag == "img"
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html_report_is_one_valid_file_without_external_links(config, table):
    html = Report(config, table, CATEGORIES, lambda model, *_: b"jpeg" if model == "ours" else None).html()
    page = _Page(html)
    assert page.open == []
    assert page.images == 2 + 2  # an example of each category, curves of two metrics
    assert len(set(page.ids)) == len(page.ids)
    for link in page.links:
        assert link.startswith("data:") or (link.startswith("#") and link[1:] in page.ids), link
    for text in ("A &lt;title&gt; &amp; more", "pcb &lt;1&gt;", "not run", "second-hand", "24 of 36 rows"):
        assert text in html


def test_the_markdown_tables_are_tables(config, table):
    text = Report(config, table, CATEGORIES, lambda *_: None).markdown()
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block
    assert "\n\n\n" not in text
    assert "**" in text
    assert "second-hand" in text


def test_curves_are_reproducible_svg_with_names_as_plain_text():
    lines = {r"5$ or $\nothing": [Cell(80.0, 1.0), Cell(85.0)], "two": [Cell(text="not run"), Cell(70.0)]}
    svg = curves(lines, [1, 2], "$^ & more", "AUROC, %")
    words = "".join(ElementTree.fromstring(svg).itertext())
    assert r"5$ or $\nothing" in words
    assert "$^ & more" in words
    assert svg == curves(lines, [1, 2], "$^ & more", "AUROC, %")
    assert curves({"one": [Cell(text="not run")]}, [1], "x", "y") == b""


def test_examples_are_the_best_and_the_worst_of_both_kinds():
    scores = torch.tensor([0.1, 0.9, 0.4, 0.5, 0.2, 0.8])
    abnormal = torch.tensor([False, True, True, False, False, True])
    assert choose_examples(scores, abnormal, 4) == [1, 2, 0, 3]
    assert choose_examples(scores, abnormal, 3) == [1, 2, 0]
    assert sorted(choose_examples(scores, abnormal, 99)) == list(range(6))
    assert choose_examples(scores, abnormal, 0) == []


def test_examples_are_drawn_with_and_without_masks():
    image, mask = torch.rand(3, 32, 32), torch.zeros(32, 32, dtype=torch.bool)
    items = [SimpleNamespace(image=image, gt_mask=known, gt_label=torch.tensor(True)) for known in (mask, None)]
    drawn = Image.open(io.BytesIO(draw_examples(items, [1, 0], torch.rand(4, 32, 32)))).convert("RGB")
    unknown, known = (drawn.getpixel((x, drawn.height // 2)) for x in (drawn.width // 4, drawn.width * 3 // 4))
    assert max(known) < 10
    assert min(unknown) > 100
