# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What a user types, typed: each command in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

CONFIGS = Path(__file__).parents[2] / "configs"
COUNTS = {"train_count": 6, "test_normal_count": 3, "test_anomalous_count": 6}
FLAGS = [part for name, value in COUNTS.items() for part in (f"--data.{name}", str(value))]


def run(folder, *arguments):
    # The module is the command `anomalib-inctrl`, which hands over to `anomalib` and needs no installation.
    environment = os.environ | {"PYTHONPATH": str(CONFIGS.parent), "COLUMNS": "200"}
    command = [sys.executable, "-m", "anomalib_inctrl.cli", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300
    )
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A user's folder, in which the quickstart has been trained, on fewer images."""
    folder = tmp_path_factory.mktemp("cli")
    config = yaml.safe_load((CONFIGS / "train" / "inctrl_demo.yaml").read_text())
    data = config["data"]["init_args"]
    data["auxiliary"][0] |= {"categories": ["gear", "tile"], "options": COUNTS}
    data["targets"][0] |= {"categories": ["washer", "brick"], "options": COUNTS}
    data |= {"train_batch_size": 4, "steps_per_epoch": 2, "k_shot": 1}
    config["trainer"]["max_epochs"] = 1
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    status, output = run(folder, "train", "--config", "config.yaml")
    assert status == 0, output
    return folder


@pytest.fixture(scope="module")
def checkpoint(project):
    return next(project.glob("results/InCTRL/GeneralistDataModule/v0/**/*.ckpt"))


def test_train_by_yaml(project, checkpoint):
    assert checkpoint.stat().st_size < 6e6  # heads and the prompts of two classes, but no backbone, which has 22e6
    scores = pd.read_csv(project / "results/InCTRL/GeneralistDataModule/latest/scores.csv")
    assert set(scores.class_name) == {"washer", "brick"}


def test_test_on_an_unseen_category_needs_the_checkpoint_alone(project, checkpoint):
    arguments = ["--data", "InCTRLDemo", "--data.category", "capsule", *FLAGS, "--ckpt_path", checkpoint]
    status, output = run(project, "test", "--model", "InCTRL", *arguments)
    assert status == 0, output
    assert "pixel_AUPRO" in output
    folder = project / "results/InCTRL/InCTRLDemo/capsule/latest"
    assert len(pd.read_csv(folder / "scores.csv")) == 9
    assert len(list((folder / "explanations").rglob("*.png"))) == 9


def test_predict_on_ones_own_pictures_of_every_kind(project, checkpoint):
    own = project / "own"
    own.mkdir()
    source = next((project / "datasets/InCTRLDemo/gear/train/good").glob("*.png"))
    grey = np.asarray(Image.open(source).convert("L"))
    pictures = {
        "rgb.png": Image.open(source),
        "grey.png": Image.fromarray(grey),
        "sixteen.png": Image.fromarray(grey.astype(np.uint16) * 257),
        "rgba.png": Image.open(source).convert("RGBA"),
        "palette.png": Image.open(source).convert("P"),
        "cmyk.jpg": Image.open(source).convert("CMYK"),
        "wide.jpg": Image.open(source).convert("RGB").resize((400, 100)),
    }
    for name, picture in pictures.items():
        picture.save(own / name)
    model = ["--model.weights", checkpoint, "--model.prompts", source.parent, "--model.class_name", "gear"]
    status, output = run(project, "predict", "--model", "InCTRL", *model, "--data", own)
    assert status == 0, output
    scores = pd.read_csv(project / "results/InCTRL/latest/scores.csv")
    by_name = {Path(path).name: score for path, score in zip(scores.image_path, scores.score, strict=True)}
    assert by_name.keys() == pictures.keys()
    # The same picture read from 16 bits scores as from 8; clipped to white it would not.
    assert by_name["sixteen.png"] == pytest.approx(by_name["grey.png"], abs=5e-3)
    assert by_name["rgba.png"] == pytest.approx(by_name["rgb.png"], abs=1e-6)


def test_a_fresh_process_scores_bit_for_bit_the_same(project, checkpoint):
    script = (
        "import sys, torch; from anomalib_inctrl import InCTRL;"
        "model = InCTRL.load_from_checkpoint(sys.argv[1]).eval();"
        "print(model.model.bank.class_names);"
        "images = torch.linspace(-1, 1, 2 * 3 * 240 * 240).view(2, 3, 240, 240).sin();"
        "print([value.hex() for value in model.model(images, 'washer').pred_score.tolist()])"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script, str(checkpoint)],
            env=os.environ | {"PYTHONPATH": str(CONFIGS.parent)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(2)
    ]
    assert outputs[0] == outputs[1]
    assert "washer" in outputs[0]


def test_two_processes_train_and_test_together(project):
    status, output = run(
        project, "train", "--config", "config.yaml", "--default_root_dir", "distributed",
        "--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.accelerator", "cpu",
    )  # fmt: skip
    assert status == 0, output
    (scores,) = project.glob("distributed/InCTRL/GeneralistDataModule/v*/scores.csv")
    found = pd.read_csv(scores)
    assert len(found) == 18
    assert found.image_path.is_unique


def test_mistakes_are_told_in_a_line(project, checkpoint, tmp_path):
    status, output = run(project, "predict", "--model", "InCTRL", "--model.weights", checkpoint, "--data", "own")
    assert status != 0
    assert "PromptError: No prompts are set." in output


def is_anomalibs(path):
    """Whether anomalib's own commands read a config, train or benchmark."""
    content = yaml.safe_load(path.read_text())
    return path.parent.name == "train" or (path.parent.name == "benchmarks" and "benchmark" in content)


ANOMALIB_CONFIGS = [path for path in sorted(CONFIGS.rglob("*.yaml")) if is_anomalibs(path)]


@pytest.mark.parametrize("path", ANOMALIB_CONFIGS, ids=lambda path: path.stem)
def test_every_config_parses(path, tmp_path):
    if path.parent.name == "benchmarks":
        from anomalib.models import get_model

        init_args = yaml.safe_load(path.read_text())["benchmark"]["model"]
        init_args["init_args"] = {k: v for k, v in init_args["init_args"].items() if not isinstance(v, dict)}
        assert type(get_model(init_args)).__name__ == init_args["class_path"]
        return
    from anomalib.cli.cli import AnomalibCLI

    # Parsed as the command line does it, without building anything.
    with pytest.raises(SystemExit) as end:
        AnomalibCLI(args=["train", "--config", str(path), "--print_config"])
    assert end.value.code == 0
