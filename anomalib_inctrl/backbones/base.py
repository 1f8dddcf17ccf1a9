# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What every backbone is: a frozen vision transformer that gives patch tokens and a class embedding in one pass."""

from __future__ import annotations

import difflib
import hashlib
import logging
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_inctrl.errors import BackboneError, CheckpointError, PretrainedWeightsError
from anomalib_inctrl.io.weights import check_keys, tensors_sha256

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

logger = logging.getLogger(__name__)

Layout: TypeAlias = tuple[int, tuple[int, int], tuple[int, int], int, int, int]
"""Depth, height and width of the input, rows and columns of patches, patch_size, patch_width and embed_dim."""

_UNUSED = {"logit_scale", "logit_bias"}  # weights of OpenCLIP that no model here uses; files may lack them


@dataclass(frozen=True)
class ImageFeatures:
    """Features of a batch of images, from one pass of a backbone.

    Attributes:
        patches: Outputs of the selected blocks, class token dropped, neither normalised nor projected
            ``(B, L, P, D_v)``.
        embedding: Class embedding, not normalised ``(B, D)``.
    """

    patches: Tensor
    embedding: Tensor

    def rows(self, index: Tensor | Sequence[int] | slice) -> ImageFeatures:
        """Features of some of the images."""
        return ImageFeatures(self.patches[index], self.embedding[index])


@dataclass(frozen=True)
class ImagePreprocessing:
    """How images are prepared for a backbone.

    Images are resized with bicubic antialiased interpolation, as all supported models were trained.

    Attributes:
        image_size: Side of the square input in pixels.
        mean: Per-channel mean, RGB, on the [0, 1] scale.
        std: Per-channel standard deviation.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Backbone(nn.Module, ABC):
    """A frozen vision transformer, always in eval mode.

    Its weights never enter a state dict: a checkpoint stores a fingerprint instead, and loading one onto a backbone
    with other weights or other blocks is refused.

    Args:
        network: The library's model.
        name: The library's name of the model.
        pretrained: Tag or file of its weights; ``None`` for random weights.
        blocks: Blocks whose patch tokens are used, counted from 1; by default :func:`default_blocks`.
        image_size: Side of the square input that was asked for, if any.
        layout: What the network's image encoder is made of.

    Raises:
        BackboneError: If ``blocks`` names blocks that do not exist, the same one twice, or none, or patches do not fill
            the image size.

    Attributes:
        blocks: Blocks in use, ascending.
        image_size: Height and width of the input in pixels.
        grid: Rows and columns of patches.
        num_patches: Patches per image, ``P``.
        patch_size: Side of a patch in pixels.
        patch_width: Width ``D_v`` of the patch tokens.
        embed_dim: Width ``D`` of the class embedding.
        has_text: Whether there is a text encoder, whose embeddings share the space of the class embedding.
    """

    network: Any  # the libraries' modules have no type information
    has_text: bool

    def __init__(
        self,
        network: nn.Module,
        name: str,
        pretrained: str | None,
        blocks: Sequence[int] | None,
        image_size: int | None,
        layout: Layout,
    ) -> None:
        super().__init__()
        self.network = network.requires_grad_(requires_grad=False).eval()
        self.name, self.pretrained = name, pretrained
        depth, self.image_size, self.grid, self.patch_size, self.patch_width, self.embed_dim = layout
        self.blocks = default_blocks(depth) if blocks is None else tuple(sorted(blocks))
        if not self.blocks or len(set(self.blocks) & set(range(1, depth + 1))) != len(self.blocks):
            msg = f"blocks={list(self.blocks)}: name different blocks in 1..{depth}, the depth of {name}."
            raise BackboneError(msg)
        if image_size is not None and image_size % self.patch_size:
            below = max(image_size // self.patch_size, 1) * self.patch_size
            msg = (
                f"image_size={image_size}: {name} has patches of {self.patch_size} pixels. Give a multiple, such as "
                f"{below} or {below + self.patch_size}."
            )
            raise BackboneError(msg)
        if image_size is not None and self.image_size != (image_size, image_size):  # OpenCLIP 2.23 with timm's models
            msg = f"image_size={image_size}: the installed OpenCLIP keeps {name} at {self.image_size}. Upgrade it."
            raise BackboneError(msg)
        self.num_patches = self.grid[0] * self.grid[1]
        self._fingerprint: str | None = None
        self.register_state_dict_post_hook(_drop_network)  # type: ignore[no-untyped-call]

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.network.parameters()).device  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> Backbone:
        """Stay in eval mode, whatever is asked for."""
        del mode
        return super().train(mode=False)

    def check_images(self, images: Tensor) -> None:
        """Refuse images that are not ``(B, 3, H, W)`` of the backbone's size, with a :class:`BackboneError`."""
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, *self.image_size):
            msg = (
                f"images: expected (B, 3, {self.image_size[0]}, {self.image_size[1]}) for {self.name}, "
                f"found {tuple(images.shape)}. Preprocess them first (BackbonePreProcessor)."
            )
            raise BackboneError(msg)

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> ImageFeatures:
        """Encode images in one pass of the network.

        Args:
            images: Preprocessed images ``(B, 3, H, W)`` of the backbone's size.

        Returns:
            Features of all ``B`` images. In memory the patch tokens lie block by block, ``(L, B, P, D_v)``, as they are
            read afterwards.

        Raises:
            BackboneError: If the images do not have three channels and the backbone's size.
        """
        self.check_images(images)
        patches, embedding = self._encode(images)
        return ImageFeatures(torch.stack(list(patches)).transpose(0, 1), embedding)

    @abstractmethod
    def _encode(self, images: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        """Patch tokens ``(B, P, D_v)`` of each block in use, and class embeddings ``(B, D)``."""

    def text_prototypes(self, class_name: str) -> Tensor:
        """Encode the text prompts of a class name.

        Args:
            class_name: Name of the object in the image; underscores read as spaces.

        Returns:
            Unit-length prototypes ``(2, D)``: row 0 normal, row 1 abnormal; ``(0, D)`` without a text encoder.
        """
        if not self.has_text:
            return torch.empty(0, self.embed_dim, device=self.device)
        with torch.inference_mode(mode=False), torch.no_grad():  # training takes no inference tensors
            means = torch.stack([states.mean(dim=0) for states in self.text_states(class_name)])
            return F.normalize(means, dim=-1)

    def text_states(self, class_name: str) -> tuple[Tensor, Tensor]:
        """Encode the text prompts of a class name, state by state (``"flawless {}"``); needs a text encoder.

        Args:
            class_name: See :meth:`text_prototypes`.

        Returns:
            For the normal and the abnormal states the mean of each state's unit-length sentences ``(S, D)``.
        """
        raise NotImplementedError

    def unknown_words(self, class_name: str) -> list[str] | None:
        """Words of a class name that the text encoder cannot distinguish from other words.

        Args:
            class_name: See :meth:`text_prototypes`.

        Returns:
            The words; None where that cannot be found out.
        """
        del class_name
        return None

    def load_weights(self, state_dict: Mapping[str, Tensor], source: str) -> None:
        """Replace the weights.

        Args:
            state_dict: Tensors under the library's names.
            source: Where they come from, for messages.

        Raises:
            CheckpointError: If they do not fit; nothing is loaded then.
        """
        load_strictly(self.network, state_dict, source)
        self._fingerprint = None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all weights that are used and of what they do not show: activations and numbers of heads."""
        if self._fingerprint is None:
            modules = list(self.network.modules())
            facts = [sorted({type(module).__name__ for module in modules if "LU" in type(module).__name__})]
            facts += [[module.num_heads for module in modules if hasattr(module, "num_heads")]]
            weights = {key: value for key, value in self.network.state_dict().items() if key not in _UNUSED}
            self._fingerprint = hashlib.sha256(f"{facts} {tensors_sha256(weights)}".encode()).hexdigest()
        return self._fingerprint

    def get_extra_state(self) -> dict[str, Any]:
        """Name, blocks and fingerprint of the backbone, kept in checkpoints in place of its weights."""
        return {
            "backbone": self.name,
            "pretrained": self.pretrained,
            "blocks": list(self.blocks),
            "fingerprint": self.fingerprint,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Check the :meth:`get_extra_state` of a checkpoint.

        Raises:
            CheckpointError: If its blocks or weights differ.
        """
        own = self.get_extra_state()
        for key in ("blocks", "fingerprint"):
            if state.get(key) != own[key]:
                msg = (
                    f"The checkpoint was made with backbone {state.get('backbone')!r} (pretrained "
                    f"{state.get('pretrained')!r}, {key} {state.get(key)}), this model has {self.name!r} "
                    f"(pretrained {self.pretrained!r}, {key} {own[key]}). Build the model with the checkpoint's "
                    "backbone and weights."
                )
                raise CheckpointError(msg)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # The network's weights are not in state dicts, so a strict load is given the ones already in place.
        for key, value in self.network.state_dict().items():
            state_dict.setdefault(f"{prefix}network.{key}", value)
        super()._load_from_state_dict(state_dict, prefix, *args)


def default_blocks(depth: int) -> tuple[int, ...]:
    """Blocks used by default: 7/12, 9/12 and 11/12 of the depth, counted from 1 (7, 9 and 11 of 12)."""
    return tuple(sorted({max(1, round(depth * part / 12)) for part in (7, 9, 11)}))


def _drop_network(module: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any]) -> None:
    del module, local_metadata
    for key in [key for key in state_dict if key.startswith(f"{prefix}network.")]:
        del state_dict[key]


