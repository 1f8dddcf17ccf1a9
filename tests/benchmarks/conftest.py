# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import json
import sys
from pathlib import Path

import open_clip
import pytest

# The benchmarks are scripts that lie side by side, not a package.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from anomalib_inctrl import InCTRLDemo

COUNTS = {"train_count": 5, "test_normal_count": 3, "test_anomalous_count": 4}
AUXILIARY, UNSEEN = ["gear", "tile"], ["washer"]
BACKBONE = "benchmark-vit-16-64"


@pytest.fixture(scope="session", autouse=True)
def _backbone(tmp_path_factory):
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": 4, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    path = tmp_path_factory.mktemp("config") / f"{BACKBONE}.json"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for category in AUXILIARY + UNSEEN:
        InCTRLDemo(root=root, category=category, **COUNTS).prepare_data()
    return root
