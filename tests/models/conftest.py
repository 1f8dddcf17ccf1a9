# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from torch.nn import functional as F

from anomalib_inctrl import InCTRLModel
from anomalib_inctrl.backbones import ImageFeatures
from anomalib_inctrl.models.components.prompt_bank import PromptContext
from anomalib_inctrl.models.components.residuals import unit

GOLDEN = Path(__file__).parent / "golden"
SMALL = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 48, "layers": 4, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


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


@pytest.fixture(scope="session")
def images():
    """Smooth noise ``(16, 3, 48, 48)``: something of its own at every place."""
    noise = torch.randn(16, 3, 12, 12, generator=torch.Generator().manual_seed(3))
    return F.interpolate(noise, size=48, mode="bicubic")


@pytest.fixture
def small():
    """Make models of 48 pixels and 3 x 3 patches with random weights, whose heads count as trained."""

    def make(kind=InCTRLModel, family="openclip", **options):
        torch.manual_seed(0)
        if family == "openclip":
            model = kind(open_clip.model.CLIP(**SMALL), **options)
        else:
            model = kind("timm/test_vit", None, image_size=48, **options)
        model.heads_trained = True
        return model

    return make


@pytest.fixture
def pairs():
    """Draw features of queries for a model, and of ``k_shot`` prompts for each of them."""

    def draw(model, batch=3, k_shot=2, level=0):
        backbone = model.backbone
        shape = (len(backbone.blocks), backbone.num_patches, backbone.patch_width)
        query = ImageFeatures(level + torch.randn(batch, *shape), torch.randn(batch, backbone.embed_dim))
        prompts = level + torch.randn(batch, k_shot, *shape)
        embeddings, prototypes = (torch.randn(batch, rows, backbone.embed_dim) for rows in (k_shot, 2))
        return query, PromptContext(unit(prompts), embeddings, unit(prototypes))

    return draw
