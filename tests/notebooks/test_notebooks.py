# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The notebooks run from top to bottom on few images, and their outputs are saved."""

import json
from pathlib import Path

import matplotlib as mpl
import pytest

mpl.use("Agg")

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
COUNTS = {"train_count": 8, "test_normal_count": 3, "test_anomalous_count": 9}
# Parameters of small runs, by number of the notebook.
SMALL = {
    "3": {"AUXILIARY": ["gear", "tile"], "UNSEEN": ["washer"], "STEPS": 5, "BATCH": 4, "COUNTS": COUNTS},
    "4": {"CATEGORIES": ["washer"], "K_SHOTS": [1, 2], "SEEDS": [0, 1], "COUNTS": COUNTS},
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_its_outputs_are_saved(path, tmp_path, monkeypatch):
    cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), "run `make notebooks`"
    assert not [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
    assert path.stat().st_size < 400_000
    monkeypatch.chdir(tmp_path)
    space, small = {"__name__": "__main__"}, SMALL.get(path.stem[0], {})
    for number, cell in enumerate(cells, start=1):
        exec(compile("".join(cell["source"]), f"{path.stem}[{number}]", "exec"), space)
        if number == 1:  # the parameters
            assert small.keys() <= space.keys(), "a parameter was renamed"
            space |= small | {"DATA": tmp_path / "data", "RESULTS": tmp_path / "results"}
