# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from anomalib_inctrl import InCTRLModel
from anomalib_inctrl.models.inctrl.official import load_official_weights

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden():
    return torch.load(GOLDEN / "cases.pt", weights_only=True)


@pytest.fixture(scope="session")
def official_weights():
    saved = torch.load(GOLDEN / "weights.pt", weights_only=True)
    weights = dict(saved["weights"])
    rows = weights["token_embedding.weight"].float()
    weights["token_embedding.weight"] = torch.zeros(49408, rows.shape[1])
    weights["token_embedding.weight"][saved["token_ids"]] = rows
    return weights


@pytest.fixture(scope="session")
def pool(golden):
    """The golden images, preprocessed ``(N, 3, 240, 240)``."""
    with np.load(GOLDEN / "images.npz", allow_pickle=False) as file:
        pixels = torch.from_numpy(file["pool_uint8"])
    mean, std = (torch.tensor(golden[name]).view(3, 1, 1) for name in ("mean", "std"))
    return (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std


@pytest.fixture
def tiny(golden):
    """Make models on the golden architecture with random weights."""

    def make(**options):
        torch.manual_seed(0)
        return InCTRLModel(backbone=open_clip.model.CLIP(**golden["clip"]), **options)

    return make


@pytest.fixture
def small():
    """Make models small enough to train in a test."""

    def make(**options):
        torch.manual_seed(0)
        config = {
            "embed_dim": 16,
            "vision_cfg": {"image_size": 48, "layers": 3, "width": 16, "head_width": 8, "patch_size": 16},
            "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
        }
        return InCTRLModel(backbone=open_clip.model.CLIP(**config), **options)

    return make


@pytest.fixture
def official(tiny, official_weights):
    model = tiny()
    load_official_weights(model, official_weights)
    return model
