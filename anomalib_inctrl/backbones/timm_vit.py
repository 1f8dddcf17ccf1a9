# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""timm's vision transformers as backbones (DINOv2, DINOv3, DeiT, SigLIP's image encoder ...), without text."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
from torch import Tensor

from anomalib_inctrl.backbones.base import Backbone, load_strictly, not_downloaded, random_weights, unknown_model
from anomalib_inctrl.errors import CheckpointError, PretrainedWeightsError
from anomalib_inctrl.io.weights import read_state_dict

if TYPE_CHECKING:
    from collections.abc import Sequence

PREFIX = "timm/"


class TimmBackbone(Backbone):
    """A vision transformer of timm. It has no text encoder.

    Class, distillation and register tokens are dropped from the patch tokens. The class embedding is the model's pooled
    feature: its class token, or the mean or attention pooling that it was trained with.

    Arguments and errors are those of :func:`create_backbone`; by default ``image_size`` is the model's own.
    """

    has_text = False

    def __init__(
        self,
        name: str,
        pretrained: bool | str | None = True,
        blocks: Sequence[int] | None = None,
        image_size: int | None = None,
    ) -> None:
        network = _create_model(name, pretrained, image_size)
        tag, embed = pretrained if isinstance(pretrained, str) else None, network.patch_embed
        sizes = embed.img_size, embed.grid_size, embed.patch_size[0]
        layout = (len(network.blocks), *sizes, network.embed_dim, network.num_features)
        super().__init__(network, name, tag, blocks, image_size, layout)

    def _encode(self, images: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        indices = [number - 1 for number in self.blocks]
        final, patches = self.network.forward_intermediates(images, indices=indices, output_fmt="NLC")
        return patches, self.network.forward_head(final, pre_logits=True)


def timm_input(name: str) -> tuple[Sequence[int], tuple[float, ...], tuple[float, ...]]:
    """Size (rows, columns), mean and standard deviation of a model's input."""
    config = timm.get_pretrained_cfg(_checked_name(name)) or timm.models.PretrainedCfg()
    return config.input_size[1:], tuple(config.mean), tuple(config.std)


def _create_model(name: str, pretrained: str | bool | None, image_size: int | None) -> Any:
    model_name = _checked_name(name, None if isinstance(pretrained, bool) else pretrained)
    options: dict[str, Any] = {"num_classes": 0} | ({} if image_size is None else {"img_size": image_size})
    if not pretrained:
        with random_weights(name):
            return timm.create_model(model_name, pretrained=False, **options)
    if isinstance(pretrained, str) and Path(pretrained).is_file():
        network = timm.create_model(model_name, pretrained=False, **options)
        load_strictly(network, _converted(network, read_state_dict(pretrained), pretrained), pretrained)
        return network
    try:
        return timm.create_model(model_name, pretrained=True, **options)
    except Exception as error:
        config = timm.get_pretrained_cfg(model_name)
        page = f"https://huggingface.co/{config.hf_hub_id}" if config and config.hf_hub_id else "them from timm's page"
        raise not_downloaded(name, page, error) from error


def _converted(network: Any, state_dict: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Weights without their classifier, renamed and resampled by timm; timm's own loading accepts missing keys."""
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    try:
        state = convert(state_dict, network) if convert is not None else state_dict
    except (RuntimeError, KeyError, IndexError) as error:
        msg = f"{source}: does not fit {type(network).__name__} ({error}). Give the weights of this model."
        raise CheckpointError(msg) from error
    return {key: value for key, value in state.items() if not key.startswith(("head.", "head_dist.", "fc."))}


def _checked_name(name: str, pretrained: str | None = None) -> str:
    """Timm's name of the model, with the tag that ``pretrained`` names; refuses unknown models and tags."""
    architecture, _, tag = name.removeprefix(PREFIX).partition(".")
    if not timm.is_model(architecture) or not is_vision_transformer(architecture):
        reason = "is not a vision transformer" if timm.is_model(architecture) else "is not a model of timm"
        known = (PREFIX + known for known in timm.list_models() if is_vision_transformer(known))
        raise unknown_model(name, reason, known)
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
    if pretrained is not None and not Path(pretrained).is_file():
        tag = pretrained
    if tag and tag not in tags:
        msg = (
            f"backbone={name!r}, pretrained={pretrained!r}: {tag!r} is neither a file nor a pretrained tag of "
            f"{architecture}. Its tags: {', '.join(tags) or 'none'}."
        )
        raise PretrainedWeightsError(msg)
    return f"{architecture}.{tag}" if tag else architecture


def is_vision_transformer(architecture: str) -> bool:
    """Whether a timm architecture is a vision transformer without a convolutional network before or inside it."""
    plain = ("vit_", "deit_", "deit3_", "eva_", "eva02_", "eva_giant", "beit_", "beitv2_", "flexivit_", "test_vit")
    hybrid = ("vit_small_resnet", "vit_base_resnet", "vit_small_r26", "vit_base_r", "vit_large_r50", "vit_tiny_r")
    return architecture.startswith(plain) and not architecture.startswith(hybrid)
