# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Every config is accepted by its reader, and one of a training runs; benchmark configs: tests/benchmark."""

from pathlib import Path

import pytest
import yaml
from anomalib.cli.cli import AnomalibCLI
from anomalib.data import get_datamodule
from anomalib.models import get_model

from anomalib_inctrl import InCTRLDemo

CONFIGS = Path(__file__).parents[2] / "configs"
COUNTS = {"train_count": 5, "test_normal_count": 2, "test_anomalous_count": 3}


def configs(pattern):
    return [pytest.param(path, id=path.stem) for path in sorted(CONFIGS.glob(pattern))]


@pytest.mark.parametrize("path", configs("data/*.yaml") + configs("train/*.yaml"))
def test_config_is_accepted_by_the_command_line(path):
    options = {"train": ["train", "--config"], "data": ["test", "--model", "InCTRL", "--data"]}
    with pytest.raises(SystemExit) as end:
        AnomalibCLI(args=[*options[path.parent.name], str(path), "--print_config"])
    assert end.value.code == 0


@pytest.mark.parametrize("path", configs("benchmarks/demo_*.yaml"))
def test_config_of_anomalibs_benchmark_names_model_and_data(path):
    found = yaml.safe_load(path.read_text())["benchmark"]
    for part, create in (("model", get_model), ("data", lambda entry: get_datamodule({"data": entry}))):
        arguments = found[part]["init_args"]
        arguments.update({key: value["grid"][0] for key, value in arguments.items() if isinstance(value, dict)})
        assert type(create(found[part])).__name__ == found[part]["class_path"]


def test_training_config_with_callbacks_runs(tmp_path, monkeypatch):
    """On few images and for one step; tests/engine runs the one without callbacks."""
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load((CONFIGS / "train/inctrl_v2_monitored.yaml").read_text())
    arguments = config["data"]["init_args"]
    for role, count in (("auxiliary", 2), ("targets", 1)):
        (source,) = arguments[role]
        source |= {"root": "data", "categories": source["categories"][:count], "options": COUNTS}
        for category in source["categories"]:
            InCTRLDemo(root="data", category=category, **COUNTS).prepare_data()
    arguments |= {"train_batch_size": 4, "steps_per_epoch": 1}
    config["trainer"] |= {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False, "logger": False}
    Path("config.yaml").write_text(yaml.safe_dump(config))
    AnomalibCLI(args=["train", "--config", "config.yaml", "--default_root_dir", "results"])
    (scores,) = Path("results").rglob("scores.csv")
    assert len(scores.read_text().splitlines()) == 1 + 5
    assert list(Path("results").rglob("model.ckpt"))
