# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import pytest

from anomalib_inctrl import Detector, InCTRLDemo


@pytest.fixture(scope="session")
def washers(tmp_path_factory):
    """A rendered category on disk: its folder, with ``train/good`` and ``test/<defect>``."""
    root = tmp_path_factory.mktemp("data")
    InCTRLDemo(root=root, train_count=6, test_normal_count=3, test_anomalous_count=6).prepare_data()
    return root / "washer"


@pytest.fixture(scope="session")
def good(washers):
    return sorted((washers / "train" / "good").glob("*.png"))


@pytest.fixture(scope="session")
def queries(washers):
    return sorted((washers / "test").rglob("*.png"))


@pytest.fixture(scope="session")
def make_detector():
    def make(weights=None, **options):
        return Detector(weights, **{"backbone": "mini-clip-16-240", "pretrained": "demo", "device": "cpu"} | options)

    return make


@pytest.fixture(scope="session")
def detector(make_detector, good):
    """A detector with four prompts; tests do not change it."""
    detector = make_detector()
    detector.set_prompts(good[:4], class_name="washer")
    return detector
