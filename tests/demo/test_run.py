# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The demonstration, on fewer categories and steps."""

import pandas as pd
import pytest

from anomalib_inctrl.demo import run


def test_demonstration_trains_tests_and_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "AUXILIARY_CATEGORIES", ("gear",))
    monkeypatch.setattr(run, "UNSEEN_CATEGORIES", ("washer",))
    monkeypatch.setattr(run, "_K_SHOTS", (1, 2))
    monkeypatch.setattr(run, "_SEEDS", range(2))
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
    shown = capsys.readouterr().out
    assert "image AUROC" in shown
    (results,) = (tmp_path / "results").rglob("benchmark/results.csv")
    measured = pd.read_csv(results)
    assert len(measured) == 3 * 2 * 2
    for model in ("InCTRLv2", "InCTRL", "training-free floor"):
        assert model in shown
        assert model in set(measured.model)
    # One pass gives what the engine gives.
    one = measured.query("model == 'InCTRLv2' and k_shot == 2 and seed == 0")
    assert one.image_AUROC.item() == pytest.approx(table.loc["washer", "image AUROC"], abs=1e-4)
    assert one.pixel_AUROC.item() == pytest.approx(table.loc["washer", "pixel AUROC"], abs=1e-3)
    assert (results.parent / "report.html").stat().st_size > 10_000
    sheets = tmp_path / "results" / "InCTRLv2" / "InCTRLDemo" / "washer" / "latest" / "explanations"
    assert len(list(sheets.rglob("*.png"))) == 60


def test_arguments_are_explained(capsys):
    with pytest.raises(SystemExit):
        run.main(["--help"])
    assert "--k_shot" in capsys.readouterr().out
