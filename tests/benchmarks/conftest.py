# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import sys
from pathlib import Path

import pytest

# The benchmarks are scripts that lie side by side, not a package.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from anomalib_inctrl import InCTRLDemo
from tests.shared import BACKBONE

__all__ = ["BACKBONE"]

COUNTS = {"train_count": 5, "test_normal_count": 3, "test_anomalous_count": 4}
AUXILIARY, UNSEEN = ["gear", "tile"], ["washer"]


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for category in AUXILIARY + UNSEEN:
        InCTRLDemo(root=root, category=category, **COUNTS).prepare_data()
    return root
