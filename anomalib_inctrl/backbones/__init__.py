# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Frozen vision transformers: images to patch tokens and a class embedding, class names to text prototypes."""

from anomalib_inctrl.backbones.base import Backbone, ImageFeatures, ImagePreprocessing, default_blocks
from anomalib_inctrl.backbones.factory import backbone_preprocessing, create_backbone, resolve_pretrained
from anomalib_inctrl.backbones.openclip import OpenCLIPBackbone
from anomalib_inctrl.backbones.timm_vit import TimmBackbone

__all__ = [
    "Backbone",
    "ImageFeatures",
    "ImagePreprocessing",
    "OpenCLIPBackbone",
    "TimmBackbone",
    "backbone_preprocessing",
    "create_backbone",
    "default_blocks",
    "resolve_pretrained",
]
