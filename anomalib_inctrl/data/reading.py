# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Datasets of anomalib that name the file they cannot read."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from torch.utils.data import DataLoader, Dataset

from anomalib_inctrl.errors import InCTRLError
from anomalib_inctrl.io.images import UNREADABLE, open_image


def name_unreadable_files(source: Any) -> None:
    """Let datasets raise an :class:`ImageFileError` with the file's name in place of an error without one.

    Args:
        source: A dataset or dataloader, or any, nested in sequences in any way; anything else is left alone.
    """
    if isinstance(source, (list, tuple)):
        for part in source:
            name_unreadable_files(part)
    elif isinstance(source, DataLoader):
        name_unreadable_files(source.dataset)
    elif isinstance(source, Dataset):
        if hasattr(source, "samples") or hasattr(source, "image_filenames"):
            # PyTorch's loaders, and their workers, ask a dataset for the items of a batch where it has this.
            source.__getitems__ = partial(_items, source)  # type: ignore[attr-defined]
        name_unreadable_files(getattr(source, "dataset", None))  # of a subset


def _items(dataset: Any, indices: Iterable[int]) -> list[Any]:
    return [_item(dataset, index) for index in indices]


def _item(dataset: Any, index: int) -> Any:
    try:
        return dataset[index]
    except InCTRLError:
        raise
    except UNREADABLE:
        for path in _files(dataset, index):
            open_image(path)  # names the file
        raise


def _files(dataset: Any, index: int) -> list[str]:
    """Image and masks of an item."""
    if hasattr(dataset, "image_filenames"):
        return [str(dataset.image_filenames[index])]
    sample = dataset.samples.iloc[index]
    masks = sample.get("mask_path")
    files = [sample.image_path, *(masks if isinstance(masks, list) else [masks])]
    return [path for path in files if isinstance(path, str) and path]
