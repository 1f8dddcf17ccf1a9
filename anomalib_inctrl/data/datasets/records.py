# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What the benchmark datasets share: their cards, the records of their images, and what their scans have in common."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageChops
from sklearn.model_selection import train_test_split

from anomalib_inctrl.errors import DatasetError
from anomalib_inctrl.io.images import IMAGE_SUFFIXES, image_size, open_image

GOOD = "good"
ABNORMAL = "abnormal"
"""In counts: all labels but ``good`` together."""
GROUND_TRUTH = "ground_truth"

DIGITS = tuple(f"digit_{digit}" for digit in range(10))

_TEST_SHARE, _SPLIT_SEED = 0.25, 42  # the authors' values
_ARCHIVES = {".zip", ".7z", ".rar", ".gz", ".tar", ".tgz", ".xz"}

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class DatasetCard:
    """Facts about a dataset.

    Attributes:
        name: Short name: that of the datamodule and of the argument of ``anomalib-inctrl convert``.
        title: Full name.
        task: ``"segmentation"`` where there are masks, otherwise ``"classification"``.
        licence: Licence of the images, or that none is stated.
        homepage: Where to get it.
        citation: Publication to cite.
        layout: The folders and files expected below the root.
        categories: Categories of the datamodule; they are the class names in text prompts as well.
        expected: Allowed numbers of images by split and label (:data:`ABNORMAL`: all labels but ``good``); of raw files
            by an empty split and what is counted.
        default_categories: Categories used where none are named; all by default.
        folder: Folder of all categories in the converted layout; by default each category has its own.
        normal_labels: Labels that are normal for a category, where that is not ``good`` alone.
    """

    name: str
    title: str
    task: str
    licence: str
    homepage: str
    citation: str
    layout: str
    categories: tuple[str, ...]
    expected: Mapping[tuple[str, str], tuple[int, ...]]
    default_categories: tuple[str, ...] = ()
    folder: str = ""
    normal_labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def missing(self, root: Path, found: str) -> DatasetError:
        """Create the error for data that is missing or incomplete in a folder, with the remedy."""
        files = [*root.glob("*"), *root.glob("*/raw/*")]
        archives = sorted(path.name for path in files if path.suffix.lower() in _ARCHIVES)
        remedy = f"Get the dataset from {self.homepage} and arrange its files like this, or correct root"
        if archives:
            remedy = f"Extract {', '.join(archives)} there, so that the files lie like this"
        return DatasetError(f"{self.name} in {root}: {found}. {remedy}:\n{self.layout}")

    def check_counts(self, where: str, counts: Mapping[tuple[str, str], int]) -> None:
        """Compare counts by split and label with those of the complete dataset.

        Raises:
            DatasetError: If they differ; the message names each difference.
        """
        found = Counter(counts)
        for (split, label), number in counts.items():
            if label != GOOD:
                found[split, ABNORMAL] += number
        wrong = [
            f"{found[key]} {' '.join(key).strip()} (expected {' or '.join(map(str, allowed))})"
            for key, allowed in self.expected.items()
            if found[key] not in allowed and (key[0] or key in found)  # converted data has no raw files
        ]
        if wrong:
            msg = (
                f"{where} is not the whole dataset: {', '.join(wrong)}. Probably its archive was extracted only in "
                "part: extract it again. If you mean to use a part of the dataset, turn the check off: "
                "check_counts=False, or --no_check_counts for `anomalib-inctrl convert`."
            )
            raise DatasetError(msg)


def one_vs_all(labels: tuple[str, ...], group: str, members: tuple[str, ...]) -> dict[str, Any]:
    """Fields of the card of a dataset of image classes: each is normal in turn; in one more category, a group is."""
    normal = {**{label: (label,) for label in labels}, group: members}
    return {"categories": tuple(normal), "default_categories": labels, "normal_labels": normal}


