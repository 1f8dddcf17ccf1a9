# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Items and batches that carry a class name and, in training, the prompts of each query."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from anomalib.data import ImageBatch, ImageItem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomalib.data import NumpyImageBatch, NumpyImageItem


@dataclass(frozen=True)
class TrainingDraw:
    """One query and the prompts it is compared with.

    Attributes:
        query: Row of the query image in the dataset's samples.
        prompts: Rows of its prompts.
        seed: Seed of the random augmentations of the query.
        one_class: Whether the query was drawn for a one-class branch, beside the balanced queries.
    """

    query: int
    prompts: tuple[int, ...]
    seed: int = 0
    one_class: bool = False


@dataclass
class PromptedItem(ImageItem):
    """One query image with its class name.

    Attributes:
        class_name: Name of the class; prompts and text prototypes are looked up by it.
        prompt_image: Prompts ``(K, 3, H, W)`` in [0, 1], drawn for this query in training; None otherwise.
        mask_valid: Whether ``gt_mask`` is known, a scalar bool tensor; if None, it is where there is a mask.
        one_class: Whether the query was drawn for a one-class branch, a scalar bool tensor; None outside training.
    """

    class_name: str | None = None
    prompt_image: torch.Tensor | None = None
    mask_valid: torch.Tensor | None = None
    one_class: torch.Tensor | None = None

    def to_numpy(self) -> NumpyImageItem:
        """Convert anomalib's own fields to NumPy."""
        return ImageItem(**{field.name: getattr(self, field.name) for field in fields(ImageItem)}).to_numpy()


@dataclass
class PromptedBatch(ImageBatch):
    """A batch of query images whose class names and sources may be mixed.

    Where no pixel mask is known, ``gt_mask`` is zero and ``mask_valid`` is False; pixel losses must leave these images
    out. If no image of the batch has a known mask, ``gt_mask`` is None.

    Attributes:
        class_name: Class name of each image.
        prompt_image: Prompts ``(B, K, 3, H, W)`` in [0, 1]; None outside training.
        mask_valid: ``(B,)`` bool, whether ``gt_mask`` of the image is known.
        one_class: ``(B,)`` bool, whether the image is one of the normal queries drawn for a one-class branch beside the
            balanced ones. They come last in the batch. None outside training.
    """

    item_class: ClassVar[type[ImageItem]] = PromptedItem

    class_name: list[str] | None = None
    prompt_image: torch.Tensor | None = None
    mask_valid: torch.Tensor | None = None
    one_class: torch.Tensor | None = None

    def to_numpy(self) -> NumpyImageBatch:
        """Convert anomalib's own fields to NumPy."""
        return ImageBatch(**{field.name: getattr(self, field.name) for field in fields(ImageBatch)}).to_numpy()

    @classmethod
    def collate(cls, items: list[PromptedItem]) -> PromptedBatch:  # type: ignore[override]
        """Stack items to a batch; images of several sizes are resized to the largest."""
        # anomalib's own takes the fields of the first item for those of all; masks and their paths only some have.
        valid = [item.gt_mask is not None if item.mask_valid is None else bool(item.mask_valid) for item in items]
        filled = []
        for item, known in zip(items, valid, strict=True):
            mask: Any = item.gt_mask
            if mask is None and any(valid):
                mask = torch.zeros(torch.as_tensor(item.image).shape[-2:], dtype=torch.bool)
            filled.append(item.update(in_place=False, mask_path=None, mask_valid=torch.tensor(known), gt_mask=mask))
        batch = cast("PromptedBatch", super().collate(filled))
        if any(item.mask_path for item in items):
            batch.mask_path = [item.mask_path or "" for item in items]
        return batch


@dataclass
class CachedItem:
    """A training query whose features are cached: a :class:`PromptedItem` with rows in place of pixels."""

    draw: TrainingDraw
    class_name: str
    gt_label: torch.Tensor
    gt_mask: torch.Tensor | None


@dataclass
class CachedBatch:
    """A training batch of queries and prompts whose features are cached; see :class:`PromptedBatch` for the fields.

    Attributes:
        rows: Rows of the queries in the dataset ``(B,)``.
        prompt_rows: Rows of their prompts ``(B, K)``.
        class_name: Class name of each query.
        gt_label: ``(B,)``, 1 for abnormal.
        gt_mask: ``(B, H, W)`` bool, zero where unknown; None if all are unknown.
        mask_valid: ``(B,)`` bool, whether the mask is known.
        one_class: ``(B,)`` bool, whether the query was drawn for a one-class branch.
        patches: Patch tokens ``(B + B * K, L, P, D_v)``, of the queries and then of their prompts; filled in by the
            model, from its store.
        embeddings: Class embeddings ``(B + B * K, D)``, likewise.
    """

    rows: torch.Tensor
    prompt_rows: torch.Tensor
    class_name: list[str]
    gt_label: torch.Tensor
    gt_mask: torch.Tensor | None
    mask_valid: torch.Tensor
    one_class: torch.Tensor
    patches: torch.Tensor | None = None
    embeddings: torch.Tensor | None = None

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.rows)

    @classmethod
    def collate(cls, items: Sequence[CachedItem]) -> CachedBatch:
        """Stack items to a batch."""
        known = torch.tensor([item.gt_mask is not None for item in items])
        empty = next((torch.zeros_like(item.gt_mask) for item in items if item.gt_mask is not None), None)
        masks = [empty if item.gt_mask is None else item.gt_mask for item in items]
        return cls(
            rows=torch.tensor([item.draw.query for item in items]),
            prompt_rows=torch.tensor([item.draw.prompts for item in items]),
            class_name=[item.class_name for item in items],
            gt_label=torch.stack([item.gt_label for item in items]),
            gt_mask=torch.stack(cast("list[torch.Tensor]", masks)) if known.any() else None,
            mask_valid=known,
            one_class=torch.tensor([item.draw.one_class for item in items]),
        )


def collate_training(items: list[Any]) -> PromptedBatch | CachedBatch:
    """Stack training items, with pixels or without."""
    return CachedBatch.collate(items) if isinstance(items[0], CachedItem) else PromptedBatch.collate(items)
