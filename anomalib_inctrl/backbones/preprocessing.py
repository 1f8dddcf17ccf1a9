# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""CLIP's preprocessing as the authors do it, for anomalib's pipeline, checkpoints and exports."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from anomalib.pre_processing import PreProcessor
from torch import nn
from torchvision import tv_tensors
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from anomalib_inctrl.arguments import check_arguments
from anomalib_inctrl.backbones.openclip import CLIP_MEAN, CLIP_STD
from anomalib_inctrl.errors import ImageDataError, ImageFileError
from anomalib_inctrl.io.images import IMAGE_SUFFIXES, read_header, read_image, read_mask, upright, warn_of_skipped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning.pytorch import LightningModule, Trainer

    from anomalib_inctrl.io.images import ImageHeader

# Sides so unlike that scaling the shorter one up would take gigabytes, nearly all of which is then cut off.
_LONG = 64

ResizeMode = Literal["squash", "center_crop"]

CHECKPOINT_KEY = "anomalib_pre_processor_config"
"""Where anomalib keeps the settings of a pre-processor in a checkpoint."""


class BicubicResize(v2.Resize):
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
        check_arguments(BicubicResize.__init__, {"mode": mode})
        # Resize wants the two sides to squash and the one to keep the aspect.
        sides = [size, size] if mode == "squash" else [size]
        super().__init__(sides, interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
        self.side, self.mode = size, mode

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        """Refuse an image whose mask has another size, with a :class:`ValueError`."""
        pair = [item for item in flat_inputs if isinstance(item, (tv_tensors.Image, tv_tensors.Mask))]
        sizes = sorted({tuple(item.shape[-2:]) for item in pair})
        if len(sizes) > 1:
            found = " and ".join(f"{height} x {width}" for height, width in sizes)
            msg = f"An image and its mask differ in size: {found}. Give the mask the size of its image."
            if sizes[0] == sizes[1][::-1]:
                msg += (
                    " If it is a photo that its EXIF orientation turns: anomalib's datasets take masks as the photo is "
                    "stored; store it upright, or name the dataset in a GeneralistDataModule, which takes both."
                )
            raise ValueError(msg)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize one image or mask.

        Raises:
            ImageDataError: If an image holds NaN or infinite values.
        """
        is_image = isinstance(inpt, torch.Tensor) and not isinstance(inpt, tv_tensors.Mask)
        if not is_image or not inpt.is_floating_point():
            return self._fit(super().transform(inpt, params))
        if not bool(inpt.sum().isfinite()):  # as a level of 0 to 255, NaN would be any number
            msg = "An image holds NaN or infinite values. Give values in [0, 1]."
            raise ImageDataError(msg)
        if self.mode == "center_crop" and max(inpt.shape[-2:]) > _LONG * min(inpt.shape[-2:]):
            return ExportableResize(self.side, self.mode)(inpt)
        eight_bits = inpt.mul(255).round_().clamp_(0, 255).to(torch.uint8)  # in place: images may be large
        return TF.to_dtype(self._fit(super().transform(eight_bits, params)), inpt.dtype, scale=True)

    def _fit(self, inpt: Any) -> Any:
        return TF.center_crop(inpt, [self.side, self.side]) if self.mode == "center_crop" else inpt


class ExportableResize(nn.Module):
    """The same resize as two matrix products on 8-bit levels, for graphs that take images of any size.

    Runtimes disagree about antialiased bicubic resizing (OpenVINO leaves the antialiasing out), and a crop whose place
    depends on the image's shape would be fixed by the export. Here the weights of every output pixel are computed from
    the image's size inside the graph. They follow Pillow's kernel and fixed-point arithmetic, which torchvision shares:
    the result differs from :class:`BicubicResize` by one level in about one of 10000 values. In double precision every
    runtime finds the same weights; OpenVINO, which computes in single, a few others by the last bit.

    Args:
        size: Side of the square output in pixels.
        mode: See :class:`BicubicResize`.
    """

    def __init__(self, size: int, mode: ResizeMode = "squash") -> None:
        super().__init__()
        self.side, self.mode = size, mode

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Resize a batch.

        Args:
            image: ``(B, 3, H, W)`` in [0, 1].

        Returns:
            ``(B, 3, size, size)`` in [0, 1].
        """
        # On the CPU, as there are accelerators without double precision.
        rows, columns = (torch.arange(length) for length in image.shape[-2:])
        # The number of rows and columns as tensors, so that an export does not take them for constants.
        height, width = rows[-1:] + 1, columns[-1:] + 1
        shorter = torch.minimum(height, width)
        image = (image * 255).round().clamp(0, 255)
        # Rounded after each direction, half up, as Pillow does.
        image = (image @ self._weights(columns, width, shorter).to(image).T + 0.5).floor().clamp(0, 255)
        image = (self._weights(rows, height, shorter).to(image) @ image + 0.5).floor().clamp(0, 255)
        return image / 255

    def _weights(self, places: torch.Tensor, length: torch.Tensor, shorter: torch.Tensor) -> torch.Tensor:
        """Weights ``(size, length)`` of the input's pixels in each output pixel; ``places`` counts the input's."""
        if self.mode == "center_crop":
            resized = self.side * length // shorter
            half, odd = (resized - self.side) // 2, (resized - self.side) % 2
            first = half + odd * (half % 2)  # torchvision rounds half of the rest to the even number
        else:
            resized, first = torch.full_like(length, self.side), torch.zeros_like(length)
        # The edge, of the largest weight, decides the precision even where it is cropped off.
        edge = torch.zeros_like(first)
        outputs = torch.cat([edge, first + torch.arange(self.side)])
        # Distances of pixel centres in units of the wider pixel, from whole numbers and thus exact.
        distance = (2 * places + 1) * resized - ((2 * outputs + 1) * length).unsqueeze(-1)
        weights = _bicubic(distance.double() / (2 * torch.maximum(length, resized)))
        weights = weights / weights.sum(dim=-1, keepdim=True)
        units = torch.exp2(torch.log2(32767.5 / weights.max()).floor().clamp(max=22))  # 16 bits, as many as fit
        return ((weights * units).round() / units)[1:]


def _bicubic(distance: torch.Tensor) -> torch.Tensor:
    """Pillow's bicubic kernel (a = -1/2), zero from distance 2 on."""
    x = distance.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((2.5 - 0.5 * x) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


class BackbonePreProcessor(PreProcessor):
    """Resize and normalise as CLIP expects; kept by checkpoints and by exports.

    anomalib saves only transforms of a closed list and would drop this one silently, so its settings are saved
    instead. Prompts in a training batch are transformed like its images.

    In validation, test and prediction the files of some images are read again by
    :func:`~anomalib_inctrl.io.images.read_image`, since anomalib's reader clips more than 8 bits a channel to white,
    ignores the EXIF orientation and drops transparency, and its batches bring images of several sizes to one, so that
    the scores would depend on the batch.

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
        self._set(image_size, resize_mode, mean, std)

    def _set(self, image_size: int, resize_mode: ResizeMode, mean: Sequence[float], std: Sequence[float]) -> None:
        self.image_size, self.resize_mode, self.mean, self.std = image_size, resize_mode, tuple(mean), tuple(std)
        normalize = v2.Normalize(mean=list(mean), std=list(std))
        self.transform: Any = v2.Compose([BicubicResize(image_size, resize_mode), normalize])
        self.export_transform = nn.Sequential(ExportableResize(image_size, resize_mode), normalize)

    def checkpoint_config(self) -> dict[str, Any]:
        """Settings to keep in a checkpoint."""
        sizes = {"image_size": self.image_size, "resize_mode": self.resize_mode}
        return sizes | {"mean": list(self.mean), "std": list(self.std)}

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Restore the settings of :meth:`checkpoint_config`."""
        self._set(**config)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Transform images, masks and, if the batch has them, the prompts drawn for each query."""
        if getattr(batch, "image", None) is None:  # features are cached: no pixels, and masks have the model's size
            return
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if (prompts := getattr(batch, "prompt_image", None)) is not None:
            batch.prompt_image = self.transform(prompts.flatten(0, 1)).unflatten(0, prompts.shape[:2])

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Transform a validation, test or predict batch."""
        # The package's own dataset has read its files by `read_image`, each on its own.
        if batch.image_path and not hasattr(batch, "prompt_image"):
            self._read_again(batch)
        super().on_test_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)

    on_test_batch_start = on_validation_batch_start
    on_predict_batch_start = on_validation_batch_start

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn of images that anomalib's dataset of a folder leaves out, by their endings."""
        del pl_module
        loaders = trainer.predict_dataloaders
        for loader in loaders if isinstance(loaders, (list, tuple)) else [loaders]:
            files = getattr(getattr(loader, "dataset", None), "image_filenames", [])
            for folder in {Path(file).parent for file in files} if len(files) > 1 else ():
                others = IMAGE_SUFFIXES.difference(IMG_EXTENSIONS)
                warn_of_skipped(folder, (path for path in folder.iterdir() if path.suffix.lower() in others))

    def _read_again(self, batch: Any) -> None:
        """Replace images whose pixels in a batch are not those of their files."""
        headers: dict[int, ImageHeader] = {}
        for index, path in enumerate(batch.image_path):
            with suppress(ImageFileError):  # no image file: a frame of a video
                headers[index] = read_header(path)
        shared = tuple(batch.image.shape[-2:])
        # anomalib's collate takes the size of the image that has the longest side.
        sizes = [header.plain_size for header in headers.values()]
        collated = len(set(sizes)) > 1 and len(sizes) == len(batch.image_path) and max(sizes, key=max) == shared
        again = {
            index: header
            for index, header in headers.items()
            if not header.plain or (collated and header.plain_size != shared)
        }
        if not again:
            return
        resize = self.transform.transforms[0]
        batch.image, batch.gt_mask = resize(batch.image, batch.gt_mask)
        for index, header in again.items():
            batch.image[index] = resize(read_image(batch.image_path[index])).to(batch.image)
            # A mask that has to be turned with its image has the size that the image had when it was read.
            if batch.gt_mask is not None and header.plain_size != header.size and batch.gt_mask[index].any():
                mask = upright(batch.gt_mask[index].clone(), header.orientation)
                if batch.mask_path:  # without, where a batch begins with a normal image, it is off by up to a pixel
                    mask = resize(tv_tensors.Mask(read_mask(batch.mask_path[index], batch.image_path[index])))
                batch.gt_mask[index] = mask.to(batch.gt_mask)
