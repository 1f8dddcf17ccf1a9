# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from anomalib_inctrl import Detector, InCTRLv2
from tests.shared import SMALL, randomize_heads


@pytest.fixture(scope="session")
def make_module():
    """Create a model with random heads."""

    def make(kind=InCTRLv2, **options):
        return randomize_heads(kind(**SMALL, blocks=[1, 2], visualizer=False, **options))

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
