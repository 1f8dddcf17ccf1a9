# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Each script that measures runs; operations and memory, which are counted, stay within their bounds."""

import importlib
import json

import pytest
import timing
import torch

DINO, KINDS = "DINOv2 ViT-S/14 at 448", ("float32", "bf16")


def run(name, tmp_path, *arguments):
    output = tmp_path / f"{name}.json"
    importlib.import_module(name).main(["--output", str(output), "--rounds", "1", "--threads", "1", *arguments])
    content = json.loads(output.read_text())
    assert {"processor", "cores", "accelerator", "versions", "settings"} <= content["machine"].keys()
    return content["tables"]


def test_what_make_gpu_runs_fills_every_table_on_the_cpu_too(tmp_path):
    tables = run("speed", tmp_path, "--small", "--device", "cuda")
    assert {(row["precision"], row["K"]) for row in tables["Speed"]} >= {(p, k) for p in KINDS for k in (1, 4)}
    assert all(row["over bare tower"] > 0 for row in tables["Speed"])
    one, _, two, _ = (row for row in tables["Speed"] if row["precision"] == "float32")
    assert 0 < one["bare tower MB"] <= one["MB"] < two["MB"]
    exact, *half = tables["Scores"]
    assert exact["largest change"] == 0
    assert all(0 < row["largest change"] < 0.05 for row in half)
    assert [row["store"] for row in tables["Training"]] == ["none", "memory"]
    assert [row["model"] for row in tables["Models of anomalib, K = 4"]] == ["InCTRL", "InCTRLv2", "WinCLIP"]
    page = (tmp_path / "speed.md").read_text()
    assert all(f"## {title}\n" in page for title in tables)


def test_steps_that_would_begin_too_late_are_not_run(tmp_path):
    tables = run("speed", tmp_path, "--small", "--minutes", "0")
    assert len(tables) == 4
    assert not any(tables.values())
    assert (tmp_path / "speed.md").read_text().count("\nnot run\n") == 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="runs there")
def test_without_a_gpu_the_error_names_what_to_do(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run("speed", tmp_path, "--device", "cuda")
    assert "no CUDA GPU was found. Use --small" in capsys.readouterr().err


def test_openvino_scores_as_float32(tmp_path):
    pytest.importorskip("openvino")
    options = ["--tables", "scores", "speed", "--towers", timing.DEMO, "--batches", "2", "--categories", "brick"]
    tables = run("speed", tmp_path, *options, "--images", "6")
    changes = {row["precision"]: row["largest change"] for row in tables["Scores"]}
    assert changes["OpenVINO f32"] < 1e-4
    assert [row["precision"] for row in tables["Speed"]] == list(changes)


def test_anomaly_dino_is_timed_beside_both_models(tmp_path, monkeypatch):
    monkeypatch.setitem(timing.TOWERS, DINO, timing.TOWERS[DINO] | {"image_size": 112})
    (rows,) = run("speed", tmp_path, "--tables", "peers", "--towers", DINO, "--peer_images", "1").values()
    assert [row["model"] for row in rows] == ["InCTRL", "InCTRLv2", "AnomalyDINO"]


def test_growth_reports_rates_memory_and_parts(tmp_path):
    stream, engine, parts = run("growth", tmp_path, "--images", "10", "--explained", "5").values()
    assert [row["images"] for row in stream] == [2, 4, 6, 8, 10]
    assert [row["images"] for row in engine] == [1, 2, 3, 4, 5]
    assert all(row["images/s"] > 0 and row["memory MB"] > 0 for row in stream + engine)
    assert all(row["ms"] > 0 for row in parts)


def test_scoring_adds_few_operations_and_little_memory_to_the_full_size_backbone(tmp_path):
    (rows,) = run("counts", tmp_path, "--batches", "32", "--shots", "4", "8", "64").values()
    assert [(row["model"], row["K"]) for row in rows] == [(m, k) for m in ("InCTRL", "InCTRLv2") for k in (4, 8, 64)]
    for four, eight, many in (rows[:3], rows[3:]):
        assert 1 <= four["over backbone"] <= 1.05
        assert four["over backbone"] < eight["over backbone"] <= 1.1
        assert eight["additional MB"] < 55
        assert eight["scoring MB"] < 200
        for key in ("additional MB", "scoring MB"):
            assert many[key] == pytest.approx(eight[key], rel=0.01)
