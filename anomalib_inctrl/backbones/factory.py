# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Backbones by name: OpenCLIP's as they are called there, timm's with the prefix ``timm/``."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import TYPE_CHECKING

from torch import nn

from anomalib_inctrl.backbones.base import Backbone, ImagePreprocessing
from anomalib_inctrl.backbones.openclip import HUB_PREFIX, OpenCLIPBackbone, openclip_config, openclip_input
from anomalib_inctrl.backbones.packaged import DEMO_BACKBONE, DEMO_PRETRAINED
from anomalib_inctrl.backbones.timm_vit import PREFIX, TimmBackbone, timm_input
from anomalib_inctrl.errors import BackboneError, PretrainedWeightsError

if TYPE_CHECKING:
    from collections.abc import Sequence

# Defaults by name, which may hold wildcards.
_PRETRAINED = {"ViT-B-16-plus-240": "laion400m_e32", DEMO_BACKBONE: DEMO_PRETRAINED}  # the authors' InCTRL code; ours
_IMAGE_SIZES = {
    "timm/vit_*_patch14_*dinov2*": 448,  # AnomalyDINO (Damm et al., WACV 2025)
    "timm/vit_*_patch16_dinov3*": 448,  # ours, the size of DINOv2; not measured
}


def _image_size(name: str) -> int | None:
    return next((size for pattern, size in _IMAGE_SIZES.items() if fnmatch(name, pattern)), None)


def resolve_pretrained(name: str, pretrained: str | bool | None) -> str | bool | None:
    """Replace ``True`` by the default weights of a backbone; ``None`` is for random ones, ``True`` for timm's default.

    A :class:`PretrainedWeightsError` is raised if an OpenCLIP model has no default weights.
    """
    if pretrained is not True:
        return pretrained or None
    if name.startswith((PREFIX, HUB_PREFIX)):
        return True if name.startswith(PREFIX) else "hub"
    if name not in _PRETRAINED:
        openclip_config(name)
        msg = f"backbone={name!r} has no default weights: name a pretrained tag or a weights file with pretrained."
        raise PretrainedWeightsError(msg)
    return _PRETRAINED[name]


def backbone_preprocessing(name: str, pretrained: str | bool | None, image_size: int | None) -> ImagePreprocessing:
    """Look up a backbone's preprocessing without building it.

    Args:
        name: Name of the backbone.
        pretrained: See :func:`resolve_pretrained`.
        image_size: Side of the square input in pixels; None for the backbone's default.

    Returns:
        Input size, mean and standard deviation.

    Raises:
        BackboneError: If there is no such backbone or its input is not square.
    """
    image_size = image_size or _image_size(name)
    tag = resolve_pretrained(name, pretrained)
    (height, width), mean, std = (
        timm_input(name) if name.startswith(PREFIX) else openclip_input(name, tag if isinstance(tag, str) else None)
    )
    if height != width and image_size is None:
        msg = f"backbone={name!r} takes images of {height} x {width}; only square inputs are supported."
        raise BackboneError(msg)
    return ImagePreprocessing(image_size or height, mean, std)


def create_backbone(
    backbone: str | nn.Module,
    pretrained: bool | str | None = True,
    blocks: Sequence[int] | None = None,
    image_size: int | None = None,
) -> Backbone:
    """Create a backbone.

    Args:
        backbone: Name of an OpenCLIP vision transformer (``ViT-B-16-plus-240``, ``hf-hub:ORGANISATION/MODEL``);
            ``timm/`` and timm's name of one, with or without a pretrained tag
            (``timm/vit_small_patch14_dinov2.lvd142m``); or an OpenCLIP module.
        pretrained: The library's pretrained tag or path of a weights file (``.pt``, ``.pth``, ``.safetensors``);
            ``True`` for the default weights, timm's those of the tag in the name; ``None`` for random ones from a fixed
            seed. Unused if ``backbone`` is a module.
        blocks: Blocks whose patch tokens are used, counted from 1; by default 7/12, 9/12 and 11/12 of the depth.
        image_size: Side of the square input in pixels, a multiple of the patch size, to which the library resamples
            position embeddings; None for the backbone's default.

    Returns:
        The backbone.

    Raises:
        BackboneError: If the model is unknown, has no vision transformer, lacks one of the blocks, or cannot take the
            image size.
        PretrainedWeightsError: If the weights can neither be found nor downloaded.
        CheckpointError: If a weights file does not fit the model.
    """
    if isinstance(backbone, nn.Module):
        return OpenCLIPBackbone(backbone, None, blocks)
    image_size = image_size or _image_size(backbone)
    weights = resolve_pretrained(backbone, pretrained)
    if backbone.startswith(PREFIX):
        return TimmBackbone(backbone, weights, blocks, image_size)
    return OpenCLIPBackbone(backbone, weights if isinstance(weights, str) else None, blocks, image_size)
