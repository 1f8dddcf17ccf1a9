# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The demonstration, on fewer categories and steps."""

import pandas as pd

from anomalib_inctrl.demo import run


def test_demonstration_trains_tests_and_reports(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "_PRODUCTS", ("product-000", "product-001"))
    for name in ("_UNSEEN", "_EXPLAINED"):
        monkeypatch.setattr(run, name, ("nut",))
    monkeypatch.setattr(run, "_TARGETS", {"rendered": ("nut",)})
    monkeypatch.setattr(run, "_K_SHOTS", (1,))
    monkeypatch.setattr(run, "_SEEDS", range(2))
    monkeypatch.setattr(run, "_STEPS", 1)
    monkeypatch.setattr(run.logging, "disable", lambda level: None)
    results = tmp_path / "results"
    assert run.main(["--data", str(tmp_path / "data"), "--results", str(results), "--k_shot", "2"]) == 0
    (rows,) = results.rglob("benchmark/results.csv")
    measured = pd.read_csv(rows)
    assert len(measured) == 4 * 2 * 2  # models, K, draws
    shown = capsys.readouterr().out
    for model in ("InCTRLv2", "InCTRL", "training-free baseline", "patch score alone"):
        assert model in shown
        assert model in set(measured.model)
    of_category = measured[(measured.model == "InCTRLv2") & (measured.k_shot == 2)].image_AUROC.mean()
    assert f"{100 * of_category:.1f}" in shown
    assert (rows.parent / "report.html").stat().st_size > 10_000
    figures = results / "InCTRLv2" / "InCTRLDemo" / "nut" / "latest" / "explanations"
    assert len(list(figures.rglob("*.png"))) == 20
