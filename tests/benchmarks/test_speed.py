# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Each script that measures runs; operations and memory, which are counted, stay within their bounds."""

import importlib
import json

import pytest


def run(name, tmp_path, *arguments):
    output = tmp_path / f"{name}.json"
    importlib.import_module(name).main(["--output", str(output), "--rounds", "1", "--threads", "1", *arguments])
    content = json.loads(output.read_text())
    assert {"processor", "cores", "accelerator", "versions", "settings"} <= content["machine"].keys()
    return content["rows"]


def test_scoring_adds_few_operations_and_little_memory_to_the_full_size_backbone(tmp_path):
    rows = run("counts", tmp_path, "--batches", "32", "--shots", "4", "8", "64")
    assert [(row["model"], row["K"]) for row in rows] == [(m, k) for m in ("InCTRL", "InCTRLv2") for k in (4, 8, 64)]
    for four, eight, many in (rows[:3], rows[3:]):
        assert 1 <= four["over backbone"] <= 1.05
        assert four["over backbone"] < eight["over backbone"] <= 1.1
        assert eight["additional MB"] < 55
        assert eight["scoring MB"] < 200
        for key in ("additional MB", "scoring MB"):
            assert many[key] == pytest.approx(eight[key], rel=0.01)
