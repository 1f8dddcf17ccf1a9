# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""OpenCLIP's vision transformers as backbones, with their text encoders; models by name, weights by tag or file."""

from __future__ import annotations

import copy
import hashlib
import logging
import os
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import open_clip
import torch
from open_clip.model import resize_pos_embed
from platformdirs import user_cache_path
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from anomalib_inctrl.backbones.base import (
    Backbone,
    Layout,
    load_strictly,
    not_downloaded,
    random_weights,
    unknown_model,
)
from anomalib_inctrl.backbones.packaged import DEMO_BACKBONE, DEMO_PRETRAINED, expand_vocabulary, packaged_weights
from anomalib_inctrl.backbones.text_prompts import spoken_name, state_prompts
from anomalib_inctrl.backbones.timm_vit import is_vision_transformer
from anomalib_inctrl.errors import BackboneError, PretrainedWeightsError
from anomalib_inctrl.io.tensor_file import read_tensors, write_tensors
from anomalib_inctrl.io.weights import read_state_dict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

logger = logging.getLogger(__name__)
open_clip.add_model_config(Path(__file__).parent / "model_configs")

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

HUB_PREFIX = "hf-hub:"
_TRUNK_POSITIONS = "visual.trunk.pos_embed"


class OpenCLIPBackbone(Backbone):
    """An OpenCLIP model with a vision transformer as image encoder, its own or timm's, and a text encoder.

    Arguments and errors are those of :func:`create_backbone`; ``pretrained`` cannot be ``True``, and by default
    ``image_size`` is the model's own.
    """

    has_text = True

    def __init__(
        self,
        backbone: str | nn.Module = "ViT-B-16-plus-240",
        pretrained: str | None = "laion400m_e32",
        blocks: Sequence[int] | None = None,
        image_size: int | None = None,
    ) -> None:
        if isinstance(backbone, str):
            name, network = backbone, create_openclip_model(backbone, pretrained, image_size)
        else:
            name, network, pretrained = type(backbone).__name__, backbone, None
        super().__init__(network, name, pretrained, blocks, image_size, _layout(network, name))
        self._text_states: dict[str, tuple[Tensor, Tensor]] = {}

    def _encode(self, images: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        visual = self.network.visual
        indices = [number - 1 for number in self.blocks]
        if not hasattr(visual, "forward_intermediates"):
            return _encode_with_hooks(visual, indices, images)
        output = visual.forward_intermediates(images, indices=indices, output_fmt="NLC")
        return output["image_intermediates"], output["image_features"]

    def text_states(self, class_name: str) -> tuple[Tensor, Tensor]:
        """Encode the text prompts of a class name, state by state; each name is encoded once and kept.

        Each sentence embedding is normalised and the ensemble averaged (WinCLIP, section 4.1). States encoded with the
        same weights before are read from the folder that the environment variable ``ANOMALIB_INCTRL_CACHE`` names, by
        default the user's cache folder (``~/.cache/anomalib-inctrl`` on Linux); ``0``, ``off``, ``no`` or ``false``
        switches that off.

        Args:
            class_name: See :meth:`text_prototypes`.

        Returns:
            For the normal and the abnormal states the mean of each state's unit-length sentences ``(S, D)``.
        """
        device = self.device
        if class_name not in self._text_states:
            # Kept for later, possibly for training: must not be an inference tensor.
            with torch.inference_mode(mode=False), torch.no_grad(), torch.autocast(device.type, enabled=False):
                self._text_states[class_name] = self._find_states(class_name)
        normal, abnormal = self._text_states[class_name]
        return normal.to(device), abnormal.to(device)

    def _find_states(self, class_name: str) -> tuple[Tensor, Tensor]:
        normal, abnormal = state_prompts(class_name)
        counts = [len(normal), len(abnormal)]
        tokenize = _tokenizer(self.name, getattr(self.network, "context_length", 77))
        tokens = tokenize([sentence for state in normal + abnormal for sentence in state])
        facts = f"states {counts} {self.fingerprint} {next(self.network.parameters()).dtype} {tuple(tokens.shape)} "
        key = hashlib.sha256(facts.encode() + tokens.numpy().tobytes()).hexdigest()
        folder = os.environ.get("ANOMALIB_INCTRL_CACHE", "").strip() or user_cache_path("anomalib-inctrl")
        kept = str(folder).lower() not in {"0", "off", "no", "false"}
        path = Path(folder).expanduser() / "text" / f"{key}.safetensors"
        found = read_tensors(path, key) if kept else None
        if found is None:
            sentences = F.normalize(self._encode_tokens(tokens), dim=-1)
            found = {"states": sentences.unflatten(0, (sum(counts), -1)).mean(dim=1).cpu()}
            try:
                if kept:
                    write_tensors(path, key, found)
            except OSError as error:
                logger.info("Text prototypes are not kept: %s", error)
        first, second = found["states"].split(counts)
        return first, second

    def _encode_tokens(self, tokens: Tensor) -> Tensor:
        """Embeddings ``(N, D)`` of sentences, without their padding where it has no influence."""
        tower, tokens = _without_padding(self.network, tokens.to(self.device))
        parts = tqdm(tokens.split(64), desc="Encoding text prompts", unit="batch", leave=False, delay=2)
        return torch.cat([tower(part).float() for part in parts])

    def unknown_words(self, class_name: str) -> list[str] | None:
        """Words of a class name whose tokens the text encoder cannot distinguish from others; see the base class.

        A vocabulary that was cut down, like the demonstration encoder's, has one embedding for all tokens it lacks.
        Where all tokens have embeddings of their own, a word may still mean nothing to the encoder: that is not known.
        """
        embedding = getattr(getattr(self.network, "token_embedding", None), "weight", None)
        if embedding is None:
            return None
        # If most rows are equal, one of them has the median sum.
        lacking = (embedding == embedding[embedding.sum(dim=1).median(dim=0).indices]).all(dim=1).cpu()
        if 2 * lacking.sum() <= len(lacking):
            return None
        words = spoken_name(class_name).split()
        tokens = _tokenizer(self.name, self.network.context_length)(words)
        # Between the start and the end token, which is the largest.
        return [word for word, row in zip(words, tokens, strict=True) if lacking[row[1 : row.argmax()]].any()]

    def load_weights(self, state_dict: Mapping[str, Tensor], source: str) -> None:
        """Replace the weights, under OpenCLIP's names; see :meth:`Backbone.load_weights`."""
        super().load_weights(_resampled(self.network, state_dict), source)
        self._text_states.clear()


def _layout(network: Any, name: str) -> Layout:
    """What an image encoder, OpenCLIP's or timm's, is made of."""
    visual: Any = getattr(network, "visual", None)
    trunk: Any = getattr(visual, "trunk", None)
    try:
        if trunk is None:
            depth, size, grid = len(visual.transformer.resblocks), visual.image_size, visual.grid_size
            patch_size, width = visual.conv1.kernel_size[0], visual.conv1.out_channels
        else:
            depth, size, grid = len(trunk.blocks), trunk.patch_embed.img_size, trunk.patch_embed.grid_size
            patch_size, width = trunk.patch_embed.patch_size[0], trunk.embed_dim
        return depth, size, grid, patch_size, width, getattr(network, "text", visual).output_dim
    except AttributeError as error:
        msg = (
            f"backbone={name!r} has no vision transformer with a text encoder (its image encoder is "
            f"{type(trunk or visual).__name__}). Choose an OpenCLIP 'ViT-...' model."
        )
        raise BackboneError(msg) from error


def _without_padding(network: Any, tokens: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """A text encoder and the tokens ``(N, T)`` to give it, cut to the longest sentence where that changes nothing.

    In a causal encoder that reads a sentence at its end token, the largest one, what comes after it has no influence.
    """
    tower = getattr(network, "text", network)
    known = isinstance(tower, (open_clip.model.CLIP, open_clip.transformer.TextTransformer))
    pooling = getattr(tower, "pool_type", getattr(tower, "text_pool_type", None))
    if not known or pooling != "argmax" or tower.attn_mask is None or getattr(tower, "cls_emb", None) is not None:
        return network.encode_text, tokens
    length = int(tokens.argmax(dim=-1).max()) + 1
    # A second module on the same weights: the network itself may be in use by another thread.
    short = copy.copy(tower)
    short._parameters, short._buffers = dict(tower._parameters), dict(tower._buffers)
    short.positional_embedding = nn.Parameter(tower.positional_embedding[:length], requires_grad=False)
    short.attn_mask = tower.attn_mask[:length, :length]
    return getattr(short, "encode_text", short), tokens[:, :length]


def _encode_with_hooks(visual: Any, indices: Sequence[int], images: Tensor) -> tuple[Sequence[Tensor], Tensor]:
    """The same for OpenCLIP releases that lack ``forward_intermediates``, those that anomalib's WinCLIP works with."""
    outputs: list[Tensor] = []
    trunk = getattr(visual, "trunk", None)  # of timm
    blocks = visual.transformer.resblocks if trunk is None else trunk.blocks
    hooks = [blocks[index].register_forward_hook(lambda *call: outputs.append(call[-1])) for index in indices]
    try:
        embedding = visual(images)
    finally:
        for hook in hooks:
            hook.remove()
    # OpenCLIP up to 2.26 runs its own blocks on (token, batch, width), later releases on (batch, token, width).
    if trunk is None and not getattr(visual.transformer, "batch_first", False):
        outputs = [output.transpose(0, 1) for output in outputs]
    prefix_tokens = 1 if trunk is None else trunk.num_prefix_tokens
    return [output[:, prefix_tokens:] for output in outputs], embedding


def openclip_input(name: str, pretrained: str | None) -> tuple[Sequence[int], tuple[float, ...], tuple[float, ...]]:
    """Size (rows, columns), mean and standard deviation of a model's input."""
    size = openclip_config(name)["vision_cfg"].get("image_size", 224)
    tag = open_clip.pretrained.get_pretrained_cfg(name, pretrained) if pretrained else {}
    mean, std = (tuple(tag.get(key) or default) for key, default in (("mean", CLIP_MEAN), ("std", CLIP_STD)))
    return (size, size) if isinstance(size, int) else size, mean, std


def weights_file(name: str, pretrained: str) -> Path | None:
    """The file that a path or a packaged tag names; ``None`` for other tags, which are OpenCLIP's."""
    return Path(pretrained) if Path(pretrained).is_file() else packaged_weights(name, pretrained)


def create_openclip_model(name: str, pretrained: str | None, image_size: int | None = None) -> Any:
    """Create an OpenCLIP model with its weights, on the CPU in float32; see :class:`OpenCLIPBackbone`."""
    openclip_config(name)
    if pretrained is None:
        with random_weights(name):
            network = create_without_weights(name, image_size)
    else:
        network = _create_with_weights(name, pretrained, image_size)
    # On (batch, token, width), PyTorch's attention multiplies a transposed view by frozen weights image by image: in
    # bfloat16 on a CPU ten times slower, in float32 up to a tenth. The result is the same to rounding. Older releases
    # put tokens first by themselves; OpenCLIP's own attention knows the other order only.
    transformer = getattr(network.visual, "transformer", None)
    attention = [block.attn for block in getattr(transformer, "resblocks", [])]
    if transformer is not None and all(isinstance(module, nn.MultiheadAttention) for module in attention):
        for module in (transformer, *attention):
            module.batch_first = False
    return network


def _create_with_weights(name: str, pretrained: str, image_size: int | None) -> Any:
    file: str | Path | None = weights_file(name, pretrained)
    if file is None:
        config = open_clip.pretrained.get_pretrained_cfg(name, pretrained)
        if not config and not name.startswith(HUB_PREFIX):
            packaged = [DEMO_PRETRAINED] if name == DEMO_BACKBONE else []
            tags = ", ".join([*open_clip.list_pretrained_tags_by_model(name), *packaged]) or "none"
            msg = (
                f"pretrained={pretrained!r}: neither a file nor a pretrained tag of {name}. Its tags: {tags}. "
                "Give one of them or the path of a weights file."
            )
            raise PretrainedWeightsError(msg)
        url = config.get("url", "")
        try:
            # The URL's file name carries a checksum that is verified; for laion400m_e32 of ViT-B-16-plus-240 the hub
            # entry of OpenCLIP 3.3 names other weights (e31), so the hub is not asked where a URL is known. OpenAI's
            # files hold programs.
            if not url or "openaipublic" in url:
                return open_clip.create_model(name, pretrained=pretrained, force_image_size=image_size)
            file = open_clip.pretrained.download_pretrained_from_url(url)
        except Exception as error:
            source = url or config.get("hf_hub") or name.removeprefix(HUB_PREFIX)
            raise not_downloaded(name, f"{pretrained} ({source})", error) from error
        if config.get("quick_gelu", "quickgelu" in url) and not openclip_config(name).get("quick_gelu"):
            # Fitting shapes do not show it, and OpenCLIP warns only where it loads itself.
            text = "The weights %r were trained with QuickGELU, so features of %s are wrong: choose backbone=%r."
            logger.warning(text, pretrained, name, f"{name}-quickgelu")
    network = create_without_weights(name, image_size)
    state_dict = expand_vocabulary(read_state_dict(file), network.vocab_size, str(file))
    load_strictly(network, _resampled(network, state_dict), str(file))
    return network


def create_without_weights(name: str, image_size: int | None = None) -> Any:
    """Create an OpenCLIP model with random weights, to be replaced; OpenCLIP 3 would warn of them."""
    with _no_logging():
        return open_clip.create_model(name, force_image_size=image_size)


@contextmanager
def _no_logging() -> Iterator[None]:
    """Keep what OpenCLIP logs of each of its steps, as the root logger, from the console."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)


def _resampled(network: Any, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the model's names, position embeddings resampled to its grid where necessary."""
    state = {key.removeprefix("module."): value for key, value in state_dict.items()}
    resize_pos_embed(state, network)
    own, found = getattr(getattr(network.visual, "trunk", None), "pos_embed", None), state.get(_TRUNK_POSITIONS)
    if own is not None and found is not None and found.shape != own.shape:
        grid, prefix = network.visual.trunk.patch_embed.grid_size, network.visual.trunk.num_prefix_tokens
        state[_TRUNK_POSITIONS] = resample_abs_pos_embed(found, new_size=grid, num_prefix_tokens=prefix)
    return state


def openclip_config(name: str) -> dict[str, Any]:
    """The settings of a vision transformer as in OpenCLIP's JSON files; a :class:`BackboneError` if it is none."""
    try:
        config = open_clip.get_model_config(name)
    except Exception as error:  # a config on the Hub
        msg = f"The settings of {name} could not be downloaded ({type(error).__name__}: {error})."
        raise PretrainedWeightsError(msg) from error
    if config is None:
        raise unknown_model(name, "is not a model of OpenCLIP", open_clip.list_models())
    vision = config["vision_cfg"]
    timm_name = vision.get("timm_model_name")
    # ResNets list the blocks of each stage.
    if not (is_vision_transformer(timm_name) if timm_name else isinstance(vision.get("layers", 12), int)):
        raise unknown_model(name, "is not a vision transformer", open_clip.list_models())
    return dict(config)


@cache
def _tokenizer(name: str, context_length: int) -> Any:
    """The tokenizer of an OpenCLIP model; the common byte-pair one for a module that has no registered name."""
    if not name.startswith(HUB_PREFIX) and open_clip.get_model_config(name) is None:
        return open_clip.SimpleTokenizer(context_length=context_length)
    try:
        with _no_logging():
            return open_clip.get_tokenizer(name)
    except Exception as error:  # some models' tokenizers are downloaded, and need the package transformers
        msg = f"The tokenizer of {name} could not be loaded ({type(error).__name__}: {error})."
        raise PretrainedWeightsError(msg) from error
