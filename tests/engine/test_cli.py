# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The commands of the documentation: one in a process of its own, the others in this one, where starting is faster."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from anomalib.cli.cli import AnomalibCLI
from anomalib.engine import Engine

from anomalib_inctrl import Detector
from tests.processes import needs_fork, run_process
from tests.shared import AUXILIARY, COUNTS, QUIET, SMALL, TARGETS, generalist_data

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder in which the quickstart was trained, on fewer images."""
    folder = tmp_path_factory.mktemp("cli")
    config = yaml.safe_load((CONFIGS / "train" / "inctrl_demo.yaml").read_text())
    data = config["data"]["init_args"]
    data["auxiliary"][0] |= {"categories": AUXILIARY, "options": COUNTS}
    data["targets"][0] |= {"categories": TARGETS, "options": COUNTS}
    data |= {"train_batch_size": 4, "steps_per_epoch": 2, "k_shot": 1}
    config["trainer"]["max_epochs"] = 1
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    # The module is the command `anomalib-inctrl`, which hands over to `anomalib` and needs no installation.
    command = [sys.executable, "-W", "ignore", "-m", "anomalib_inctrl.cli", "train", "--config", "config.yaml"]
    environment = os.environ | {"PYTHONPATH": str(CONFIGS.parent)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def checkpoint(project):
    return next(project.glob("results/InCTRL/GeneralistDataModule/v0/**/*.ckpt"))


def test_train_by_yaml(project, checkpoint):
    assert checkpoint.stat().st_size < 6e6  # heads and the prompts of two classes, but no backbone, which has 22e6
    scores = pd.read_csv(project / "results/InCTRL/GeneralistDataModule/latest/scores.csv")
    assert set(scores.class_name) == set(TARGETS)
    # The process that trained and this one score the same.
    washers = scores[scores.class_name == "washer"]
    predictions = Detector(checkpoint, device="cpu").predict([project / path for path in washers.image_path], "washer")
    assert [prediction.score for prediction in predictions] == pytest.approx(washers.score.to_list(), abs=1e-6)


def test_test_on_an_unseen_category_needs_the_checkpoint_alone(project, checkpoint, monkeypatch, capsys):
    monkeypatch.chdir(project)
    counts = [part for name, value in COUNTS.items() for part in (f"--data.{name}", str(value))]
    data = ["--data", "InCTRLDemo", "--data.category", "capsule", *counts]
    AnomalibCLI(args=["test", "--model", "InCTRL", *data, "--ckpt_path", str(checkpoint)])
    assert "pixel_AUPRO" in capsys.readouterr().out
    folder = project / "results/InCTRL/InCTRLDemo/capsule/latest"
    assert len(pd.read_csv(folder / "scores.csv")) == 9
    assert len(list((folder / "explanations").rglob("*.png"))) == 9


def train_in_two(kind, data, folder):
    engine = Engine(max_epochs=1, strategy="ddp_fork", devices=2, default_root_dir=folder, **QUIET)
    model = kind(**SMALL, k_shot=2, visualizer=False)
    engine.train(model, datamodule=generalist_data(data))


@needs_fork
def test_two_processes_train_and_test_together(kind, data, tmp_path):
    assert run_process(train_in_two, kind, data, tmp_path) == 0
    (path,) = tmp_path.rglob("scores.csv")
    scores = pd.read_csv(path)
    assert len(scores) == 18
    assert scores.image_path.is_unique
