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
from torchvision.datasets.utils import check_integrity

from anomalib_inctrl.errors import DatasetError
from anomalib_inctrl.io.images import IMAGE_SUFFIXES, image_size, open_image

GOOD = "good"
ABNORMAL = "abnormal"
"""In counts: all labels but ``good`` together."""

DIGITS = tuple(f"digit_{digit}" for digit in range(10))

_TEST_SHARE, _SPLIT_SEED = 0.25, 42  # the authors' values
_ARCHIVES = (".zip", ".7z", ".rar", ".gz", ".tar", ".tgz", ".xz")

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
        files = (path for place in ("*", "*/raw/*") for path in root.glob(place))
        archives = sorted(path.name for path in files if path.suffix.lower() in _ARCHIVES)
        remedy = (
            f"Extract {', '.join(archives)} there, so that the files lie like this"
            if archives
            else f"Get the dataset from {self.homepage} and arrange its files like this, or correct root"
        )
        return DatasetError(f"{self.name} in {root}: {found}. {remedy}:\n{self.layout}")

    def check_counts(self, where: str, counts: Mapping[tuple[str, str], int]) -> None:
        """Compare counts by split and label with those of the complete dataset.

        Raises:
            DatasetError: If they differ; the message names each difference.
        """
        found = Counter(counts)
        for (split, label), number in counts.items():
            if split and label != GOOD:
                found[split, ABNORMAL] += number
        wrong = [
            f"{found[key]} {' '.join(filter(None, key))} (expected {' or '.join(map(str, allowed))})"
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
        box: Part of the raw image (left, top, right, bottom); the whole image if None.
        index: Index of the image within the raw file, for files that hold many.
        masks: Raw mask files; their union counts.
    """

    category: str
    split: str
    label: str
    name: str
    source: str
    box: Box | None = None
    index: int | None = None
    masks: tuple[str, ...] = ()

    @property
    def origin(self) -> str:
        """Source with the part taken: ``file``, ``file#index`` or ``file#left,top,right,bottom``."""
        part = ",".join(map(str, self.box)) if self.box else self.index
        return self.source if part is None else f"{self.source}#{part}"

    @property
    def path(self) -> str:
        """Path of the image in the converted layout."""
        return f"{self.category}/{self.split}/{self.label}/{self.name}.png"

    @property
    def mask_path(self) -> str:
        """Path of its mask in the converted layout; empty if it has none."""
        return f"{self.category}/ground_truth/{self.label}/{self.name}_mask.png" if self.masks else ""


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

    def read(self, record: Record) -> Image.Image:
        """Read the raw image of a record, uncropped and in its own mode; an ``ImageFileError`` names its file."""
        if record.index is not None:
            return Image.fromarray(self.arrays[record.source][record.index])
        return open_image(self.base / record.source)


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
        Record(card.folder, split, labels[target], f"{index:05}", source, index=index)
        for split, (source, _, targets) in splits.items()
        for index, target in enumerate(targets)
    ]
    return Scan(card, base, records, arrays={source: pixels for source, pixels, _ in splits.values()})


def scan_torchvision(
    card: DatasetCard,
    root: Path,
    reader: Any,
    files: Mapping[str, str | None],
    sources: tuple[str, str],
) -> Scan:
    """List the images of a dataset that torchvision reads; its categories are the labels of the targets 0, 1, ...

    ``root`` is the folder to give to torchvision or the first folder below it. ``files`` must be present, with their
    MD5 where it is to be checked, and ``sources`` are those of the train and test images.

    Raises:
        DatasetError: If files are missing or damaged.
    """
    first = next(iter(files))
    base = root.parent if root.name == Path(first).parts[0] and not (root / first).is_file() else root
    for name, md5 in files.items():
        if not (base / name).is_file():
            raise card.missing(base, f"there is no {name}")
        if md5 and not check_integrity(base / name, md5):
            raise card.missing(base, f"{name} is damaged or not {card.name}'s: its MD5 differs")
    splits = {}
    for split, source in zip(("train", "test"), sources, strict=True):
        try:
            data = reader(base, train=split == "train", download=False)
            if len(data.data) != len(data.targets):
                msg = f"{len(data.data)} images, {len(data.targets)} labels"
                raise ValueError(msg)
        except (RuntimeError, ValueError, AssertionError, OSError) as error:
            raise card.missing(base, f"{source} or its labels are damaged ({error})") from error
        splits[split] = source, np.asarray(data.data), [int(target) for target in data.targets]
    return scan_arrays(card, base, card.default_categories, splits)


def cut_image(
    base: Path,
    path: Path,
    boxes: Sequence[Box],
    category: str,
    label: str,
    name: str,
    masks: Sequence[Path] = (),
) -> list[Record]:
    """Cut an image; a part has the label if the union of the masks is not empty there, otherwise it is ``good``."""
    names = tuple(file.relative_to(base).as_posix() for file in masks)
    union = read_masks(base, names, image_size(path)) if names else None
    abnormal = [union is not None and union.crop(box).getbbox() is not None for box in boxes]
    return [
        Record(
            category=category,
            split="test" if abnormal[number] else "",
            label=label if abnormal[number] else GOOD,
            name=f"{name}_{number:02}",
            source=path.relative_to(base).as_posix(),
            box=box,
            masks=names if abnormal[number] else (),
        )
        for number, box in enumerate(boxes)
    ]


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


def natural_key(text: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sorting key by which numbers count as numbers: ``Part2`` comes before ``Part10``, on every machine."""
    parts = re.split(r"(\d+)", text.casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part], text


def image_files(folder: Path) -> list[Path]:
    """Image files in a folder and below, in natural order, without hidden files such as macOS adds."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    visible = (path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    return sorted(visible, key=lambda path: natural_key(path.relative_to(folder).as_posix()))


def split_normals(records: Iterable[Record], name: str) -> list[Record]:
    """Put three quarters of the images without a split, the normal ones, into the train split, by the authors' rule.

    They draw a quarter at random (scikit-learn, seed 42), but from a list in the order of the file system, so that
    their exact splits cannot be recovered. Here the list is sorted first; the records come in natural order of origin.

    Raises:
        DatasetError: If there is a single image to split; names the dataset.
    """
    ordered = sorted(records, key=lambda record: natural_key(record.origin))
    unsplit = [record for record in ordered if not record.split]
    if len(unsplit) == 1:
        msg = f"{name}: a single normal image cannot be split into train and test. At least two are needed."
        raise DatasetError(msg)
    train = train_test_split(unsplit, test_size=_TEST_SHARE, random_state=_SPLIT_SEED)[0] if unsplit else []
    split = dict.fromkeys(train, "train")
    return [replace(record, split=record.split or split.get(record, "test")) for record in ordered]


def unique_names(records: Iterable[Record]) -> list[Record]:
    """Number images that would get the same name, such as ``1.jpg`` and ``1.JPEG``, also where case alone differs."""
    unique: dict[str, Record] = {}
    for record in records:
        candidate, number = record, 1
        while candidate.path.casefold() in unique:
            number += 1
            candidate = replace(record, name=f"{record.name}_{number}")
        unique[candidate.path.casefold()] = candidate
    return list(unique.values())


def safe_path(name: str) -> PurePosixPath | None:
    """Take a relative path from a file that came with data; None if it could lead out of its folder."""
    path = PurePosixPath(name)
    bad = not name or path.is_absolute() or ".." in path.parts or any(sign in name for sign in ("\\", ":", "\0"))
    return None if bad else path


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
