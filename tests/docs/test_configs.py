# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Configs are documentation: each is understood by what reads it, and the short ones run.

Training and benchmark configs are read in tests/benchmark/test_config.py; here are the others.
"""

import sys

import pytest
import yaml
from anomalib.cli.cli import AnomalibCLI
from anomalib.data import get_datamodule
from anomalib.models import get_model

from anomalib_inctrl import InCTRLDemo

from .pages import ROOT

CONFIGS = ROOT / "configs"
COUNTS = {"train_count": 5, "test_normal_count": 2, "test_anomalous_count": 3}
# The third, inctrl_v2_demo, is the monitored one without its callbacks.
SHORT = ["train/inctrl_demo.yaml", "train/inctrl_v2_monitored.yaml"]


def configs(folder, pattern="*.yaml"):
    return [pytest.param(path, id=path.stem) for path in sorted((CONFIGS / folder).glob(pattern))]


def test_no_folder_is_left_out():
    assert {path.parent.name for path in CONFIGS.rglob("*.yaml")} == {"ablations", "benchmarks", "data", "train"}


@pytest.mark.parametrize("path", configs("data"))
def test_data_configs_are_read_by_the_command_line(path):
    with pytest.raises(SystemExit) as end:
        AnomalibCLI(args=["test", "--model", "InCTRL", "--data", str(path), "--print_config"])
    assert end.value.code == 0


@pytest.mark.parametrize("path", configs("ablations"))
def test_ablations_are_read_by_their_script(path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    from ablate import read_config

    assert read_config(path).rows


@pytest.mark.parametrize("path", configs("benchmarks", "demo_*.yaml"))
def test_configs_of_anomalibs_benchmark_name_what_there_is(path):
    found = yaml.safe_load(path.read_text())["benchmark"]
    for entry in (found["model"], found["data"]):
        for key, value in entry["init_args"].items():
            if isinstance(value, dict):
                entry["init_args"][key] = value["grid"][0]
    assert type(get_model(found["model"])).__name__ == found["model"]["class_path"]
    assert type(get_datamodule({"data": found["data"]})).__name__ == found["data"]["class_path"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for category in ("board", "cap", "biscuit"):
        InCTRLDemo(root=root, category=category, **COUNTS).prepare_data()
    return root


@pytest.mark.parametrize("name", SHORT)
def test_short_configs_run(name, data, tmp_path, monkeypatch):
    """As they are, but on few pictures and for one step."""
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load((CONFIGS / name).read_text())
    arguments = config["data"]["init_args"]
    for role, count in (("auxiliary", 2), ("targets", 1)):
        (source,) = arguments[role]
        source |= {"root": str(data), "categories": source["categories"][:count], "options": COUNTS}
    arguments |= {"train_batch_size": 4, "steps_per_epoch": 1}
    config["trainer"] |= {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False, "logger": False}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    AnomalibCLI(args=["train", "--config", "config.yaml", "--default_root_dir", str(tmp_path / "results")])
    (scores,) = (tmp_path / "results").rglob("scores.csv")
    assert len(scores.read_text().splitlines()) == 1 + 5
    assert list((tmp_path / "results").rglob("model.ckpt"))
