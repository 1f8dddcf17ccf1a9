# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import json

import open_clip
import pytest
from anomalib.engine import Engine

from anomalib_inctrl import GeneralistDataModule, InCTRL, InCTRLDemo, InCTRLv2
from anomalib_inctrl.data import DataSource

COUNTS = {"train_count": 9, "test_normal_count": 5, "test_anomalous_count": 6}
CATEGORIES = ["washer", "brick"]
BACKBONE = "generalist-vit-16-64"
CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 64, "layers": 4, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="session")
def backbone_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / f"{BACKBONE}.json"
    path.write_text(json.dumps(CONFIG))
    return path


@pytest.fixture(scope="session", autouse=True)
def _backbone(backbone_file):
    """A small random backbone."""
    open_clip.add_model_config(backbone_file)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for category in [*CATEGORIES, "gear"]:
        InCTRLDemo(root=root, category=category, **COUNTS).prepare_data()
    return root


@pytest.fixture(scope="session")
def checkpoints(data, tmp_path_factory):
    """Heads of both models after a few steps, one of them with a metric of its own, changed enough to be seen."""
    found = {}
    for kind, metric in ((InCTRL, "cosine"), (InCTRLv2, "learned")):
        source = DataSource("InCTRLDemo", root=str(data), categories=["gear"], options=COUNTS)
        options = {"k_shot": 2, "train_batch_size": 4, "steps_per_epoch": 3, "num_workers": 0}
        folder = tmp_path_factory.mktemp("trained")
        quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
        engine = Engine(max_epochs=1, default_root_dir=folder, **quiet)
        model = kind(backbone=BACKBONE, pretrained=None, k_shot=2, patch_metric=metric, learning_rate=0.01)
        engine.fit(model, datamodule=GeneralistDataModule(auxiliary=[source], **options))
        found[kind.__name__] = str(engine.best_model_path)
    return found


@pytest.fixture
def packaged_model():
    """For workers, processes of their own, which do not know the small backbone."""
    return {"class_path": "InCTRL", "init_args": {"backbone": "mini-clip-16-240", "pretrained": "demo", "blocks": [1]}}


@pytest.fixture
def make_config(data, tmp_path):
    def make(**changes):
        given = {"backbone": BACKBONE, "pretrained": None}
        target = {"datamodule": "InCTRLDemo", "root": str(data), "categories": CATEGORIES, "options": COUNTS}
        return {
            "output": str(tmp_path / "results"),
            "models": {name: {"class_path": name, "init_args": dict(given)} for name in ("InCTRL", "InCTRLv2")},
            "targets": {"Demo": target},
            "k_shots": [1, 2],
            "seeds": [0],
            "batch_size": 4,
            "device": "cpu",
        } | changes

    return make
