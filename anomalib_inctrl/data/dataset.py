# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""One dataset merged from many; every sample carries its class name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from anomalib import TaskType
from anomalib.data import AnomalibDataset
from anomalib.data.utils import Split
from torchvision.transforms.v2 import functional as TF
from torchvision.tv_tensors import Image, Mask

from anomalib_inctrl.data.batch import CachedItem, PromptedItem, TrainingDraw
from anomalib_inctrl.errors import DatasetError, ImageFileError
from anomalib_inctrl.io.images import image_size, read_image, read_mask

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torchvision.transforms.v2 import Transform


class GeneralistDataset(AnomalibDataset):
    """Samples of many classes from many anomalib datasets in one table.

    The table has anomalib's columns, ``class_name``, and ``has_mask``: whether the pixel mask is known, as for all
    images of a source with masks except abnormal ones without a mask file. Rows are sorted by class name and image
    path. Images are read here rather than by the merged datasets, so that every image mode works and every error
    names its file.

    Indexed with a row it gives the item, indexed with a :class:`TrainingDraw` the item with its prompts. Where the
    features of all images are cached, :attr:`cached_size` is set, and draws give a :class:`CachedItem` without reading
    any image.

    Args:
        samples: Table with the columns ``image_path``, ``split``, ``label_index``, ``mask_path``, ``class_name`` and
            ``has_mask``.

    Attributes:
        augmentations: Applied to every query, with its mask.
        prompt_augmentations: Applied to every prompt: the resize, but nothing random.
        cached_size: Height and width of the model's input if draws are to give rows and masks, but no pixels.
    """

    def __init__(self, samples: pd.DataFrame) -> None:
        super().__init__()
        self.prompt_augmentations: Transform | None = None
        self.cached_size: tuple[int, int] | None = None
        self.samples = samples

    @classmethod
    def merge(cls, parts: Iterable[tuple[str, AnomalibDataset]]) -> GeneralistDataset:
        """Merge datasets; an image that several datasets of a class hold is kept once.

        Args:
            parts: Class names and the datasets that hold images of the class.

        Returns:
            The merged dataset.

        Raises:
            DatasetError: If there are no images, or images without a label.
        """
        tables = [_class_table(name, part) for name, part in parts if len(part)]
        if not tables:
            msg = "The chosen sources hold no images for this use. Check their folders and split options."
            raise DatasetError(msg)
        return cls(pd.concat(tables, ignore_index=True).drop_duplicates(["class_name", "image_path"]))

    @property
    def samples(self) -> pd.DataFrame:
        """Table of the samples, sorted by class name and image path."""
        return super().samples

    @samples.setter
    def samples(self, samples: pd.DataFrame) -> None:
        # The base checks the table, but sorts by path alone: then the classes' order would depend on where they lie.
        AnomalibDataset.samples.fset(self, samples)  # type: ignore[attr-defined]
        self._samples = samples.sort_values(["class_name", "image_path"], ignore_index=True)
        task = TaskType.SEGMENTATION if samples["has_mask"].any() else TaskType.CLASSIFICATION
        self._samples.attrs["task"] = task.value

    def __getitem__(self, index: int | TrainingDraw) -> PromptedItem | CachedItem:  # type: ignore[override]
        """Read one sample.

        Args:
            index: Row, or a draw of row and prompts.

        Returns:
            The item, with ``prompt_image`` and ``one_class`` for a draw; without pixels if those are not needed.

        Raises:
            ImageFileError: If an image file cannot be read.
            DatasetError: If a mask cannot be read or its size is not that of its image.
        """
        if not isinstance(index, TrainingDraw):
            return self._read(index)
        if self.cached_size is not None:
            return self._cached_item(index, self.cached_size)
        # Random augmentations follow the draw, not the worker that happens to read it.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(index.seed)
            item = self._read(index.query)
        image: Any = item.image
        item.prompt_image = self._read_prompts(index.prompts, image.shape[-2:])
        item.one_class = torch.tensor(index.one_class)
        return item

    def _read(self, row: int) -> PromptedItem:
        sample = self.samples.iloc[row]
        image = Image(read_image(sample.image_path))
        mask = _read_mask(sample, tuple(image.shape[-2:]))
        if self.augmentations is not None:
            image, mask = self.augmentations(image, mask)
        return PromptedItem(
            image=image,
            gt_mask=mask,
            gt_label=torch.tensor(int(sample.label_index)),
            image_path=sample.image_path,
            mask_path=next(iter(_mask_files(sample.mask_path)), None),
            class_name=sample.class_name,
        )

    def _cached_item(self, draw: TrainingDraw, size: tuple[int, int]) -> CachedItem:
        sample = self.samples.iloc[draw.query]
        mask: Any = None
        if sample.has_mask:
            mask = _read_mask(sample, image_size(sample.image_path) if sample.label_index else size)
            if sample.label_index and self.augmentations is not None:
                mask = self.augmentations(mask)  # resized as with its image
            mask = mask.as_subclass(torch.Tensor)
        return CachedItem(draw, sample.class_name, torch.tensor(int(sample.label_index)), mask)

    def _read_prompts(self, rows: tuple[int, ...], size: torch.Size) -> Image:
        resize = self.prompt_augmentations or torch.nn.Identity()
        images = [resize(Image(read_image(self.samples["image_path"].iloc[row]))) for row in rows]
        # Only needed where neither model nor user resizes: prompts are stacked with their query.
        images = [image if image.shape[-2:] == size else TF.resize(image, list(size)) for image in images]
        return Image(torch.stack(images))


def _class_table(class_name: str, part: AnomalibDataset) -> pd.DataFrame:
    samples = part.samples
    unlabelled = samples[~samples["label_index"].isin([0, 1])]
    if len(unlabelled):
        msg = (
            f"Class {class_name!r}: {len(unlabelled)} of {len(part)} images have no label, for example "
            f"{unlabelled.image_path.iloc[0]}. Leave them out or sort them into normal and abnormal."
        )
        raise DatasetError(msg)
    masks = samples["mask_path"] if "mask_path" in samples else pd.Series("", index=samples.index)
    has_mask_file = masks.map(lambda value: bool(_mask_files(value)))
    return pd.DataFrame(
        {
            "image_path": samples["image_path"].astype(str),
            "split": samples["split"].map(lambda split: Split(split).value),
            "label_index": samples["label_index"].astype(int),
            "mask_path": masks.where(has_mask_file, ""),
            "class_name": class_name,
            "has_mask": (part.task == TaskType.SEGMENTATION) & (has_mask_file | (samples["label_index"] == 0)),
        },
    )


def _mask_files(value: Any) -> list[str]:
    # anomalib writes "no mask" as None, NaN or an empty string, and several masks of one image as a list.
    if isinstance(value, list):
        return value
    return [value] if isinstance(value, str) and value else []


def _read_mask(sample: pd.Series, size: tuple[int, int]) -> Mask | None:
    if not sample.has_mask:
        return None
    mask = torch.zeros(size, dtype=torch.bool)
    for path in _mask_files(sample.mask_path) if sample.label_index else []:
        try:
            part = read_mask(path, sample.image_path)
        except ImageFileError as error:
            msg = f"The mask of {sample.image_path}: {error}"
            raise DatasetError(msg) from error
        if tuple(part.shape) != size:
            msg = (
                f"{path} is {part.shape[0]} x {part.shape[1]} pixels (height x width), its image "
                f"{sample.image_path} {size[0]} x {size[1]}. Give the mask the size of its image."
            )
            raise DatasetError(msg)
        mask |= part
    return Mask(mask)
