# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Backbones by name: OpenCLIP's as they are called there, timm's with the prefix ``timm/``."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from torch import nn

from anomalib_inctrl.backbones.base import Backbone, ImagePreprocessing
from anomalib_inctrl.backbones.openclip import (
    HUB_PREFIX,
    OpenCLIPBackbone,
    check_openclip_model,
    openclip_preprocessing,
)
from anomalib_inctrl.backbones.timm_vit import PREFIX, TimmBackbone, timm_preprocessing
from anomalib_inctrl.errors import PretrainedWeightsError

if TYPE_CHECKING:
    from collections.abc import Sequence

_DEFAULTS = Path(__file__).with_name("defaults.yaml")


@dataclass(frozen=True)
class BackboneDefaults:
    """Defaults of a backbone, from ``defaults.yaml``; None is the general default.

    Attributes:
        name: Name of the backbone, with wildcards.
        source: Where the values come from.
        pretrained: Pretrained tag.
        blocks: Blocks whose patch tokens are used, counted from 1.
        image_size: Side of the square input in pixels.
    """

    name: str
    source: str
    pretrained: str | None = None
    blocks: tuple[int, ...] | None = None
    image_size: int | None = None


def backbone_defaults(name: str) -> BackboneDefaults:
    """Look up the defaults of a backbone.

    Args:
        name: Its name.

    Returns:
        The first entry of ``defaults.yaml`` whose name matches; general defaults if none does.
    """
    return next((entry for entry in _read_defaults() if fnmatch(name, entry.name)), BackboneDefaults(name, "general"))


@cache
def _read_defaults() -> tuple[BackboneDefaults, ...]:
    entries = yaml.safe_load(_DEFAULTS.read_text(encoding="utf-8"))
    return tuple(BackboneDefaults(**entry | {"blocks": tuple(entry.get("blocks") or ()) or None}) for entry in entries)


def resolve_pretrained(name: str, pretrained: str | bool | None) -> str | bool | None:
    """Replace ``True`` by the default weights of a backbone.

    Args:
        name: Name of the backbone.
        pretrained: Tag, path, ``None`` or ``False`` for random weights, or ``True``.

    Returns:
        Tag or path; ``None`` for random weights; ``True`` for timm's default.

    Raises:
        PretrainedWeightsError: If an OpenCLIP model has no default weights.
    """
    if pretrained is not True:
        return pretrained or None
    default = backbone_defaults(name).pretrained
    if default is None and not name.startswith((PREFIX, HUB_PREFIX)):
        check_openclip_model(name)
        msg = f"backbone={name!r} has no default weights: name a pretrained tag or a weights file with pretrained."
        raise PretrainedWeightsError(msg)
    return default or (True if name.startswith(PREFIX) else "hub")


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
    image_size = image_size or backbone_defaults(name).image_size
    if name.startswith(PREFIX):
        return timm_preprocessing(name, image_size)
    tag = resolve_pretrained(name, pretrained)
    return openclip_preprocessing(name, tag if isinstance(tag, str) else None, image_size)


def create_backbone(
    backbone: str | nn.Module,
    pretrained: bool | str | None = True,
    blocks: Sequence[int] | None = None,
    image_size: int | None = None,
) -> Backbone:
    """Create a backbone.

    Args:
        backbone: Name of an OpenCLIP vision transformer, ``timm/`` and the name of a timm one, or an OpenCLIP module.
        pretrained: Tag or path of its weights; ``True`` for the default ones, ``None`` for random ones.
        blocks: Blocks whose patch tokens are used, counted from 1; None for the backbone's default.
        image_size: Side of the square input in pixels; None for the backbone's default.

    Returns:
        The backbone.

    Raises:
        BackboneError: If there is no such backbone, or blocks or size do not fit it.
        PretrainedWeightsError: If the weights can neither be found nor downloaded.
        CheckpointError: If a weights file does not fit.
    """
    if isinstance(backbone, nn.Module):
        return OpenCLIPBackbone(backbone, None, blocks)
    defaults = backbone_defaults(backbone)
    blocks = defaults.blocks if blocks is None else blocks
    image_size = image_size or defaults.image_size
    weights = resolve_pretrained(backbone, pretrained)
    if backbone.startswith(PREFIX):
        return TimmBackbone(backbone, weights, blocks, image_size)
    return OpenCLIPBackbone(backbone, weights if isinstance(weights, str) else None, blocks, image_size)
