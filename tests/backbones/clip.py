# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import open_clip
import torch

SMALL_TEXT = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}


def make_clip(seed=0, custom=False, text=SMALL_TEXT, **vision):
    """A small OpenCLIP module with four blocks and images of 48 pixels, that is 3 x 3 patches."""
    torch.manual_seed(seed)
    vision = {"image_size": 48, "layers": 4, "width": 32, "head_width": 8, "patch_size": 16} | vision
    cls = open_clip.model.CustomTextCLIP if custom else open_clip.model.CLIP
    return cls(embed_dim=16, vision_cfg=vision, text_cfg=text).eval()
