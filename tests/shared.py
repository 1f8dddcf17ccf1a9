# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What tests of several folders share: a small backbone, a few demo categories, and a quiet engine's options.

Importing it makes the backbone known to the process.
"""

from pathlib import Path

import open_clip
import torch

from anomalib_inctrl import GeneralistDataModule
from anomalib_inctrl.data import DataSource

COUNTS = {"train_count": 6, "test_normal_count": 3, "test_anomalous_count": 6}
AUXILIARY, TARGETS = ["gear", "tile"], ["washer", "brick"]
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}

# Random weights, another size and depth than the default's, and fast enough for many runs of the engine.
BACKBONE = "test-vit-16-64"
open_clip.add_model_config(Path(__file__).with_name(f"{BACKBONE}.json"))
SMALL = {"backbone": BACKBONE, "pretrained": None}
# The packaged one; processes of their own know it too.
DEMO = {"backbone": "mini-clip-16-240", "pretrained": "demo"}


def generalist_data(data, auxiliary=AUXILIARY, targets=TARGETS, counts=COUNTS, **options):
    """Create a datamodule of several categories."""

    def source(categories):
        return [DataSource("InCTRLDemo", root=str(data), categories=categories, options=counts)]

    return GeneralistDataModule(
        auxiliary=source(auxiliary) if auxiliary else None,
        targets=source(targets) if targets else None,
        **{"k_shot": 2, "train_batch_size": 4, "steps_per_epoch": 2, "num_workers": 0} | options,
    )


def randomize_heads(module):
    """Give a model random heads, which count as trained."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.model.parameters():
        if parameter.requires_grad:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    module.model.heads_trained = True
    return module
