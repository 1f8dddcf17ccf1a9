# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The list of files that a converted dataset carries with it.

``manifest.csv`` has one row for each picture and one for each mask: ``path`` below the dataset's folder, ``split``
(``train``, ``test``, ``ground_truth``), ``label``, ``category`` (its folder), ``source`` (raw file and part) and the
file's ``sha256``.
"""

from __future__ import annotations

import csv
import io
from functools import lru_cache
from pathlib import Path

import pandas as pd

from anomalib_inctrl.data.raw.base import GOOD, RawDataset, safe_path
from anomalib_inctrl.errors import DatasetError

MANIFEST = "manifest.csv"
CARD = "dataset.json"
COLUMNS = ("path", "split", "label", "category", "source", "sha256")
GROUND_TRUTH = "ground_truth"


def is_converted(folder: Path) -> bool:
    """Whether a folder holds a converted dataset. It appears whole, so it is whole unless it was changed since."""
    return (folder / MANIFEST).is_file()


def manifest_text(rows: list[tuple[str, ...]]) -> str:
    """The content of ``manifest.csv``; rows as in :data:`COLUMNS`."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    return text.getvalue()


def read_manifest(folder: Path) -> pd.DataFrame:
    """Read the manifest of a converted dataset.

    Args:
        folder: Folder of the dataset.

    Returns:
        Its rows, all columns text. Not to be changed: it is shared.

    Raises:
        DatasetError: If it cannot be read, lacks a column, or names a file outside the folder.
    """
    status = (folder / MANIFEST).stat()
    return _read_manifest(folder / MANIFEST, status.st_mtime_ns, status.st_size)


# Read once for all categories; the stamp tells a changed file apart.
@lru_cache(maxsize=4)
def _read_manifest(path: Path, *_stamp: int) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except (ValueError, OSError, pd.errors.ParserError) as error:
        msg = f"{path}: not readable ({error}). Convert the dataset again."
        raise DatasetError(msg) from error
    if absent := [name for name in COLUMNS if name not in table.columns]:
        msg = f"{path}: lacks the columns {', '.join(absent)}. Convert the dataset again."
        raise DatasetError(msg)
    if unsafe := [name for name in table["path"] if safe_path(name) is None]:
        msg = (
            f"{path}: names {unsafe[0]!r}, which is not a plain path below its folder. Do not use this copy; convert "
            "the dataset yourself."
        )
        raise DatasetError(msg)
    return table


def converted_samples(dataset: RawDataset, folder: Path, category: str, *, check_counts: bool = True) -> pd.DataFrame:
    """List the images of one category of a converted dataset.

    Args:
        dataset: Which dataset it is.
        folder: Its converted folder.
        category: One of the dataset's categories.
        check_counts: Whether all images of the dataset must be listed.

    Returns:
        anomalib's table of samples: ``image_path``, ``split``, ``label``, ``label_index``, ``mask_path`` (empty where
        there is none). Abnormal images are in the test split only.

    Raises:
        DatasetError: If the manifest is not of this dataset, lists too few images, or files are missing.
    """
    table = read_manifest(folder)
    wanted = dataset.card.folder(category)
    table = table[table["category"] == wanted]
    if table.empty:
        held = ", ".join(sorted(set(read_manifest(folder)["category"]))) or "nothing"
        name = dataset.card.name
        msg = f"{folder} is a converted dataset, but not {name}: it holds {held}, not {wanted}. Correct root."
        raise DatasetError(msg)
    images = table[table["split"] != GROUND_TRUTH]
    if check_counts:
        dataset.check(str(folder), images.groupby(["split", "label"]).size().to_dict())
    masks = set(table["path"][table["split"] == GROUND_TRUTH])
    rows = [
        (folder, path, split, label, _mask_of(path, split, label, masks))
        for path, split, label in zip(images["path"], images["split"], images["label"], strict=True)
    ]
    return samples_table(dataset, category, rows)


def samples_table(dataset: RawDataset, category: str, rows: list[tuple[Path, str, str, str, str]]) -> pd.DataFrame:
    """Make anomalib's table of samples.

    Args:
        dataset: Which dataset it is.
        category: One of its categories; decides which labels are normal.
        rows: Folder, path of the image below it, split, label, and path of the mask or nothing.

    Returns:
        See :func:`converted_samples`. Training images that are not normal for the category are left out.

    Raises:
        DatasetError: If files are missing.
    """
    kept = [
        (str(folder / path), split, label, int(not normal), str(folder / mask) if mask else "")
        for folder, path, split, label, mask in rows
        for normal in [dataset.is_normal(category, label)]
        if normal or split == "test"
    ]
    samples = pd.DataFrame(kept, columns=["image_path", "split", "label", "label_index", "mask_path"])
    files = [*samples["image_path"], *filter(None, samples["mask_path"])]
    if absent := [path for path in files if not _has_content(path)]:
        msg = (
            f"{dataset.card.name}: {len(absent)} of {len(files)} files are missing or empty, the first is {absent[0]}. "
            "Copy or extract the dataset again."
        )
        raise DatasetError(msg)
    samples.attrs["task"] = dataset.card.task
    return samples


def _has_content(path: str) -> bool:
    try:
        return Path(path).stat().st_size > 0
    except OSError:
        return False


def _mask_of(path: str, split: str, label: str, masks: set[str]) -> str:
    if label == GOOD or split != "test":
        return ""
    folder, _, label, name = path.split("/")
    mask = f"{folder}/{GROUND_TRUTH}/{label}/{name.removesuffix('.png')}_mask.png"
    return mask if mask in masks else ""
