# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The plugin inside anomalib, in processes of their own, installed from a wheel."""

import json
import os
from pathlib import Path

import pytest

from tests.plugin import scenarios


@pytest.fixture(scope="module")
def outcomes(wheel_environment) -> dict[str, str | None]:
    if not hasattr(os, "fork"):
        pytest.skip("the scenarios are forks of one process")
    return json.loads(wheel_environment.run(Path(scenarios.__file__)).stdout)


@pytest.mark.parametrize("name", scenarios.SCENARIOS)
def test_scenario(outcomes, name):
    if outcomes[name]:
        pytest.fail(outcomes[name], pytrace=False)


def test_the_own_command_is_installed(wheel_environment):
    assert wheel_environment.python.with_name("anomalib-inctrl").is_file()
