# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The tables of results that a tool writes into the pages."""

import importlib
import itertools

import pandas as pd
import pytest

from .pages import ROOT


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("docs_tables")


@pytest.fixture
def results(tool, tmp_path):
    """Results in which a model's AUROC is its place in the list, plus the seed, in percent."""
    models = ["InCTRLv2", "InCTRL", "training-free floor"]
    benchmark = [
        {"model": model, "target": target, "category": category, "k_shot": k, "seed": seed}
        | dict.fromkeys(("image_AUROC", "pixel_AUROC", "pixel_AUPRO"), (10 * place + k + seed) / 100)
        for (place, model), target, category, k, seed in itertools.product(
            enumerate(models), ["rendered", "photographs", "digits", "even digits"], "ab", (1, 4), (0, 1, 2)
        )
    ]
    ablation = [
        {"row": row, "group": "models", "seed": seed, "category": category, "image_AUROC": value, "pixel_AUROC": value}
        | {"AUPRO": value}
        for (place, row), category, seed in itertools.product(enumerate(tool.SHOWN), ["brick", "screw"], (0, 1, 2))
        for value in [(10 * place + seed + 50 * (category == "brick")) / 100]
    ]
    for name, rows in (
        ("benchmark/embedded", benchmark),
        ("ablation_mini_clip", ablation),
        ("ablation_random", ablation),
    ):
        (tmp_path / name).mkdir(parents=True)
        pd.DataFrame(rows).to_csv(tmp_path / name / "results.csv", index=False)
    (tmp_path / "ablation_mini_clip" / "table.md").write_text("| whole |\n| --- |\n")
    return tmp_path


def test_every_place_in_the_pages_is_filled(tool, results, tmp_path, monkeypatch):
    pages = []
    for page in tool.PAGES:
        copy = tmp_path / page.name
        copy.write_bytes(page.read_bytes())
        pages.append(copy)
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "PAGES", tuple(pages))
    tool.main(["--results", str(results)])
    readme, ablation, card = (page.read_text(encoding="utf-8") for page in pages)
    # Mean over categories, then mean and standard deviation over seeds; the best of a column is bold.
    assert "| rendered | InCTRLv2 | 2.0 ± 1.0 | 5.0 ± 1.0 | 5.0 ± 1.0 | 5.0 ± 1.0 |" in readme
    assert "|  | training-free floor | **22.0 ± 1.0** | **25.0 ± 1.0** |" in readme
    assert "| even digits | InCTRLv2 | 2.0 ± 1.0 | 5.0 ± 1.0 |" in ablation
    assert "| InCTRL | 11.0 ± 1.0 | 61.0 ± 1.0 |" in ablation
    assert "<!-- table: rows -->\n| whole |\n| --- |\n<!-- end of table -->" in ablation
    assert "| brick | 71.0 | 71.0 | 81.0 | 81.0 | 71.0 | 71.0 |\n| screw | 21.0 |" in card
    before = [page.read_bytes() for page in pages]
    tool.main(["--results", str(results)])
    assert [page.read_bytes() for page in pages] == before


def test_missing_results_change_no_page(tool, tmp_path, capsys):
    before = [page.read_bytes() for page in tool.PAGES]
    with pytest.raises(SystemExit):
        tool.main(["--results", str(tmp_path)])
    assert "make tables" in capsys.readouterr().err
    assert [page.read_bytes() for page in tool.PAGES] == before