def load_strictly(network: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Load weights of which only those that are not used may be missing."""
    expected = {key: value for key, value in network.state_dict().items() if key in state_dict or key not in _UNUSED}
    check_keys(state_dict, expected, source)
    network.load_state_dict(state_dict, strict=False)


@contextmanager
def random_weights(name: str) -> Iterator[None]:
    """Let a model be created with the same random weights each time, and warn of them."""
    logger.warning("Backbone %s has random weights (pretrained=None): its scores mean nothing.", name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def unknown_model(name: str, reason: str, known: Iterable[str]) -> BackboneError:
    """The error for a name that is not accepted, with the names nearest to it."""
    near = difflib.get_close_matches(name, list(known), n=8, cutoff=0.4)
    return BackboneError(
        f"backbone={name!r} {reason}. Near names: {', '.join(near) or 'none'}. Vision transformers of OpenCLIP are "
        "accepted, and those of timm as timm/NAME."
    )


def not_downloaded(name: str, source: str, error: Exception) -> PretrainedWeightsError:
    """The error for weights that could not be downloaded, with what to do without a connection."""
    return PretrainedWeightsError(
        f"The weights of {name} could not be downloaded ({type(error).__name__}: {error}). Without a connection, fetch "
        f"{source} elsewhere and pass the file: pretrained=/path/to/model.safetensors (--model.pretrained on the "
        "command line)."
    )
