# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Prompts encoded at several offsets within a patch.

A vision transformer cuts images along a fixed grid, and a patch token depends on where the cut lies. An object that
lies some pixels further than in the prompts is cut differently, and differs from them without being abnormal. *Ours.*
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from anomalib_inctrl.backbones import Backbone, ImageFeatures
from anomalib_inctrl.errors import PromptError

_ENCODE_BATCH = 32


def shift_images(images: Tensor, shifts: int, patch_size: int) -> Tensor:
    """Move images by fractions of a patch along both axes, with reflected borders.

    Args:
        images: ``(K, 3, H, W)``.
        shifts: Offsets along each axis, ``S``; they lie evenly within one patch.
        patch_size: Side of a patch in pixels.

    Returns:
        ``(K, S * S, 3, H, W)``; the first of each is the unchanged image.
    """
    if shifts == 1:
        return images.unsqueeze(1)
    height, width = images.shape[-2:]
    steps = [index * patch_size // shifts for index in range(shifts)]
    # In both directions, so that no more than half a patch is lost.
    offsets = [step - patch_size if 2 * step > patch_size else step for step in steps]
    padded = F.pad(images, (patch_size,) * 4, mode="reflect")
    moved = [
        padded[..., patch_size + y : patch_size + y + height, patch_size + x : patch_size + x + width]
        for y in offsets
        for x in offsets
    ]
    return torch.stack(moved, dim=1)


def encode_prompts(backbone: Backbone, images: Tensor, shifts: int, batch_size: int = _ENCODE_BATCH) -> ImageFeatures:
    """Encode prompts, each at several offsets.

    Args:
        backbone: The backbone.
        images: Preprocessed prompts ``(K, 3, H, W)``; K may be 0.
        shifts: Offsets along each axis, ``S``.
        batch_size: Images encoded at a time.

    Returns:
        Patch tokens ``(K * S * S, L, P, D_v)``, those of a prompt one after the other, and class embeddings ``(K, D)``
        of the unchanged prompts.

    Raises:
        PromptError: If there are more offsets than pixels in a patch.
        BackboneError: If the images do not have the backbone's size.
    """
    backbone.check_images(images)
    patch_size = backbone.patch_size
    if shifts > patch_size:
        msg = f"prompt_shifts={shifts}: a patch of {backbone.name} has {patch_size} pixels a side. Give fewer."
        raise PromptError(msg)
    device = backbone.device
    if not len(images):
        return ImageFeatures(
            torch.empty(0, len(backbone.blocks), backbone.num_patches, backbone.patch_width, device=device),
            torch.empty(0, backbone.embed_dim, device=device),
        )
    prompts = max(1, batch_size // shifts**2)
    moved = [shift_images(part.to(device), shifts, patch_size).flatten(0, 1) for part in images.split(prompts)]
    parts = [backbone.encode_image(batch) for some in moved for batch in some.split(batch_size)]
    embedding = torch.cat([part.embedding for part in parts])
    return ImageFeatures(torch.cat([part.patches for part in parts]), embedding[:: shifts**2])
