# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The callbacks from YAML, as the command line reads it."""

from pathlib import Path

import pytest
import yaml
from anomalib.cli.cli import AnomalibCLI
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback

CONFIGS = Path(__file__).parents[2] / "configs" / "train"


def print_config(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        AnomalibCLI(args=["train", *map(str, arguments), "--print_config"])
    output = capsys.readouterr()
    return end.value.code, output.out, output.err


def test_command_line_reads_and_writes_the_callbacks(capsys, tmp_path):
    code, output, _ = print_config(capsys, "--config", CONFIGS / "inctrl_v2_monitored.yaml")
    assert code == 0
    monitor, branches, schedule = yaml.safe_load(output)["trainer"]["callbacks"]
    assert [entry["class_path"].rpartition(".")[2] for entry in (monitor, branches, schedule)] == [
        "LossMonitor",
        "BranchMonitor",
        "LossSchedule",
    ]
    assert monitor["init_args"] == {"every_n_steps": 5, "progress_bar": False}
    assert schedule["init_args"] == {
        "weights": {"one_class": {"1": 0.5, "2": 1.0}},
        "frozen_until": {"oasl_branch": 1},
        "interpolate": False,
    }
    # What it writes it reads again.
    (tmp_path / "again.yaml").write_text(output)
    assert print_config(capsys, "--config", tmp_path / "again.yaml")[:2] == (0, output)


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        ("LossMonitor", "every_n_steps", "often"),
        ("BranchMonitor", "floor", "low"),
        ("LossSchedule", "weights", {"image": {"soon": 1.0}}),
        ("LossSchedule", "frozen_until", {"oasl_branch": 1.5}),
        ("LossSchedule", "until", 3),
    ],
)
def test_command_line_refuses_what_does_not_fit(name, argument, value, capsys, tmp_path):
    config = yaml.safe_load((CONFIGS / "inctrl_v2_monitored.yaml").read_text())
    entry = {"class_path": f"anomalib_inctrl.callbacks.{name}", "init_args": {argument: value}}
    config["trainer"]["callbacks"] = [entry]
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(config))
    code, _, error = print_config(capsys, "--config", tmp_path / "wrong.yaml")
    assert code != 0
    assert argument in error


def test_callbacks_are_built_as_said():
    parser = ArgumentParser()
    parser.add_argument("--callbacks", type=list[Callback])
    text = (CONFIGS / "inctrl_v2_monitored.yaml").read_text()
    parsed = parser.parse_object({"callbacks": yaml.safe_load(text)["trainer"]["callbacks"]})
    monitor, branches, schedule = parser.instantiate_classes(parsed).callbacks
    assert (monitor.every_n_steps, branches.floor) == (5, 0.05)
    assert [schedule.weight("one_class", epoch, own=9.0) for epoch in range(4)] == [9.0, 0.5, 1.0, 1.0]
    assert [schedule.is_frozen("oasl_branch", epoch) for epoch in range(3)] == [True, False, False]


def test_the_example_is_the_quickstart_with_callbacks():
    monitored, quickstart = (
        yaml.safe_load((CONFIGS / name).read_text()) for name in ("inctrl_v2_monitored.yaml", "inctrl_v2_demo.yaml")
    )
    del monitored["trainer"]["callbacks"]
    assert monitored == quickstart