@dataclass(frozen=True)
class Record:
    """One image of a dataset: a raw file or a part of one.

    Attributes:
        category: Its folder in the converted layout.
        split: ``train``, ``test``, or empty until it is split.
        label: ``good``, a kind of defect, or what the image shows.
        name: File name in the converted layout, without suffix.
        source: Raw file, relative to the folder of the raw data.
        part: Box in the raw image (left, top, right, bottom), or index in a raw file of many; empty for a whole file.
        masks: Raw mask files; their union counts.
    """

    category: str
    split: str
    label: str
    name: str
    source: str
    part: tuple[int, ...] = ()
    masks: tuple[str, ...] = ()

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Path, split, label, category and origin in the converted layout of the image and, if it has one, its mask."""
        part = "#" + ",".join(map(str, self.part)) if self.part else ""
        path = f"{self.category}/{self.split}/{self.label}/{self.name}.png"
        rows = [(path, self.split, self.label, self.category, self.source + part)]
        if self.masks:
            path = f"{self.category}/{GROUND_TRUTH}/{self.label}/{self.name}_mask.png"
            rows.append((path, GROUND_TRUTH, self.label, self.category, "+".join(self.masks) + part))
        return rows


@dataclass(frozen=True)
class Scan:
    """The images found in a folder of raw data.

    Attributes:
        card: Card of the dataset.
        base: Folder that the records' sources are relative to.
        records: The images, split and sorted.
        notes: What the user should know, such as images that were left out.
        file_counts: Counts of raw files by the keys of the card's ``expected``.
        arrays: Images ``(N, H, W)`` or ``(N, H, W, 3)`` uint8 by source, for sources that hold many.
    """

    card: DatasetCard
    base: Path
    records: list[Record]
    notes: list[str] = field(default_factory=list)
    file_counts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)


def scan_arrays(
    card: DatasetCard,
    base: Path,
    labels: Sequence[str],
    splits: Mapping[str, tuple[str, NDArray[np.uint8], Sequence[int]]],
) -> Scan:
    """List images ``(N, H, W)`` or ``(N, H, W, 3)`` that come in arrays.

    Each split has its source, its images and their target numbers, which index ``labels``.
    """
    records = [
        Record(card.folder, split, labels[target], f"{index:05}", source, (index,))
        for split, (source, pixels, targets) in splits.items()
        for index, (_, target) in enumerate(zip(pixels, targets, strict=True))
    ]
    return Scan(card, base, records, arrays={source: pixels for source, pixels, _ in splits.values()})


def scan_torchvision(card: DatasetCard, root: Path, reader: Any, folder: str, sources: tuple[str, str]) -> Scan:
    """List the images of a dataset that torchvision reads; its categories are the labels of the targets 0, 1, ...

    ``root`` is the folder to give to torchvision or ``folder``, the one below it. ``sources`` are those of the train
    and test images.

    Raises:
        DatasetError: If files are missing or damaged.
    """
    base = root.parent if root.name == folder and not (root / folder).is_dir() else root
    try:
        data = [reader(base, train=train, download=False) for train in (True, False)]
        splits = {
            split: (source, np.asarray(part.data), [int(target) for target in part.targets])
            for split, source, part in zip(("train", "test"), sources, data, strict=True)
        }
        return scan_arrays(card, base, card.default_categories, splits)
    except (RuntimeError, ValueError, AssertionError, OSError) as error:
        reason = str(error).partition(" You can use download")[0]  # which these datamodules do not
        raise card.missing(base, f"files below {folder} are missing or damaged ({reason})") from error


def cut_image(
    base: Path, path: Path, boxes: Iterable[Box], category: str, label: str, name: str, masks: Sequence[Path] = ()
) -> list[Record]:
    """Cut an image; a part has the label if the union of the masks is not empty there, otherwise it is ``good``."""
    source, *names = (file.relative_to(base).as_posix() for file in (path, *masks))
    union = read_masks(base, names, image_size(path)) if names else None
    records = []
    for number, box in enumerate(boxes):
        record = Record(category, "", GOOD, f"{name}_{number:02}", source, box)
        if union is not None and union.crop(box).getbbox():
            record = replace(record, split="test", label=label, masks=tuple(names))
        records.append(record)
    return records


def read_masks(base: Path, masks: Sequence[str], size: tuple[int, int] | None = None) -> Image.Image:
    """Read the union of mask files below a folder: mode ``L``, 255 where any of them is not 0.

    Raises:
        DatasetError: If a mask does not have the given height and width.
    """
    parts = [open_image(base / name).convert("L").point(lambda value: 255 * (value > 0)) for name in masks]
    for name, part in zip(masks, parts, strict=True):
        if size is not None and part.size != size[::-1]:
            msg = (
                f"{base / name} is {part.height} x {part.width} pixels (height x width), its image {size[0]} x "
                f"{size[1]}. Extract both from the dataset's archive again."
            )
            raise DatasetError(msg)
    return reduce(ImageChops.lighter, parts)


def find_folder(root: Path, places: Iterable[str], *names: str) -> Path | None:
    """The first of these places below root that holds all these files or folders."""
    return next((root / place for place in places if all((root / place / name).exists() for name in names)), None)


def read_labels(path: Path, types: Mapping[str, type], **options: Any) -> pd.DataFrame:
    """Read the columns named in ``types`` from a list of labels; a ``DatasetError`` names a file without them."""
    try:
        return pd.read_csv(path, **options)[list(types)].astype(types)
    except (ValueError, KeyError) as error:
        msg = f"{path}: not a table with the columns {', '.join(types)} ({error}). Fetch it again."
        raise DatasetError(msg) from error


def image_files(folder: Path) -> list[Path]:
    """Image files in a folder and below, sorted, without hidden files such as macOS adds."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    return sorted(path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def natural_key(text: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sorting key by which numbers count as numbers: ``Part2`` comes before ``Part10``, on every machine."""
    parts = re.split(r"(\d+)", text.casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part], text


