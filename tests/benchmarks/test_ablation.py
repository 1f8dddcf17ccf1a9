# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The ablation trains by the engine, measures by the benchmark, continues, and refuses wrong configs."""

import ablate
import pandas as pd
import pytest
import yaml

from tests.benchmarks.conftest import AUXILIARY, BACKBONE, COUNTS, UNSEEN

CONFIG = {
    "setup": {"backbone": BACKBONE, "pretrained": None, "seeds": [0, 1], "k_shot": 2, "steps": 2, "batch_size": 4},
    "reference": "InCTRLv2",
    "rows": [
        {"name": "InCTRLv2", "group": "models"},
        {"name": "baseline", "group": "models", "trained": False},
        {"name": "InCTRL", "group": "models", "model": "InCTRL", "options": {"use_text": False}},
    ],
}


@pytest.fixture
def config(data_root, tmp_path):
    source = {"datamodule": "InCTRLDemo", "root": str(data_root), "options": COUNTS}
    content = CONFIG | {"setup": CONFIG["setup"] | {"auxiliary": [source | {"categories": AUXILIARY}]}}
    content["setup"]["targets"] = {"unseen": source | {"categories": UNSEEN}}
    path = tmp_path / "ablation.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_rows_are_trained_measured_and_kept(config, tmp_path, capsys):
    output = tmp_path / "out"
    assert ablate.main(["--config", str(config), "--output", str(output)]) == 0
    results = pd.read_csv(output / "results.csv")
    assert sorted(results["row"].unique()) == ["InCTRL", "InCTRLv2", "baseline"]
    assert len(results) == 3 * 2 * len(UNSEEN)
    checkpoints = {path: path.stat().st_mtime_ns for path in (output / "weights").glob("*.ckpt")}
    assert len(checkpoints) == 4  # two trained rows, two seeds

    assert ablate.main(["--config", str(config), "--output", str(output)]) == 0
    assert {path: path.stat().st_mtime_ns for path in (output / "weights").glob("*.ckpt")} == checkpoints
    again = pd.read_csv(output / "results.csv")
    pd.testing.assert_series_equal(again["image_AUROC"], results["image_AUROC"])

    table = (output / "table.md").read_text()
    by_seed = 100 * results[results["row"] == "InCTRL"].groupby("seed")["image_AUROC"].mean()
    shift = by_seed - 100 * results[results["row"] == "InCTRLv2"].groupby("seed")["image_AUROC"].mean()
    assert f"| InCTRL | {by_seed.mean():.1f} ± {by_seed.std():.1f} |" in table
    assert f"| {shift.mean():+.1f} ± {shift.std():.1f}" in table


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["setup.steeps=2"], "steeps"),
        (["reference=other"], "reference='other' is not a row"),
        (["rows=[{name: a}, {name: a}]", "reference=a"], "used twice"),
        (["rows=[{name: a, model: InCTRLv3}]", "reference=a"], "InCTRLv3"),
    ],
)
def test_wrong_configs_are_refused(config, overrides, message):
    with pytest.raises(ValueError, match=message):
        ablate.read_config(config, overrides)
