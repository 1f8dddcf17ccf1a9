# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The callbacks from YAML, as the command line reads it."""

from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback

CONFIGS = Path(__file__).parents[2] / "configs" / "train"
MONITORED = yaml.safe_load((CONFIGS / "inctrl_v2_monitored.yaml").read_text())


@pytest.fixture(scope="module")
def parser():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--callbacks", type=list[Callback])
    return parser


def test_callbacks_are_created_from_yaml(parser):
    parsed = parser.parse_object({"callbacks": MONITORED["trainer"]["callbacks"]})
    assert parser.parse_string(parser.dump(parsed)) == parsed  # what it writes it reads again
    monitor, branches, schedule = parser.instantiate_classes(parsed).callbacks
    assert (monitor.every_n_steps, branches.minimum) == (5, 0.05)
    assert [schedule.weight("one_class", epoch, own=9.0) for epoch in range(4)] == [9.0, 0.5, 1.0, 1.0]
    assert [schedule.is_frozen("oasl_branch", epoch) for epoch in range(3)] == [True, False, False]


def test_arguments_of_a_wrong_type_are_refused(parser):
    entry = {"class_path": "anomalib_inctrl.callbacks.LossSchedule", "init_args": {"weights": {"image": {"soon": 1.0}}}}
    with pytest.raises(Exception, match="weights"):
        parser.parse_object({"callbacks": [entry]})
