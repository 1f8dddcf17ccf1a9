# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The ablation trains by the engine, measures by the benchmark, continues, and refuses wrong configs."""

import ablate
import pandas as pd
import pytest
import yaml

from anomalib_inctrl.errors import DatasetError
from tests.shared import AUXILIARY, BACKBONE, COUNTS, TARGETS

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
def config(data, tmp_path):
    source = {"datamodule": "InCTRLDemo", "root": str(data), "options": COUNTS}
    content = CONFIG | {"setup": CONFIG["setup"] | {"auxiliary": [source | {"categories": AUXILIARY}]}}
    content["setup"]["targets"] = {"unseen": source | {"categories": TARGETS}}
    path = tmp_path / "ablation.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_rows_are_trained_measured_and_kept(config, tmp_path, capsys):
    output = tmp_path / "out"
    assert ablate.main(["--config", str(config), "--output", str(output)]) == 0
    results = pd.read_csv(output / "results.csv")
    assert sorted(results["row"].unique()) == ["InCTRL", "InCTRLv2", "baseline"]
    assert len(results) == 3 * 2 * len(TARGETS)
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
        (["only=[other]"], "only=.'other'. are not rows"),
        (["setup.targets.unseen.categorie=[washer]"], "categorie"),
        (["rows=[{name: a, model: InCTRLv3}]", "reference=a"], "InCTRLv3"),
    ],
)
def test_wrong_configs_are_refused(config, overrides, message):
    with pytest.raises(ValueError, match=message):
        ablate.read_config(config, overrides)


def test_domains_have_columns_and_what_is_missing_is_named_before_training(config, tmp_path, capsys):
    digits = "{domain: semantic, datamodule: ScikitDigits, root: digits, categories: [digit_0]}".replace(
        "digits,", f"{tmp_path / 'digits'},"
    )
    missing = f"{{domain: medical, optional: %s, datamodule: HeadCT, root: {tmp_path / 'nowhere'}}}"
    more = [f"setup.targets.digits={digits}", "setup.targets.unseen.domain=industrial", "only=[baseline]"]
    more += ["reference=baseline"]
    arguments = ["--config", str(config), "--output", str(tmp_path / "out"), *more]
    with pytest.raises(DatasetError, match=r"setup\.targets\.head.*nowhere: there is no such folder"):
        ablate.main([*arguments, f"setup.targets.head={missing % 'false'}"])
    assert ablate.main([*arguments, f"setup.targets.head={missing % 'true'}"]) == 0
    assert f"HeadCT in {tmp_path / 'nowhere'}: there is no such folder" in capsys.readouterr().out
    header, _, *rows = (tmp_path / "out" / "table.md").read_text().splitlines()
    results = pd.read_csv(tmp_path / "out" / "results.csv")
    assert "| industrial: AUPRO | semantic: image AUROC |" in header
    assert "medical" not in header
    assert "semantic: AUPRO" not in header  # no masks
    found = 100 * results[results.domain == "semantic"].image_AUROC
    assert len(rows) == 1
    assert rows[0].endswith(f"| {found.mean():.1f} ± {found.std():.1f} |")


def test_targets_of_a_domain_count_equally():
    values = {"a": [0.5, 0.7], "b": [0.9]}
    rows = [
        {"row": name, "group": "", "seed": seed, "domain": "x", "target": target, "image_AUROC": value + shift}
        for name, shift in (("one", 0.0), ("two", -0.1))
        for seed in (0, 1)
        for target, some in values.items()
        for value in some
    ]
    table = ablate.summarize(pd.DataFrame(rows), ["one", "two"], "one")
    assert table["image AUROC"].tolist() == ["75.0 ± 0.0", "65.0 ± 0.0"]
    assert table["Δ image AUROC"].tolist() == ["", "-10.0 ± 0.0 *"]
