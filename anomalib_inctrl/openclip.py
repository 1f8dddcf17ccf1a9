# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""OpenCLIP's models by their names, and their weights by tag or file."""

from __future__ import annotations

import logging
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from anomalib_inctrl.errors import BackboneError, CheckpointError, PretrainedWeightsError
from anomalib_inctrl.weights import check_keys, read_state_dict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

logger = logging.getLogger(__name__)

UNUSED = ("logit_scale", "logit_bias")
"""Weights of OpenCLIP that no model here uses; files may lack them."""

_RANDOM_WEIGHTS_SEED = 0


@cache
def import_open_clip() -> Any:
    """Import OpenCLIP, which takes seconds, when first needed, and tell it the package's own model configs."""
    import open_clip

    open_clip.add_model_config(Path(__file__).parent / "demo" / "model_configs")
    return open_clip


def model_config(name: str) -> dict[str, Any]:
    """Look up a model's settings.

    Args:
        name: OpenCLIP model name.

    Returns:
        Its settings, as in OpenCLIP's JSON files.

    Raises:
        BackboneError: If OpenCLIP has no model of that name.
    """
    open_clip = import_open_clip()
    if (config := open_clip.get_model_config(name)) is None:
        known = ", ".join(model for model in open_clip.list_models() if model.startswith("ViT-"))
        msg = f"backbone={name!r}: OpenCLIP has no model of that name. Vision transformers it has: {known}."
        raise BackboneError(msg)
    return dict(config)


@cache
def tokenizer(name: str, context_length: int) -> Any:
    """The tokenizer of an OpenCLIP model; the common byte-pair one for a module that has no registered name."""
    open_clip = import_open_clip()
    known = open_clip.get_model_config(name) is not None
    return open_clip.get_tokenizer(name) if known else open_clip.SimpleTokenizer(context_length=context_length)


def weights_file(name: str, pretrained: str) -> Path | None:
    """Find the file that weights lie in.

    Args:
        name: OpenCLIP model name.
        pretrained: Path of a file, or a tag.

    Returns:
        The file itself or that of the package's tag; ``None`` for other tags, which are OpenCLIP's.
    """
    # Inside, since the demo room's own imports lead back here.
    from anomalib_inctrl.demo.mini_clip import packaged_weights

    return Path(pretrained) if Path(pretrained).is_file() else packaged_weights(name, pretrained)


def create_clip(name: str, pretrained: str | None) -> Any:
    """Create an OpenCLIP model with its weights.

    Args:
        name: OpenCLIP model name.
        pretrained: Path of a weights file, pretrained tag, or ``None`` for random weights from a fixed seed.

    Returns:
        The OpenCLIP module on the CPU in float32.

    Raises:
        BackboneError: If OpenCLIP has no model of that name.
        PretrainedWeightsError: If the weights can neither be found nor downloaded.
        CheckpointError: If a weights file does not fit the model.
    """
    from anomalib_inctrl.demo.mini_clip import packaged_tags

    model_config(name)
    if pretrained is None:
        logger.warning(
            "Backbone %s has random weights (pretrained=None): it shows the mechanics, not the method.", name
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_RANDOM_WEIGHTS_SEED)
            return create_without_weights(name)
    if file := weights_file(name, pretrained):
        return _create_from_file(name, file)
    open_clip = import_open_clip()
    if config := open_clip.pretrained.get_pretrained_cfg(name, pretrained):
        return _create_from_tag(name, pretrained, config)
    tags = ", ".join([*open_clip.list_pretrained_tags_by_model(name), *packaged_tags(name)]) or "none"
    msg = (
        f"pretrained={pretrained!r}: neither a file nor a pretrained tag of {name}. Its tags: {tags}. "
        "Give one of them or the path of a weights file."
    )
    raise PretrainedWeightsError(msg)


def create_without_weights(name: str) -> Any:
    """Create an OpenCLIP model with random weights, to be replaced at once; OpenCLIP 3 would warn of them."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        return import_open_clip().create_model(name)
    finally:
        logging.disable(disabled)


def _create_from_file(name: str, path: str | Path) -> Any:
    from anomalib_inctrl.demo.mini_clip import is_condensed, read_weights

    clip = create_without_weights(name)
    state_dict = read_state_dict(path)
    if is_condensed(state_dict):
        state_dict = read_weights(path, clip.vocab_size)
    load_clip_weights(clip, state_dict, str(path))
    return clip


def _create_from_tag(name: str, tag: str, config: Mapping[str, Any]) -> Any:
    open_clip = import_open_clip()
    from open_clip.pretrained import download_pretrained_from_url

    url = config.get("url", "")
    try:
        if url and "openaipublic" not in url:
            # The URL's file name carries a checksum that is verified; for laion400m_e32 of ViT-B-16-plus-240 the hub
            # entry of OpenCLIP 3.3 names other weights (e31), so the hub is not asked where a URL is known.
            _warn_of_another_activation(name, tag, quick=config.get("quick_gelu", "quickgelu" in url))
            return _create_from_file(name, download_pretrained_from_url(url))
        return open_clip.create_model(name, pretrained=tag)
    except CheckpointError:
        raise
    except Exception as error:
        cache = Path(os.environ.get("HF_HUB_CACHE", "~/.cache/huggingface/hub")).expanduser()
        msg = (
            f"The weights {tag!r} of {name} could not be downloaded ({type(error).__name__}: {error}). "
            f"Cache folders: {Path('~/.cache/clip').expanduser()} and {cache}. "
            f"Without a connection, fetch {url or config.get('hf_hub')} elsewhere and pass the file: "
            f"pretrained=/path/to/weights.pt (--model.pretrained on the command line)."
        )
        raise PretrainedWeightsError(msg) from error


def _warn_of_another_activation(name: str, tag: str, *, quick: bool) -> None:
    """Say what fitting shapes do not tell; OpenCLIP says so only from release 3 on, and only where it loads itself."""
    if quick and not model_config(name).get("quick_gelu"):
        logger.warning(
            "The weights %r were trained with QuickGELU, which %s does not compute, so their features are off: choose "
            "backbone=%r.",
            tag,
            name,
            f"{name}-quickgelu",
        )


def load_clip_weights(clip: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Load OpenCLIP weights strictly; only the logit scale, which no model here uses, may be missing.

    Args:
        clip: The OpenCLIP module to fill.
        state_dict: Tensors under OpenCLIP's names; a common ``module.`` prefix is removed.
        source: Where the weights come from, for messages.

    Raises:
        CheckpointError: If keys are missing, unexpected, or of another shape; nothing is loaded then.
    """
    state_dict = {key.removeprefix("module."): value for key, value in state_dict.items()}
    expected = {key: value for key, value in clip.state_dict().items() if key in state_dict or key not in UNUSED}
    check_keys(state_dict, expected, source)
    clip.load_state_dict(state_dict, strict=False)
