# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import json

import open_clip
import pytest
import torch

from anomalib_inctrl import Detector, InCTRLDemo, InCTRLv2

BACKBONE = "reliability-vit-16-32"
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}
COUNTS = {"train_count": 5, "test_normal_count": 2, "test_anomalous_count": 3}


@pytest.fixture(scope="session", autouse=True)
def backbone_file(tmp_path_factory):
    """A backbone of a few thousand values."""
    path = tmp_path_factory.mktemp("config") / f"{BACKBONE}.json"
    path.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(path)
    return path


@pytest.fixture(scope="session")
def make_module():
    """Create a model with random heads."""

    def make(kind=InCTRLv2, **options):
        module = kind(backbone=BACKBONE, pretrained=None, blocks=[1, 2], visualizer=False, **options)
        generator = torch.Generator().manual_seed(0)
        for parameter in module.model.parameters():
            if parameter.requires_grad:
                parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
        module.model.heads_trained = True
        return module

    return make


@pytest.fixture(scope="session")
def pixels():
    return torch.rand(3, 40, 56, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def make_detector(make_module, pixels):
    """Create a detector with two prompts."""

    def make(**options):
        detector = Detector(make_module(), device="cpu", **options)
        detector.set_prompts([pixels, pixels.flip(2)], class_name="washer")
        return detector

    return make


@pytest.fixture(scope="session")
def detector(make_detector):
    """A detector that tests leave unchanged."""
    return make_detector()


@pytest.fixture(scope="session")
def checkpoint(make_detector, tmp_path_factory):
    """A file that :meth:`Detector.save` wrote, with prompts."""
    return make_detector(threshold=0.5).save(tmp_path_factory.mktemp("checkpoint") / "heads.ckpt")


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Root of two small demo categories on disk."""
    root = tmp_path_factory.mktemp("data")
    for category in ("gear", "washer"):
        InCTRLDemo(root=root, category=category, **COUNTS).prepare_data()
    return root
