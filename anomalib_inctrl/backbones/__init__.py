# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Frozen vision transformers: images to patch tokens and a class embedding, class names to text prototypes."""

from anomalib_inctrl.backbones.base import Backbone, ImageFeatures, ImagePreprocessing, default_blocks
from anomalib_inctrl.backbones.openclip import OpenCLIPBackbone, openclip_preprocessing

__all__ = [
    "Backbone",
    "ImageFeatures",
    "ImagePreprocessing",
    "OpenCLIPBackbone",
    "default_blocks",
    "openclip_preprocessing",
]
