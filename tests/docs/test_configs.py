# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Every config is accepted by its reader, and a training config runs; benchmark configs: tests/benchmark."""

import pytest
import yaml
from anomalib.cli.cli import AnomalibCLI
from anomalib.data import get_datamodule
from anomalib.models import get_model

from anomalib_inctrl import InCTRLDemo

from .pages import ROOT

CONFIGS = ROOT / "configs"


def configs(pattern):
    return [pytest.param(path, id=path.stem) for path in sorted(CONFIGS.glob(pattern))]


@pytest.mark.parametrize("path", configs("data/*.yaml") + configs("train/*.yaml"))
def test_config_is_accepted_by_the_command_line(path):
    whole = path.parent.name == "train"
    arguments = ["train", "--config", str(path)] if whole else ["test", "--model", "InCTRL", "--data", str(path)]
    with pytest.raises(SystemExit) as end:
        AnomalibCLI(args=[*arguments, "--print_config"])
    assert end.value.code == 0


@pytest.mark.parametrize("path", configs("benchmarks/demo_*.yaml"))
def test_config_of_anomalibs_benchmark_names_model_and_data(path):
    found = yaml.safe_load(path.read_text())["benchmark"]
    for part, create in (("model", get_model), ("data", lambda entry: get_datamodule({"data": entry}))):
        entry = found[part]
        arguments = entry["init_args"]
        arguments.update({key: value["grid"][0] for key, value in arguments.items() if isinstance(value, dict)})
        assert type(create(entry)).__name__ == entry["class_path"]


@pytest.mark.parametrize("name", ["inctrl_demo", "inctrl_v2_monitored"])
def test_training_config_runs(name, tmp_path, monkeypatch):
    """On few images and for one step."""
    counts = {"train_count": 5, "test_normal_count": 2, "test_anomalous_count": 3}
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load((CONFIGS / "train" / f"{name}.yaml").read_text())
    arguments = config["data"]["init_args"]
    for role, count in (("auxiliary", 2), ("targets", 1)):
        (source,) = arguments[role]
        source |= {"root": "data", "categories": source["categories"][:count], "options": counts}
        for category in source["categories"]:
            InCTRLDemo(root="data", category=category, **counts).prepare_data()
    arguments |= {"train_batch_size": 4, "steps_per_epoch": 1}
    config["trainer"] |= {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False, "logger": False}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    AnomalibCLI(args=["train", "--config", "config.yaml", "--default_root_dir", str(tmp_path / "results")])
    (scores,) = (tmp_path / "results").rglob("scores.csv")
    assert len(scores.read_text().splitlines()) == 1 + 5
    assert list((tmp_path / "results").rglob("model.ckpt"))
