# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The notebooks run from top to bottom, here on few pictures; `make notebooks` runs them as they are."""

import json
from pathlib import Path

import matplotlib as mpl
import pytest

mpl.use("Agg")

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
COUNTS = {"train_count": 8, "test_normal_count": 3, "test_anomalous_count": 9}
SMALL = {
    "1_few_shot_in_five_minutes": {},
    "2_inside_a_residual": {},
    "3_train_a_generalist": {
        "AUXILIARY": ["gear", "tile"], "UNSEEN": ["washer"], "STEPS": 5, "BATCH": 4, "COUNTS": COUNTS
    },
    "4_sweep_and_read_the_report": {"CATEGORIES": ["washer"], "K_SHOTS": [1, 2], "SEEDS": [0, 1], "COUNTS": COUNTS},
}  # fmt: skip


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def test_every_notebook_is_run_here():
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == sorted(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_notebook_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = {"__name__": "__main__"}
    parameters = 0
    for number, cell in enumerate(cells(NOTEBOOKS / f"{name}.ipynb")):
        if cell["cell_type"] != "code":
            continue
        exec(compile("".join(cell["source"]), f"{name}[{number}]", "exec"), space)
        if "parameters" in cell["metadata"].get("tags", []):
            parameters += 1
            assert SMALL[name].keys() <= space.keys(), "a parameter's name has changed"
            space |= SMALL[name] | {"DATA": tmp_path / "data", "RESULTS": tmp_path / "results"}
    assert parameters == 1


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_outputs_are_there_without_errors_and_small(path):
    code = [cell for cell in cells(path) if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "run `make notebooks`"
    assert not [output for cell in code for output in cell["outputs"] if output["output_type"] == "error"]
    assert path.stat().st_size < 400_000
