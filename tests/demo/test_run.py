# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The demonstration, on fewer categories and steps."""

import pandas as pd
import pytest

from anomalib_inctrl.demo import run


def test_demonstration_trains_tests_and_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "AUXILIARY_CATEGORIES", ("gear",))
    monkeypatch.setattr(run, "UNSEEN_CATEGORIES", ("washer",))
    monkeypatch.setattr(run, "_EPOCHS", 1)
    monkeypatch.setattr(run, "_STEPS_PER_EPOCH", 1)
    monkeypatch.setattr(run.logging, "disable", lambda level: None)
    arguments = ["--data", str(tmp_path / "data"), "--results", str(tmp_path / "results"), "--k_shot", "2"]
    assert run.main(arguments) == 0
    table = pd.read_csv(tmp_path / "results" / "demo.csv", index_col="category")
    assert list(table.index) == ["washer", "mean"]
    assert table.loc["mean"].to_list() == pytest.approx(table.loc["washer"].to_list())
    assert table.to_numpy().min() >= 0
    assert table.to_numpy().max() <= 1
    assert "image AUROC" in capsys.readouterr().out
    sheets = tmp_path / "results" / "InCTRLv2" / "InCTRLDemo" / "washer" / "latest" / "explanations"
    assert len(list(sheets.rglob("*.png"))) == 60


def test_arguments_are_explained(capsys):
    with pytest.raises(SystemExit):
        run.main(["--help"])
    assert "--k_shot" in capsys.readouterr().out
