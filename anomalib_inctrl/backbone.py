# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The frozen OpenCLIP backbone: images to features, class names to text prototypes.

What knows about the insides of OpenCLIP's modules is here; its names, tags and files are
:mod:`anomalib_inctrl.openclip`'s. A new OpenCLIP release is met in these two places.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_inctrl.errors import BackboneError, CheckpointError
from anomalib_inctrl.openclip import UNUSED, create_clip, import_open_clip, load_clip_weights, model_config, tokenizer
from anomalib_inctrl.prompts.sentences import text_prompts
from anomalib_inctrl.prompts.text_cache import cache_folder, read_prototypes, write_prototypes
from anomalib_inctrl.weights import tensors_sha256

if TYPE_CHECKING:
    from collections.abc import Sequence

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ImageFeatures:
    """What one pass of the image tower gives.

    Attributes:
        patches: Residual-stream output of the selected blocks, class token dropped, neither normalised nor
            projected, ``(B, L, P, D_v)``.
        image: Class token after ``ln_post`` and projection, not normalised, ``(B, D)``.
    """

    patches: Tensor
    image: Tensor

    def rows(self, index: Tensor | Sequence[int] | slice) -> ImageFeatures:
        """Features of some of the images."""
        return ImageFeatures(self.patches[index], self.image[index])


