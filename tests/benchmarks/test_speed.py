# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Each speed benchmark runs; operations and memory, which are counted, stay within their bounds."""

import json

import open_clip
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.benchmarks.conftest import BACKBONE


def run(name, tmp_path, *arguments):
    import importlib

    output = tmp_path / f"{name}.json"
    module = importlib.import_module(name)
    assert module.main(["--output", str(output), "--rounds", "1", "--threads", "1", *arguments]) == 0
    content = json.loads(output.read_text())
    assert {"processor", "cores", "accelerator", "versions", "settings"} <= content["machine"].keys()
    return content["rows"]


def test_tower(tmp_path):
    rows = run("tower", tmp_path, "--backbone", BACKBONE, "--batches", "1", "3", "--shots", "1", "2")
    assert len(rows) == 2 * (1 + 2 * 2)
    assert {row["over the tower"] for row in rows if row["candidate"] == "tower"} == {1.0}
    assert all(row["ms"] > 0 for row in rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="runs there")
def test_gpu_rows_without_a_gpu_read_not_run(tmp_path):
    assert run("tower", tmp_path, "--device", "cuda") == [{"device": "cuda", "result": "not run"}]


def test_memory(tmp_path):
    rows = run("memory", tmp_path, "--backbone", BACKBONE, "--batches", "2", "--shots", "1", "4")
    assert len(rows) == 4


def test_operations(tmp_path):
    rows = run("operations", tmp_path, "--backbone", BACKBONE, "--shots", "1", "2")
    assert len(rows) == 4
    assert all(row["prompts per query"] > row["over the tower"] > 0 for row in rows)


@pytest.mark.parametrize(("k_shot", "reach"), [(4, 1.05), (8, 1.1)])
def test_scoring_takes_few_operations_beyond_the_backbone(tmp_path, k_shot, reach):
    from timing import FULL_SIZE

    rows = run("operations", tmp_path, "--backbone", FULL_SIZE, "--shots", str(k_shot))
    assert all(0.9 < row["over the tower"] <= reach for row in rows)


def test_half_precision(tmp_path):
    rows = run("half_precision", tmp_path, "--backbone", BACKBONE, "--categories", "brick", "--each", "1")
    assert [row["precision"] for row in rows] == ["bf16", "fp16"]
    for term in ("score", "text score", "patch residual map"):
        assert rows[0][term] > rows[1][term] > 0  # three bits less


def test_peers(tmp_path):
    rows = run("peers", tmp_path, "--backbone", "ViT-S-32-alt", "--images", "2", "--batch", "2", "--shots", "1")
    assert [row["model"] for row in rows if row["how"] == "engine"] == ["InCTRL", "InCTRLv2", "WinCLIP", "AnomalyDINO"]
    assert len(rows) == 6


def test_epochs(tmp_path):
    options = ["--images", "5", "--batch", "2", "--steps", "2", "--epochs", "2", "--models", "InCTRLv2"]
    rows = run("epochs", tmp_path, "--backbone", BACKBONE, *options)
    assert [row["store"] for row in rows] == ["none", "memory", "folder"]


def test_growth(tmp_path):
    rows = run("growth", tmp_path, "--counts", "100", "200")
    assert [row["images"] for row in rows] == [100, 200]


@pytest.fixture(scope="module")
def full_size():
    """Peak of scoring beyond the tower, and of scoring alone, in bytes, without computing anything."""
    from tensor_memory import peak_bytes
    from timing import CLASS_NAME, FULL_SIZE, MODELS, make_model

    found = {}
    with FakeTensorMode(), torch.no_grad():
        clip = open_clip.model.CLIP(**open_clip.get_model_config(FULL_SIZE)).eval()
        images = torch.empty(32, 3, 240, 240)
        tower = peak_bytes(lambda: clip.encode_image(images))
        for name in MODELS:
            for k_shot in (8, 64):
                model = make_model(name, clip, k_shot)
                features, context = model.backbone.encode_image(images), model.bank.select(CLASS_NAME)
                whole = peak_bytes(lambda model=model: model(images, CLASS_NAME))
                alone = peak_bytes(lambda model=model, f=features, c=context: model.score_features(f, c))
                found[name, k_shot] = whole - tower, alone
    return found


@pytest.mark.parametrize("name", ["InCTRL", "InCTRLv2"])
def test_memory_of_scoring_is_bounded_and_does_not_grow_with_prompts(full_size, name):
    extra, alone = full_size[name, 8]
    assert extra < 55e6
    assert alone < 200e6
    for few, many in zip(full_size[name, 8], full_size[name, 64], strict=True):
        assert many == pytest.approx(few, rel=0.01)
