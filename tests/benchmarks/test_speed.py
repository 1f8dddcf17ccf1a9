# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Each script that measures runs; operations and memory, which are counted, stay within their bounds."""

import importlib
import json

import counts
import pytest
import torch

from tests.benchmarks.conftest import BACKBONE


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


def test_memory_of_tensors_is_counted_while_they_live():
    def call():
        first = torch.zeros(1000)  # 4 kB
        second = first[10:] + 1  # another 4 kB
        del first
        return second.add_(1) * 2  # replaces the first

    assert counts.peak_bytes(call) == pytest.approx(8000, rel=0.01)


def test_half_precision_changes_little_and_bf16_more_than_fp16(tmp_path):
    bf16, fp16 = run("half_precision", tmp_path, "--backbone", BACKBONE, "--categories", "brick")
    for component in ("score", "text score", "patch residual map"):
        assert 0.1 > bf16[component] > fp16[component] > 0


def test_one_pass_costs_more_than_one_setting(tmp_path):
    options = ["--images", "4", "--k_shots", "1", "2", "--seeds", "0", "1", "--sizes", "10"]
    measured, computed = run("one_pass_cost", tmp_path, "--backbone", BACKBONE, *options)
    assert measured["over K = 1"] > 1
    assert computed["test images"] == "10, computed"


def test_prompt_choices_are_written_as_a_page(tmp_path):
    page = tmp_path / "prompts.md"
    options = ["--categories", "washer", "brick", "--counts", "8", "4", "5", "--seeds", "1"]
    data = ["--data", str(tmp_path), "--backbone", BACKBONE, "--pretrained", ""]
    importlib.import_module("prompt_choices").main(["--output", str(page), *data, *options])
    text = page.read_text()
    rows = [line for line in text.splitlines() if line.startswith("| 2 of 4 |")]
    assert len(rows) == 1
    assert "nan" not in text
