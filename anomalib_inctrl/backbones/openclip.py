# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""OpenCLIP's vision transformers as backbones, with their text encoders; models by name, weights by tag or file."""

from __future__ import annotations

import copy
import difflib
import hashlib
import logging
import os
from contextlib import contextmanager
from functools import cache, cached_property
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

from anomalib_inctrl.backbones.base import RANDOM_WEIGHTS_SEED, Backbone
from anomalib_inctrl.backbones.packaged import DEMO_BACKBONE, DEMO_PRETRAINED, expand_vocabulary, packaged_weights
from anomalib_inctrl.backbones.text_prompts import spoken_name, state_prompts
from anomalib_inctrl.backbones.timm_vit import is_vision_transformer
from anomalib_inctrl.errors import BackboneError, CheckpointError, PretrainedWeightsError
from anomalib_inctrl.io.tensor_file import read_tensors, write_tensors
from anomalib_inctrl.io.weights import check_keys, read_state_dict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

logger = logging.getLogger(__name__)
open_clip.add_model_config(Path(__file__).parent / "model_configs")

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

HUB_PREFIX = "hf-hub:"

UNUSED = ("logit_scale", "logit_bias")
"""Weights of OpenCLIP that no model here uses; files may lack them."""

_SENTENCES = 64  # encoded at once