def split_records(records: Iterable[Record], name: str) -> list[Record]:
    """Split the normal images by the authors' rule, and sort all by their path in the converted layout.

    Of the images without a split three quarters go into the train split. The authors draw at random (scikit-learn, seed
    42), but from a list in the order of the file system, so that their exact splits cannot be recovered. Here the list
    is sorted by origin first. Images that would get the same name, such as ``1.jpg`` and ``1.JPEG``, also where case
    alone differs, are numbered.

    Raises:
        DatasetError: If there is a single image to split; names the dataset.
    """
    ordered = sorted(records, key=lambda record: natural_key(record.rows()[0][-1]))
    unsplit = [record for record in ordered if not record.split]
    if len(unsplit) == 1:
        msg = f"{name}: a single normal image cannot be split into train and test. At least two are needed."
        raise DatasetError(msg)
    train = train_test_split(unsplit, test_size=_TEST_SHARE, random_state=_SPLIT_SEED)[0] if unsplit else []
    drawn = dict.fromkeys(train, "train")
    unique: dict[str, Record] = {}
    for record in ordered:
        split = replace(record, split=record.split or drawn.get(record, "test"))
        candidate, number = split, 1
        while (path := candidate.rows()[0][0].casefold()) in unique:
            number += 1
            candidate = replace(split, name=f"{record.name}_{number}")
        unique[path] = candidate
    return sorted(unique.values(), key=lambda record: natural_key(record.rows()[0][0]))


def safe_path(name: str) -> PurePosixPath | None:
    """Take a relative path from a file that came with data; None if it could lead out of its folder."""
    path = PurePosixPath(name)
    bad = not name or path.is_absolute() or ".." in path.parts or any(sign in name for sign in ("\\", ":", "\0"))
    return None if bad else path
