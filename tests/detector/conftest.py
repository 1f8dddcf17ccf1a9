# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from PIL import Image

from anomalib_inctrl import Detector, InCTRLDemo

DEMO = {"backbone": "mini-clip-16-240", "pretrained": "demo", "device": "cpu"}


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
        return Detector(weights, **DEMO | options)

    return make


@pytest.fixture(scope="session")
def detector(make_detector, good):
    """One that has been shown four pictures; tests leave it as it is."""
    detector = make_detector()
    detector.set_prompts(good[:4], class_name="washer")
    return detector


@pytest.fixture(scope="session")
def pixels():
    """A picture ``(30, 50, 3)`` that no flip, transposition or swap of colours leaves as it is."""
    rng = np.random.default_rng(0)
    ramp = (
        np.linspace(0, 200, 50, dtype=np.uint8)[None, :, None] + np.linspace(0, 40, 30, dtype=np.uint8)[:, None, None]
    )
    return (ramp + rng.integers(0, 12, (30, 50, 3)) * np.array([0, 1, 1])).astype(np.uint8)


@pytest.fixture
def picture_file(tmp_path, pixels):
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    return path
