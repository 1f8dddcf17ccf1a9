# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What holds for every test: nothing is downloaded or sent, the user's cache is left alone, and few threads."""

import logging
import os
import sys

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["ANOMALIB_INCTRL_CACHE"] = "0"
os.environ.setdefault("OMP_NUM_THREADS", "2")
# OpenVINO's converter reports its use over the network, from a process of its own; without this module it does not.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def _logging_as_it_was():
    """Commands silence the logging of their process; tests of them run in this one."""
    disabled = logging.root.manager.disable
    yield
    logging.disable(disabled)