class FrozenCLIP(nn.Module):
    """An OpenCLIP vision transformer with its text tower, frozen and always in eval mode.

    Its weights never enter a state dict: a checkpoint stores a fingerprint instead, and loading one onto a backbone
    with other weights or other blocks is refused.

    Args:
        backbone: Name of an OpenCLIP model, or a ready OpenCLIP ``CLIP`` module.
        pretrained: OpenCLIP pretrained tag or path of a weights file (``.pt``, ``.pth``, ``.safetensors``); ``None``
            for random weights from a fixed seed. Unused if ``backbone`` is a module.
        layers: Blocks whose patch tokens are used, counted from 1. Defaults to 7/12, 9/12 and 11/12 of the depth.

    Raises:
        BackboneError: If the model is unknown, is no plain vision transformer, or has fewer blocks than asked for.
        PretrainedWeightsError: If the weights can neither be found nor downloaded.
        CheckpointError: If a weights file does not fit the model.
    """

    clip: Any  # OpenCLIP's modules carry no types
    patch_size: int

    def __init__(
        self,
        backbone: str | nn.Module = "ViT-B-16-plus-240",
        pretrained: str | None = "laion400m_e32",
        layers: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(backbone, nn.Module):
            self.name, self.pretrained = type(backbone).__name__, None
            self.clip = backbone
        else:
            self.name, self.pretrained = backbone, pretrained
            self.clip = create_clip(backbone, pretrained)
        self.clip.requires_grad_(requires_grad=False).eval()

        visual = _plain_vision_transformer(self.clip, self.name)
        depth = len(visual.transformer.resblocks)
        self.layers = default_layers(depth) if layers is None else tuple(sorted(layers))
        if not self.layers or len(set(self.layers) & set(range(1, depth + 1))) != len(self.layers):
            msg = f"layers={list(self.layers)}: name blocks that differ, in 1..{depth}, the depth of {self.name}."
            raise BackboneError(msg)
        self.grid: tuple[int, int] = tuple(visual.grid_size)
        self.image_size: tuple[int, int] = tuple(visual.image_size)
        self.patch_width = int(visual.conv1.out_channels)
        self.patch_size = int(visual.conv1.kernel_size[0])
        self.embed_dim = int(visual.proj.shape[1])
        self._text_prototypes: dict[str, Tensor] = {}
        self._fingerprint: str | None = None
        self._text_key: str | None = None
        self.register_state_dict_post_hook(_leave_out_clip)  # type: ignore[no-untyped-call]

    @property
    def num_patches(self) -> int:
        """Patches per image, ``P``."""
        return self.grid[0] * self.grid[1]

    def train(self, mode: bool = True) -> FrozenCLIP:
        """Set the mode of this module but leave the backbone in eval mode."""
        super().train(mode)
        self.clip.eval()
        return self

    def check_images(self, images: Tensor) -> None:
        """Refuse pictures that the image tower cannot take.

        Args:
            images: Preprocessed images ``(B, 3, H, W)``.

        Raises:
            BackboneError: If they do not have three channels and the backbone's size.
        """
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, *self.image_size):
            msg = (
                f"images: expected (B, 3, {self.image_size[0]}, {self.image_size[1]}) for {self.name}, "
                f"found {tuple(images.shape)}. Preprocess them first (CLIPPreProcessor)."
            )
            raise BackboneError(msg)

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> ImageFeatures:
        """Run the image tower once.

        Unless its patch tokens are asked for, the last block is computed for the class token alone, with the others as
        keys and values.

        Args:
            images: Preprocessed images ``(B, 3, H, W)`` of the backbone's own size.

        Returns:
            Features of all ``B`` images. In memory the patch tokens lie block by block, ``(L, B, P, D_v)``, as they are
            read afterwards.

        Raises:
            BackboneError: If the images do not have three channels and the backbone's size.
        """
        self.check_images(images)
        visual = self.clip.visual
        x = visual.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1), x], dim=1)
        x = visual.ln_pre(x + visual.positional_embedding.to(x.dtype))
        # OpenCLIP up to 2.26 runs its blocks on (token, batch, width), later releases on (batch, token, width).
        batch_first = getattr(visual.transformer, "batch_first", False)
        x = x if batch_first else x.transpose(0, 1)
        taps: list[Tensor] = []
        *blocks, last = visual.transformer.resblocks
        for number, block in enumerate(blocks, start=1):
            x = block(x)
            if number in self.layers:
                taps.append(x[:, 1:] if batch_first else x[1:].transpose(0, 1))
        if len(blocks) + 1 in self.layers:
            x = last(x)
            taps.append(x[:, 1:] if batch_first else x[1:].transpose(0, 1))
            token = x[:, 0] if batch_first else x[0]
        else:
            token = _class_token_after(last, x, token_axis=1 if batch_first else 0)
        return ImageFeatures(torch.stack(taps).transpose(0, 1), visual.ln_post(token) @ visual.proj)

    def text_prototypes(self, class_name: str) -> Tensor:
        """Encode the text prompts of a class name; each name is encoded once and kept.

        Each sentence embedding is normalised, the ensemble averaged, the average normalised (WinCLIP, section 4.1).
        What has been encoded with the same weights before is read from the user's cache folder, see
        :func:`anomalib_inctrl.prompts.text_cache.cache_folder`.

        Args:
            class_name: Name of the thing in the picture; underscores read as spaces.

        Returns:
            Unit-length prototypes ``(2, D)``: row 0 normal, row 1 abnormal.
        """
        device = next(self.clip.parameters()).device
        if class_name not in self._text_prototypes:
            # Kept for later, possibly for training: must not be an inference tensor.
            with torch.inference_mode(mode=False), torch.no_grad(), torch.autocast(device.type, enabled=False):
                self._text_prototypes[class_name] = self._find_prototypes(class_name, device)
        return self._text_prototypes[class_name].to(device)

    def _find_prototypes(self, class_name: str, device: torch.device) -> Tensor:
        tokenize = tokenizer(self.name, self.clip.context_length)
        tokens = [tokenize(sentences) for sentences in text_prompts(class_name)]
        if cache_folder() is None:
            return self._encode_tokens(tokens, device)
        if self._text_key is None:
            state = self.clip.state_dict()
            text = {key: state[key] for key in state if not key.startswith("visual.") and key not in UNUSED}
            self._text_key = f"{self.architecture} {tensors_sha256(text)}"
        digest = hashlib.sha256(self._text_key.encode())
        for part in tokens:
            digest.update(f" {tuple(part.shape)} ".encode())
            digest.update(part.numpy().data)
        if (found := read_prototypes(digest.hexdigest())) is None:
            found = self._encode_tokens(tokens, device)
            write_prototypes(digest.hexdigest(), found)
        return found

    def _encode_tokens(self, tokens: Sequence[Tensor], device: torch.device) -> Tensor:
        """Prototypes ``(2, D)`` of the tokens of normal and of abnormal sentences."""
        rows = [F.normalize(self.clip.encode_text(part.to(device)).float(), dim=-1).mean(dim=0) for part in tokens]
        return F.normalize(torch.stack(rows), dim=-1).cpu()

    def load_weights(self, state_dict: dict[str, Tensor], source: str) -> None:
        """Replace the backbone's weights.

        Args:
            state_dict: Tensors under OpenCLIP's names.
            source: Where they come from, for messages.

        Raises:
            CheckpointError: If they do not fit.
        """
        load_clip_weights(self.clip, state_dict, source)
        self._text_prototypes.clear()
        self._fingerprint = self._text_key = None

    @property
    def fingerprint(self) -> str:
        """Hash of a sample of every weight, the same on every device."""
        if self._fingerprint is None:
            digest = hashlib.sha256()
            for key, value in sorted(self.clip.state_dict().items()):
                sample = value.flatten()[:: max(1, value.numel() // 64)].float().cpu().contiguous()
                digest.update(f"{key}{tuple(value.shape)}".encode())
                digest.update(sample.numpy().tobytes())
            self._fingerprint = digest.hexdigest()[:16]
        return self._fingerprint

    @property
    def sha256(self) -> str:
        """SHA-256 of all weights that matter, by name, shape and value; seconds of work for a large backbone."""
        state = self.clip.state_dict()
        return tensors_sha256({key: state[key] for key in state if key not in UNUSED})

    @property
    def architecture(self) -> str:
        """Hash of what the weights do not say: operations, numbers of heads, precision."""
        heads = [module.num_heads for module in self.clip.modules() if isinstance(module, nn.MultiheadAttention)]
        described = f"{self.clip!r} {heads} {next(self.clip.parameters()).dtype}"
        return hashlib.sha256(described.encode()).hexdigest()

    def get_extra_state(self) -> dict[str, Any]:
        """Name, blocks and fingerprint of the backbone, kept in checkpoints in place of its weights."""
        return {
            "backbone": self.name,
            "pretrained": self.pretrained,
            "layers": list(self.layers),
            "fingerprint": self.fingerprint,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Check that a checkpoint was made with this backbone.

        Args:
            state: What :meth:`get_extra_state` returned when the checkpoint was written.

        Raises:
            CheckpointError: If blocks or weights differ; also by the SHA-256 of all weights where the state has it.
        """
        own = self.get_extra_state() | ({"sha256": self.sha256} if "sha256" in state else {})
        for key in ("layers", "fingerprint", "sha256"):
            if key in own and state.get(key) != own[key]:
                msg = (
                    f"The checkpoint was made with backbone {state.get('backbone')!r} (pretrained "
                    f"{state.get('pretrained')!r}, {key} {state.get(key)}), this model has {self.name!r} "
                    f"(pretrained {self.pretrained!r}, {key} {own[key]}). Build the model with the checkpoint's "
                    "backbone and weights."
                )
                raise CheckpointError(msg)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # The backbone's weights are not in state dicts, so a strict load is given the ones already in place.
        for key, value in self.clip.state_dict().items():
            state_dict.setdefault(f"{prefix}clip.{key}", value)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _class_token_after(block: Any, x: Tensor, token_axis: int) -> Tensor:
    """The class token ``(B, D_v)`` after a transformer block, without the block's output for the other tokens."""
    from open_clip.transformer import ResidualAttentionBlock

    if type(block) is not ResidualAttentionBlock:  # some other order of operations
        return block(x).select(token_axis, 0)  # type: ignore[no-any-return]
    normed = block.ln_1(x)
    token = x.narrow(token_axis, 0, 1)
    # Five sixths of a block's work is in what is left out here: queries, output projection and MLP of the patches.
    token = token + block.ls_1(block.attention(normed.narrow(token_axis, 0, 1), normed, normed))
    token = token + block.ls_2(block.mlp(block.ln_2(token)))
    result: Tensor = token.squeeze(token_axis)
    return result


def default_layers(depth: int) -> tuple[int, ...]:
    """Blocks used by default: 7/12, 9/12 and 11/12 of the depth, counted from 1 (7, 9 and 11 of 12)."""
    return tuple(sorted({max(1, round(depth * part / 12)) for part in (7, 9, 11)}))


def _plain_vision_transformer(clip: nn.Module, name: str) -> Any:
    visual = getattr(clip, "visual", None)
    plain = (
        hasattr(visual, "conv1")
        and hasattr(visual, "class_embedding")
        and getattr(visual, "attn_pool", None) is None
        and getattr(visual, "pool_type", "tok") == "tok"
        and getattr(visual, "proj", None) is not None
        and hasattr(clip, "encode_text")
    )
    if not plain:
        msg = (
            f"backbone={name!r} has no plain vision transformer with a class token and a projection "
            f"(its image tower is {type(visual).__name__}). Choose an OpenCLIP 'ViT-...' model."
        )
        raise BackboneError(msg)
    return visual


def _leave_out_clip(module: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any]) -> None:
    del module, local_metadata
    for key in [key for key in state_dict if key.startswith(f"{prefix}clip.")]:
        del state_dict[key]


def preprocessing_of(name: str, pretrained: str | None) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    """Look up a backbone's preprocessing without building it.

    Args:
        name: OpenCLIP model name.
        pretrained: Pretrained tag or path.

    Returns:
        Side of the square input in pixels, per-channel mean and standard deviation.

    Raises:
        BackboneError: If OpenCLIP has no model of that name or its input is not square.
    """
    config = model_config(name)
    size = config["vision_cfg"]["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        msg = f"backbone={name!r} takes images of {height} x {width}; only square inputs are supported."
        raise BackboneError(msg)
    tag = import_open_clip().pretrained.get_pretrained_cfg(name, pretrained) if pretrained else {}
    return height, tuple(tag.get("mean") or CLIP_MEAN), tuple(tag.get("std") or CLIP_STD)
