# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The worked examples of CONTRIBUTING.md hold."""

import sys

import pytest
from PIL import Image

from anomalib_inctrl import InCTRL
from anomalib_inctrl.prompts import SELECTORS

from .pages import ROOT, blocks

PAGE = ROOT / "CONTRIBUTING.md"


@pytest.fixture
def _folders(tmp_path, monkeypatch):
    for folder, shade in (("good", 200), ("bad", 50)):
        (tmp_path / "brackets" / folder).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (32, 32), (shade, number, 0)).save(tmp_path / "brackets" / folder / f"{number}.png")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_folders")
def test_examples_run_as_they_stand(monkeypatch):
    monkeypatch.setattr("anomalib_inctrl.prompts.selection.SELECTORS", SELECTORS)
    before = dict(SELECTORS)
    space = {"__name__": "contributing"}
    try:
        for block in blocks(PAGE, "python"):
            exec(compile("\n" * (block.line - 1) + block.text, str(PAGE), "exec"), space)
        tests = [value for name, value in space.items() if name.startswith("test_")]
        assert tests
        for test in tests:
            test()
        assert InCTRL(prompt_selection="typical").hparams["prompt_selection"] == "typical"
    finally:
        for added in SELECTORS.keys() - before.keys():
            del SELECTORS[added]
    # Every kind of thing that can be added has an example.
    assert {"TypicalSelector", "backbone", "Brackets", "data"} <= space.keys()


def test_ablation_is_read_by_the_script(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    from ablate import read_config

    (example,) = (block for block in blocks(PAGE, "yaml") if "rows:" in block.text)
    path = tmp_path / "my_ablation.yaml"
    path.write_text(example.text)
    ablation = read_config(path, ["setup.steps=100"])
    assert [row.name for row in ablation.rows] == ["InCTRLv2", "softer branches"]
    assert ablation.options(ablation.rows[1])["temperature_patch"] == 0.5
