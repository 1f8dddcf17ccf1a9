# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The tool that writes the tables of results into the pages."""

import importlib
import itertools

import pandas as pd
import pytest

from .pages import ROOT


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """The tool, on copies of the pages."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    tool = importlib.import_module("docs_tables")
    pages = [tmp_path / page.name for page in tool.PAGES]
    for copy, page in zip(pages, tool.PAGES, strict=True):
        copy.write_bytes(page.read_bytes())
    monkeypatch.setattr(tool, "PAGES", tuple(pages))
    return tool


def write_results(tool, folder):
    """Write results in which a model's AUROC is ten times its position, plus K, plus the seed, in percent."""
    targets = ["rendered", "photographs", "digits", "even digits"]
    models = enumerate(["InCTRLv2", "InCTRL", tool.BASELINE])
    benchmark = [
        {"model": model, "target": target, "category": category, "k_shot": k, "seed": seed}
        | dict.fromkeys(("image_AUROC", "pixel_AUROC", "pixel_AUPRO"), (10 * position + k + seed) / 100)
        for (position, model), target, category, k, seed in itertools.product(models, targets, "ab", (1, 4), range(3))
    ]
    ablation = [
        {"row": row, "seed": seed, "category": category}
        | dict.fromkeys(("image_AUROC", "pixel_AUROC", "pixel_AUPRO"), (10 * position + seed + 50 * photograph) / 100)
        for (position, row), seed in itertools.product(enumerate(tool.SHOWN), range(3))
        for photograph, category in enumerate(["screw", "brick"])
    ]
    for name, rows in zip(tool.RESULTS, (benchmark, ablation, ablation), strict=True):
        (folder / name).mkdir(parents=True)
        pd.DataFrame(rows).to_csv(folder / name / "results.csv", index=False)
    (folder / "ablation_mini_clip" / "table.md").write_text("| all |\n| --- |\n")


def test_every_table_is_filled_and_a_second_run_changes_nothing(tool, tmp_path):
    write_results(tool, tmp_path)
    tool.main(["--results", str(tmp_path)])
    readme, ablation, card = pages = [page.read_text(encoding="utf-8") for page in tool.PAGES]
    # Mean over categories, then mean and standard deviation over seeds; the best of a column is bold.
    assert "| rendered | InCTRLv2 | 2.0 ± 1.0 | 5.0 ± 1.0 | 5.0 ± 1.0 | 5.0 ± 1.0 |" in readme
    assert "|  | training-free baseline | **22.0 ± 1.0** | **25.0 ± 1.0** |" in readme
    assert "| even digits | InCTRLv2 | 2.0 ± 1.0 | 5.0 ± 1.0 |" in ablation
    assert "| InCTRL | 11.0 ± 1.0 | 61.0 ± 1.0 |" in ablation
    assert "<!-- table: rows -->\n| all |\n| --- |\n<!-- end of table -->" in ablation
    assert "| brick | 71.0 | 71.0 | 81.0 | 81.0 | 71.0 | 71.0 |\n| screw | 21.0 |" in card
    tool.main(["--results", str(tmp_path)])
    assert [page.read_text(encoding="utf-8") for page in tool.PAGES] == pages


def test_missing_results_change_no_page(tool, tmp_path, capsys):
    before = [page.read_bytes() for page in tool.PAGES]
    with pytest.raises(SystemExit):
        tool.main(["--results", str(tmp_path)])
    assert "make tables" in capsys.readouterr().err
    assert [page.read_bytes() for page in tool.PAGES] == before
