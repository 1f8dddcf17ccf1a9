# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The worked examples of CONTRIBUTING.md run as written."""

import pytest
from PIL import Image

from anomalib_inctrl import InCTRL
from anomalib_inctrl.prompts import SELECTORS

from .pages import ROOT, blocks

PAGE = ROOT / "CONTRIBUTING.md"


@pytest.fixture
def _brackets(tmp_path, monkeypatch):
    for number in range(12):
        path = tmp_path / "brackets" / ("good", "bad")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (20 * number, number, 0)).save(path)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_brackets")
def test_python_examples_and_their_tests_run():
    before = dict(SELECTORS)
    space = {"__name__": "contributing"}
    try:
        for block in blocks(PAGE, "python"):
            exec(compile("\n" * (block.line - 1) + block.text, str(PAGE), "exec"), space)
        tests = {name: value for name, value in space.items() if name.startswith("test_")}
        for test in tests.values():
            test()
        assert InCTRL(prompt_selection="typical").hparams["prompt_selection"] == "typical"
    finally:
        SELECTORS.clear()
        SELECTORS.update(before)
    # Each kind of extension has an example.
    assert {"TypicalSelector", "backbone", "Brackets", "data", "BrierLoss", "PatchModel"} <= space.keys()
    assert len(tests) == 2