class OpenCLIPBackbone(Backbone):
    """An OpenCLIP model with a vision transformer as image encoder, its own or timm's, and a text encoder.

    Args:
        backbone: Name of an OpenCLIP model (``ViT-B-16-plus-240``, ``hf-hub:ORGANISATION/MODEL``), or an OpenCLIP
            module.
        pretrained: OpenCLIP pretrained tag or path of a weights file (``.pt``, ``.pth``, ``.safetensors``); ``None``
            for random weights from a fixed seed. Unused if ``backbone`` is a module.
        blocks: Blocks whose patch tokens are used, counted from 1; by default 7/12, 9/12 and 11/12 of the depth.
        image_size: Side of the square input in pixels, a multiple of the patch size; position embeddings are resampled
            by the library. By default the model's own.

    Raises:
        BackboneError: If the model is unknown, has no vision transformer, lacks one of the blocks, or cannot take the
            image size.
        PretrainedWeightsError: If the weights can neither be found nor downloaded.
        CheckpointError: If a weights file does not fit the model.
    """

    has_text = True

    def __init__(
        self,
        backbone: str | nn.Module = "ViT-B-16-plus-240",
        pretrained: str | None = "laion400m_e32",
        blocks: Sequence[int] | None = None,
        image_size: int | None = None,
    ) -> None:
        if isinstance(backbone, nn.Module):
            name, network = type(backbone).__name__, backbone
            pretrained = None
        else:
            name, network = backbone, create_openclip_model(backbone, pretrained, image_size)
        visual: Any = getattr(network, "visual", None)
        trunk = getattr(visual, "trunk", None)
        depth = len(_transformer_blocks(network, visual, trunk, name))
        super().__init__(network, depth, name, pretrained, blocks)
        if trunk is None:
            sizes = visual.grid_size, visual.conv1.kernel_size[0], visual.conv1.out_channels
        else:
            sizes = trunk.patch_embed.grid_size, trunk.patch_embed.patch_size[0], trunk.embed_dim
        self._set_sizes(visual.image_size, *sizes, image_size)
        if getattr(visual, "proj", None) is not None:
            self.embed_dim = int(visual.proj.shape[1])
        else:
            with torch.no_grad():
                image = torch.zeros(1, 3, *self.image_size, device=self.device)
                self.embed_dim = int(self._encode(image)[1].shape[1])
        self._text_states: dict[str, tuple[Tensor, Tensor]] = {}

    def _encode(self, images: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        visual = self.network.visual
        indices = [number - 1 for number in self.blocks]
        if not hasattr(visual, "forward_intermediates"):
            return _encode_with_hooks(visual, indices, images)
        output = visual.forward_intermediates(images, indices=indices, output_fmt="NLC")
        return output["image_intermediates"], output["image_features"]

    def _used_weights(self) -> Mapping[str, Tensor]:
        return {key: value for key, value in self.network.state_dict().items() if key not in UNUSED}

    def text_states(self, class_name: str) -> tuple[Tensor, Tensor]:
        """Encode the text prompts of a class name, state by state; each name is encoded once and kept.

        Each sentence embedding is normalised and the ensemble averaged (WinCLIP, section 4.1). States encoded with the
        same weights before are read from the folder that the environment variable ``ANOMALIB_INCTRL_CACHE`` names, by
        default the user's cache folder (``~/.cache/anomalib-inctrl`` on Linux); ``0``, ``off``, ``no`` or ``false``
        switches that off.

        Args:
            class_name: Name of the object in the image; underscores read as spaces.

        Returns:
            For the normal and the abnormal states the mean of each state's unit-length sentences ``(S, D)``.
        """
        device = self.device
        if class_name not in self._text_states:
            # Kept for later, possibly for training: must not be an inference tensor.
            with torch.inference_mode(mode=False), torch.no_grad(), torch.autocast(device.type, enabled=False):
                self._text_states[class_name] = self._find_states(class_name, device)
        normal, abnormal = self._text_states[class_name]
        return normal.to(device), abnormal.to(device)

    def _find_states(self, class_name: str, device: torch.device) -> tuple[Tensor, Tensor]:
        tokenize = _tokenizer(self.name, getattr(self.network, "context_length", 77))
        states = state_prompts(class_name)
        tokens = tokenize([sentence for part in states for state in part for sentence in state])
        counts = [len(part) for part in states]
        facts = f"states {counts} {self.fingerprint} {next(self.network.parameters()).dtype} {tuple(tokens.shape)} "
        key = hashlib.sha256(facts.encode() + tokens.numpy().tobytes()).hexdigest()
        cache = _cache_folder()
        path = None if cache is None else cache / "text" / f"{key}.safetensors"
        found = None if path is None else read_tensors(path, key)
        if found is None:
            sentences = F.normalize(self._encode_tokens(tokens, device), dim=-1)
            found = {"states": sentences.view(sum(counts), -1, sentences.shape[-1]).mean(dim=1).cpu()}
            if path is not None:
                try:
                    write_tensors(path, key, found)
                except OSError as error:
                    logger.info("Text prototypes are not kept: %s", error)
        normal, abnormal = found["states"].split(counts)
        return normal, abnormal

    def _encode_tokens(self, tokens: Tensor, device: torch.device) -> Tensor:
        """Embeddings ``(N, D)`` of sentences, without their padding where it has no influence."""
        tower, tokens = _without_padding(self.network, tokens.to(device))
        parts = tqdm(tokens.split(_SENTENCES), desc="Encoding text prompts", unit="batch", leave=False, delay=2)
        return torch.cat([tower(part).float() for part in parts])

    def unknown_words(self, class_name: str) -> list[str] | None:
        """Words of a class name whose tokens the text encoder cannot distinguish from others; see the base class.

        A vocabulary that was cut down, like the demonstration encoder's, has one embedding for all tokens it lacks.
        Where all tokens have embeddings of their own, a word may still mean nothing to the encoder: that is not known.
        """
        lacking = self._tokens_of_one_embedding
        if lacking is None:
            return None
        tokenize = _tokenizer(self.name, self.network.context_length)
        words = spoken_name(class_name).split()
        tokens = {word: tokenize([word])[0] for word in words}
        # Between the start and the end token, which is the largest.
        return [word for word, row in tokens.items() if bool(lacking[row[1 : row.argmax()]].any())]

    @cached_property
    def _tokens_of_one_embedding(self) -> Tensor | None:
        """Which tokens ``(V,)`` share the embedding that most tokens have; None if no embedding has most of them."""
        embedding = getattr(getattr(self.network, "token_embedding", None), "weight", None)
        if embedding is None:
            return None
        # Equal rows have equal sums; that those of one sum are equal is checked.
        _, index, counts = embedding.sum(dim=1).unique(return_inverse=True, return_counts=True)
        lacking = index == counts.argmax()
        rows = embedding[lacking]
        return lacking.cpu() if 2 * len(rows) > len(embedding) and bool((rows == rows[0]).all()) else None

    def load_weights(self, state_dict: Mapping[str, Tensor], source: str) -> None:
        """Replace the weights, under OpenCLIP's names; see :meth:`Backbone.load_weights`."""
        _load_strictly(self.network, state_dict, source)
        self._text_states.clear()
        self.__dict__.pop("_tokens_of_one_embedding", None)
        self._fingerprint = None


def _cache_folder() -> Path | None:
    folder = os.environ.get("ANOMALIB_INCTRL_CACHE", "").strip()
    if folder.lower() in {"0", "off", "no", "false"}:
        return None
    return Path(folder).expanduser() if folder else user_cache_path("anomalib-inctrl")


def _without_padding(network: Any, tokens: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """A text encoder and the tokens ``(N, T)`` to give it, cut to the longest sentence where that changes nothing.

    In a causal encoder that reads a sentence at its end token, the largest one, what comes after it has no influence.
    """
    tower = getattr(network, "text", network)
    mask, positions = getattr(tower, "attn_mask", None), getattr(tower, "positional_embedding", None)
    plain = isinstance(network, open_clip.model.CLIP)
    if plain:
        pooling = getattr(tower, "text_pool_type", "argmax")
    else:
        pooling = getattr(tower, "pool_type", "") if isinstance(tower, open_clip.transformer.TextTransformer) else ""
    if pooling != "argmax" or mask is None or positions is None or getattr(tower, "cls_emb", None) is not None:
        return network.encode_text, tokens
    total = tokens.shape[1]
    if mask.shape != (total, total) or not bool(mask[torch.ones_like(mask).triu(1).bool()].isneginf().all()):
        return network.encode_text, tokens
    length = int(tokens.argmax(dim=-1).max()) + 1
    # A second module on the same weights: the network itself may be in use by another thread.
    short = copy.copy(tower)
    short._parameters, short._buffers = dict(tower._parameters), dict(tower._buffers)
    short.positional_embedding = nn.Parameter(positions[:length], requires_grad=False)
    short.attn_mask = mask[:length, :length]
    return short.encode_text if plain else short, tokens[:, :length]


def _encode_with_hooks(visual: Any, indices: Sequence[int], images: Tensor) -> tuple[Sequence[Tensor], Tensor]:
    """The same for OpenCLIP releases that lack ``forward_intermediates``, those that anomalib's WinCLIP works with."""
    outputs: list[Tensor] = []

    def keep(block: nn.Module, arguments: Any, output: Tensor) -> None:
        del block, arguments
        outputs.append(output)

    hooks = [visual.transformer.resblocks[index].register_forward_hook(keep) for index in indices]
    try:
        embedding = visual(images)
    finally:
        for hook in hooks:
            hook.remove()
    # OpenCLIP up to 2.26 runs its blocks on (token, batch, width), later releases on (batch, token, width).
    batch_first = getattr(visual.transformer, "batch_first", False)
    return [(output if batch_first else output.transpose(0, 1))[:, 1:] for output in outputs], embedding


def openclip_input(name: str, pretrained: str | None) -> tuple[Sequence[int], tuple[float, ...], tuple[float, ...]]:
    """Size (rows, columns), mean and standard deviation of a model's input."""
    size = _model_config(name)["vision_cfg"].get("image_size", 224)
    tag = open_clip.pretrained.get_pretrained_cfg(name, pretrained) if pretrained else {}
    mean, std = (tuple(tag.get(key) or default) for key, default in (("mean", CLIP_MEAN), ("std", CLIP_STD)))
    return (size, size) if isinstance(size, int) else size, mean, std


def weights_file(name: str, pretrained: str) -> Path | None:
    """The file that a path or a packaged tag names; ``None`` for other tags, which are OpenCLIP's."""
    return Path(pretrained) if Path(pretrained).is_file() else packaged_weights(name, pretrained)


def create_openclip_model(name: str, pretrained: str | None, image_size: int | None = None) -> Any:
    """Create an OpenCLIP model with its weights, on the CPU in float32; see :class:`OpenCLIPBackbone`."""
    check_openclip_model(name)
    network = _create_with_weights(name, pretrained, image_size)
    _put_tokens_first(getattr(network.visual, "transformer", None))
    return network


def _put_tokens_first(transformer: Any) -> None:
    """Let a transformer work on (token, batch, width).

    On (batch, token, width), PyTorch's attention multiplies a transposed view by frozen weights image by image: in
    bfloat16 on a CPU ten times slower, in float32 up to a tenth. The result is the same to rounding.
    """
    blocks = getattr(transformer, "resblocks", [])
    plain = all(isinstance(getattr(block, "attn", None), nn.MultiheadAttention) for block in blocks)
    # Older releases work so by themselves; OpenCLIP's own attention knows the other order only.
    if plain and getattr(transformer, "batch_first", False):
        transformer.batch_first = False
        for block in blocks:
            block.attn.batch_first = False


def _create_with_weights(name: str, pretrained: str | None, image_size: int | None) -> Any:
    if pretrained is None:
        logger.warning("Backbone %s has random weights (pretrained=None): its scores mean nothing.", name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_WEIGHTS_SEED)
            return create_without_weights(name, image_size)
    if file := weights_file(name, pretrained):
        return _create_from_file(name, file, image_size)
    config = open_clip.pretrained.get_pretrained_cfg(name, pretrained)
    if not config and name.startswith(HUB_PREFIX):
        config = {"hf_hub": name.removeprefix(HUB_PREFIX)}
    if config:
        return _create_from_tag(name, pretrained, config, image_size)
    packaged = [DEMO_PRETRAINED] if name == DEMO_BACKBONE else []
    tags = ", ".join([*open_clip.list_pretrained_tags_by_model(name), *packaged]) or "none"
    msg = (
        f"pretrained={pretrained!r}: neither a file nor a pretrained tag of {name}. Its tags: {tags}. "
        "Give one of them or the path of a weights file."
    )
    raise PretrainedWeightsError(msg)


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


def _model_config(name: str) -> dict[str, Any]:
    """The model's settings, as in OpenCLIP's JSON files."""
    try:
        config = open_clip.get_model_config(name)
    except Exception as error:  # a config on the Hub
        msg = f"The settings of {name} could not be downloaded ({type(error).__name__}: {error})."
        raise PretrainedWeightsError(msg) from error
    if config is None:
        raise _unsupported(name, "is not a model of OpenCLIP")
    return dict(config)


def check_openclip_model(name: str) -> None:
    """Refuse a model that OpenCLIP lacks or that is not a vision transformer, with a :class:`BackboneError`."""
    if not _is_vision_transformer(_model_config(name)):
        raise _unsupported(name, "is not a vision transformer")


def _is_vision_transformer(config: Mapping[str, Any]) -> bool:
    vision = config["vision_cfg"]
    if timm_name := vision.get("timm_model_name"):
        return is_vision_transformer(timm_name)
    return isinstance(vision.get("layers", 12), int)  # ResNets list the blocks of each stage


def _unsupported(name: str, reason: str) -> BackboneError:
    names = [known for known in open_clip.list_models() if _is_vision_transformer(open_clip.get_model_config(known))]
    near = difflib.get_close_matches(name.replace("/", "-"), names, n=5, cutoff=0.5)
    did_you_mean = f" Did you mean {', '.join(near)}?" if near else ""
    return BackboneError(
        f"backbone={name!r} {reason}.{did_you_mean} Vision transformers of OpenCLIP: {', '.join(names)}. "
        "Those of timm: timm/NAME."
    )


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


def _create_from_file(name: str, path: str | Path, image_size: int | None) -> Any:
    network = create_without_weights(name, image_size)
    state_dict = expand_vocabulary(read_state_dict(path), network.vocab_size, str(path))
    _load_strictly(network, state_dict, str(path))
    return network


def _create_from_tag(name: str, tag: str, config: Mapping[str, Any], image_size: int | None) -> Any:
    url = config.get("url", "")
    try:
        if url and "openaipublic" not in url:
            # The URL's file name carries a checksum that is verified; for laion400m_e32 of ViT-B-16-plus-240 the hub
            # entry of OpenCLIP 3.3 names other weights (e31), so the hub is not asked where a URL is known.
            if config.get("quick_gelu", "quickgelu" in url) and not _model_config(name).get("quick_gelu"):
                # Fitting shapes do not show it, and OpenCLIP warns only where it loads itself.
                text = "The weights %r were trained with QuickGELU, so features of %s are wrong: choose backbone=%r."
                logger.warning(text, tag, name, f"{name}-quickgelu")
            return _create_from_file(name, open_clip.pretrained.download_pretrained_from_url(url), image_size)
        return open_clip.create_model(name, pretrained=tag, force_image_size=image_size)
    except CheckpointError:
        raise
    except Exception as error:
        hub = Path(os.environ.get("HF_HUB_CACHE", "~/.cache/huggingface/hub")).expanduser()
        msg = (
            f"The weights {tag!r} of {name} could not be downloaded ({type(error).__name__}: {error}). "
            f"Cache folders: {Path('~/.cache/clip').expanduser()} and {hub}. "
            f"Without a connection, fetch {url or config.get('hf_hub')} elsewhere and pass the file: "
            f"pretrained=/path/to/weights.pt (--model.pretrained on the command line)."
        )
        raise PretrainedWeightsError(msg) from error


def _load_strictly(network: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Load weights; only the logit scale and bias may be missing. Position embeddings are resampled where necessary."""
    state = {key.removeprefix("module."): value for key, value in state_dict.items()}
    resize_pos_embed(state, network)
    expected = {key: value for key, value in network.state_dict().items() if key in state or key not in UNUSED}
    if (key := "visual.trunk.pos_embed") in state and key in expected and state[key].shape != expected[key].shape:
        trunk: Any = network.visual.trunk  # type: ignore[union-attr]
        grid, prefix = trunk.patch_embed.grid_size, trunk.num_prefix_tokens
        state[key] = resample_abs_pos_embed(state[key], new_size=grid, num_prefix_tokens=prefix)
    check_keys(state, expected, source)
    network.load_state_dict(state, strict=False)


def _transformer_blocks(network: nn.Module, visual: Any, trunk: Any, name: str) -> Sequence[nn.Module]:
    """The image encoder's blocks, OpenCLIP's or timm's."""
    if hasattr(network, "encode_text"):
        if hasattr(trunk, "blocks") and hasattr(trunk, "patch_embed"):
            return list(trunk.blocks)
        if hasattr(visual, "conv1") and hasattr(visual, "class_embedding"):
            return list(visual.transformer.resblocks)
    msg = (
        f"backbone={name!r} has no vision transformer with a text encoder (its image encoder is "
        f"{type(trunk or visual).__name__}). Choose an OpenCLIP 'ViT-...' model."
    )
    raise BackboneError(msg)
