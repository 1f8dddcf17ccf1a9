# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from anomalib_inctrl import Detector, InCTRLv2
from tests.engine.conftest import BACKBONE, backbone, data, make_engine

__all__ = ["backbone", "data", "make_engine"]


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


@pytest.fixture
def detector(make_module, pixels):
    """A detector with two prompts."""
    detector = Detector(make_module(), device="cpu")
    detector.set_prompts([pixels, pixels.flip(2)], class_name="washer")
    return detector


@pytest.fixture
def checkpoint(detector, tmp_path):
    """A file that :meth:`Detector.save` wrote, with prompts."""
    detector.threshold = 0.5
    return detector.save(tmp_path / "saved" / "heads.ckpt")
