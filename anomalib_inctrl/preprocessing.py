# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""CLIP's preprocessing as the authors do it, for anomalib's pipeline, checkpoints and exports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from anomalib.pre_processing import PreProcessor
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from anomalib_inctrl.backbone import CLIP_MEAN, CLIP_STD
from anomalib_inctrl.images import is_deep, read_image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning.pytorch import LightningModule, Trainer

ResizeMode = Literal["squash", "center_crop"]


class CLIPResize(v2.Resize):
    """Bicubic antialiased resize on 8-bit values, which is what CLIP was trained with.

    On floating-point values bicubic overshoots and differs from Pillow by up to 17 of 255 levels; on 8-bit values by at
    most 2. anomalib copies a model's first ``Resize`` into every dataset, so images of all sizes meet this one first,
    each on its own, before they are batched. Masks are resized to the nearest pixel and cropped alike.

    Args:
        size: Side of the square output in pixels.
        mode: ``"squash"`` keeps the whole image; ``"center_crop"`` scales the shorter side and cuts the rest off, which
            is the authors' protocol.
    """

    def __init__(self, size: int, mode: ResizeMode = "squash") -> None:
        # Resize wants the two sides to squash and the one to keep the aspect.
        super().__init__(
            [size, size] if mode == "squash" else [size],
            interpolation=v2.InterpolationMode.BICUBIC,
            antialias=True,
        )
        if mode not in {"squash", "center_crop"}:
            msg = f"resize_mode={mode!r}: choose 'squash' (whole image) or 'center_crop' (the authors' protocol)."
            raise ValueError(msg)
        self.side = size
        self.mode = mode

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        """Refuse an image whose mask has another size."""
        pair = [item for item in flat_inputs if isinstance(item, (tv_tensors.Image, tv_tensors.Mask))]
        sizes = {tuple(item.shape[-2:]) for item in pair}
        if len(sizes) > 1:
            found = " and ".join(f"{height} x {width}" for height, width in sorted(sizes))
            msg = f"An image and its mask differ in size: {found}. Give the mask the size of its image."
            raise ValueError(msg)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize one image or mask."""
        is_float_image = (
            isinstance(inpt, torch.Tensor) and not isinstance(inpt, tv_tensors.Mask) and inpt.is_floating_point()
        )
        if not is_float_image:
            return self._fit(super().transform(inpt, params))
        eight_bits = TF.to_dtype(inpt.mul(255).round().clamp(0, 255) / 255, torch.uint8, scale=True)
        return TF.to_dtype(self._fit(super().transform(eight_bits, params)), inpt.dtype, scale=True)

    def _fit(self, inpt: Any) -> Any:
        return TF.center_crop(inpt, [self.side, self.side]) if self.mode == "center_crop" else inpt


class ExportableResize(nn.Module):
    """The same resize in floating-point operations that export formats have, rounded to 8-bit levels.

    Args:
        size: Side of the square output in pixels.
        mode: See :class:`CLIPResize`.
    """

    def __init__(self, size: int, mode: ResizeMode = "squash") -> None:
        super().__init__()
        self.side = size
        self.mode = mode

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Resize a batch.

        Args:
            image: ``(B, 3, H, W)`` in [0, 1].

        Returns:
            ``(B, 3, size, size)`` in [0, 1].
        """
        sides = [self.side, self.side] if self.mode == "squash" else [self.side]
        image = TF.resize(image, sides, interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
        if self.mode == "center_crop":
            image = TF.center_crop(image, [self.side, self.side])
        return (image.clamp(0, 1) * 255).round() / 255


class CLIPPreProcessor(PreProcessor):
    """Resize and normalise as CLIP expects; kept by checkpoints and by exports.

    anomalib saves only transforms of a closed list and would drop this one silently, so its settings are saved
    instead. Prompts in a training batch are transformed like its images. Images of more than 8 bits a channel, which
    anomalib's reader clips to white, are read again.

    Args:
        image_size: Side of the model's square input in pixels.
        resize_mode: ``"squash"`` (whole image) or ``"center_crop"`` (the authors' protocol).
        mean: Per-channel mean, RGB, on the [0, 1] scale.
        std: Per-channel standard deviation.
    """

    def __init__(
        self,
        image_size: int = 240,
        resize_mode: ResizeMode = "squash",
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
    ) -> None:
        super().__init__()
        self._set(image_size, resize_mode, tuple(mean), tuple(std))

    def _set(self, image_size: int, resize_mode: ResizeMode, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.image_size, self.resize_mode, self.mean, self.std = image_size, resize_mode, mean, std
        normalize = v2.Normalize(mean=list(mean), std=list(std))
        self.transform: Any = v2.Compose([CLIPResize(image_size, resize_mode), normalize])
        self.export_transform = nn.Sequential(ExportableResize(image_size, resize_mode), normalize)

    def checkpoint_config(self) -> dict[str, Any]:
        """Settings to keep in a checkpoint."""
        return {
            "image_size": self.image_size,
            "resize_mode": self.resize_mode,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Restore the settings of :meth:`checkpoint_config`."""
        self._set(config["image_size"], config["resize_mode"], tuple(config["mean"]), tuple(config["std"]))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Transform images, masks and, if the batch has them, the prompts drawn for each query."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if (prompts := getattr(batch, "prompt_image", None)) is not None:
            batch.prompt_image = self.transform(prompts.flatten(0, 1)).unflatten(0, prompts.shape[:2])

    def on_validation_batch_start(  # type: ignore[override]  # anomalib's leaves dataloader_idx out
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Transform a validation batch."""
        self._read_deep_images_again(batch)
        super().on_validation_batch_start(trainer, pl_module, batch, batch_idx)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Transform a test batch."""
        self._read_deep_images_again(batch)
        super().on_test_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Transform a predict batch."""
        self._read_deep_images_again(batch)
        super().on_predict_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)

    def _read_deep_images_again(self, batch: Any) -> None:
        deep = [index for index, path in enumerate(batch.image_path or []) if is_deep(path)]
        if not deep:
            return
        resize = self.transform.transforms[0]
        batch.image = resize(batch.image)
        for index in deep:
            batch.image[index] = resize(read_image(batch.image_path[index])).to(batch.image)
