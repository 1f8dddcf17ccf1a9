# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Datasets of anomalib that name the file they cannot read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from torch.utils.data import DataLoader, Dataset

from anomalib_inctrl.errors import InCTRLError
from anomalib_inctrl.io.images import UNREADABLE, open_image


def name_unreadable_files(sources: Any) -> None:
    """Let datasets raise an :class:`ImageFileError` with the file's name in place of an error without one.

    Args:
        sources: Datasets and dataloaders, nested in sequences in any way; anything else is left alone.
    """
    for dataset in _datasets(sources):
        if (hasattr(dataset, "samples") or hasattr(dataset, "image_filenames")) and not hasattr(
            dataset, "__getitems__"
        ):
            # PyTorch's loaders, and their workers, ask a dataset for the items of a batch where it has this.
            dataset.__getitems__ = partial(_items, dataset)


def _datasets(source: Any) -> Iterator[Any]:
    if isinstance(source, (list, tuple)):
        for part in source:
            yield from _datasets(part)
    elif isinstance(source, DataLoader):
        yield from _datasets(source.dataset)
    elif isinstance(source, Dataset):
        yield source
        yield from _datasets(getattr(source, "dataset", None))  # of a subset


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


def _files(dataset: Any, index: int) -> Sequence[str]:
    """Image and masks of an item."""
    if hasattr(dataset, "image_filenames"):
        return [str(dataset.image_filenames[index])]
    sample = dataset.samples.iloc[index]
    masks = sample.get("mask_path")
    masks = masks if isinstance(masks, list) else [masks]
    return [path for path in (sample.image_path, *masks) if isinstance(path, str) and path]
