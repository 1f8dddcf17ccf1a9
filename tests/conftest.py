# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What holds for every test: nothing is downloaded or sent, the user's cache is left alone, and few threads.

Fixtures import what they need, so that tests without anomalib start fast.
"""

import logging
import os
import sys
from functools import partial

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


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Root of a few small demo categories on disk."""
    from anomalib_inctrl import InCTRLDemo
    from tests.shared import AUXILIARY, COUNTS, TARGETS

    root = tmp_path_factory.mktemp("data")
    for category in AUXILIARY + TARGETS:
        InCTRLDemo(root=root, category=category, **COUNTS).prepare_data()
    return root


@pytest.fixture(scope="session")
def good(data):
    """Normal images of the washer."""
    return sorted((data / "washer/train/good").glob("*.png"))


@pytest.fixture(scope="session")
def queries(data):
    """Test images of the washer."""
    return sorted((data / "washer/test").rglob("*.png"))


@pytest.fixture(scope="session")
def target(data):
    """Create a datamodule of one category."""
    from anomalib_inctrl import InCTRLDemo
    from tests.shared import COUNTS

    return partial(InCTRLDemo, data, **COUNTS)


@pytest.fixture(scope="session")
def generalist(data):
    """Create a datamodule of several categories."""
    from tests.shared import generalist_data

    return partial(generalist_data, data)


@pytest.fixture
def make_engine(tmp_path):
    from anomalib.engine import Engine

    from tests.shared import QUIET

    return partial(Engine, **QUIET | {"default_root_dir": tmp_path / "results"})
