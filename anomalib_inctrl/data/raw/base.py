# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What a dataset is as its authors hand it out: where its files lie, what they show, how they are split."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.model_selection import train_test_split

from anomalib_inctrl.errors import DatasetError, ImageFileError
from anomalib_inctrl.io.images import FORMATS, IMAGE_SUFFIXES, UNREADABLE

GOOD = "good"
ABNORMAL = "abnormal"
"""In counts: every label but ``good`` together."""

_TEST_SHARE, _SPLIT_SEED = 0.25, 42  # the authors' values
_ARCHIVES = (".zip", ".7z", ".rar", ".gz", ".tar", ".tgz", ".xz")


@dataclass(frozen=True)
class DatasetCard:
    """What is to be known of a dataset before it is used.

    Attributes:
        name: Short name; the datamodule and the argument of ``anomalib-inctrl convert`` are called so.
        title: Full name.
        task: ``"segmentation"`` where there are masks, otherwise ``"classification"``.
        licence: Licence of the images, or that none is stated.
        homepage: Where to get it.
        citation: Publication to cite.
        layout: How its files must lie below the root.
        categories: Categories a datamodule takes; they are the class names in text prompts as well.
        default_categories: Those that stand for the whole dataset where none are named.
        folders: Folder of a category in the converted layout, where it is not the category itself.
        expected: Allowed numbers of images by split and label (``abnormal``: all labels but ``good``).
    """

    name: str
    title: str
    task: str
    licence: str
    homepage: str
    citation: str
    layout: str
    categories: tuple[str, ...]
    default_categories: tuple[str, ...]
    expected: Mapping[tuple[str, str], tuple[int, ...]]
    folders: Mapping[str, str] = field(default_factory=dict)

    def folder(self, category: str) -> str:
        """Folder of a category in the converted layout."""
        return self.folders.get(category, category)


@dataclass(frozen=True)
class Record:
    """One picture of a dataset as it is used: a raw file or a part of one.

    Attributes:
        category: Its folder in the converted layout.
        split: ``train``, ``test``, or empty until it is split.
        label: ``good``, a kind of defect, or what it shows.
        name: File name in the converted layout, without ending.
        source: Raw file, relative to the folder of the raw data.
        box: Part of the raw picture (left, top, right, bottom); all of it if None.
        index: Number of the picture within the raw file, for files that hold many.
        masks: Raw mask files; their union counts.
    """

    category: str
    split: str
    label: str
    name: str
    source: str
    box: tuple[int, int, int, int] | None = None
    index: int | None = None
    masks: tuple[str, ...] = ()

    @property
    def origin(self) -> str:
        """Source with the part taken: ``file``, ``file#number`` or ``file#left,top,right,bottom``."""
        part = ",".join(map(str, self.box)) if self.box else self.index
        return self.source if part is None else f"{self.source}#{part}"

    @property
    def path(self) -> str:
        """Path of the picture in the converted layout."""
        return f"{self.category}/{self.split}/{self.label}/{self.name}.png"

    @property
    def mask_path(self) -> str:
        """Path of its mask in the converted layout; empty if it has none."""
        return f"{self.category}/ground_truth/{self.label}/{self.name}_mask.png" if self.masks else ""


@dataclass(frozen=True)
class Scan:
    """What was found in a folder of raw data.

    Attributes:
        base: Folder that the records' sources are relative to.
        records: The pictures, split and sorted.
        notes: What the user should know, such as pictures that had to be left out.
    """

    base: Path
    records: list[Record]
    notes: list[str]


class RawDataset(ABC):
    """Reads one dataset as its authors hand it out. It writes nothing and downloads nothing.

    Attributes:
        card: What is to be known of the dataset.
        in_place: Whether its pictures can be used as they lie, without conversion.
    """

    card: ClassVar[DatasetCard]
    in_place: ClassVar[bool] = False

    def scan(self, root: str | Path, *, check_counts: bool = True) -> Scan:
        """List the pictures of the dataset, sorted and split.

        Args:
            root: Folder of the raw data.
            check_counts: Whether all pictures of the dataset must be there.

        Returns:
            The pictures.

        Raises:
            DatasetError: If the data is missing, extracted in part, inconsistent, or its counts are not as expected.
        """
        root = Path(root)
        if not root.is_dir():
            raise self.missing(root, "there is no such folder")
        found = self._scan(root, check_counts=check_counts)
        records = sorted(_unique_names(found.records), key=lambda record: natural_key(record.path))
        if check_counts:
            self.check(f"{self.card.name} in {root}", Counter((record.split, record.label) for record in records))
        return replace(found, records=records)

    @abstractmethod
    def _scan(self, root: Path, *, check_counts: bool) -> Scan:
        """See :meth:`scan`; root exists."""

    def read(self, base: Path, record: Record) -> Image.Image:
        """Read the picture of a record, in the raw file's own mode.

        Args:
            base: Folder that sources are relative to.
            record: The picture.

        Returns:
            The picture, or the part of it that the record stands for.

        Raises:
            ImageFileError: If the raw file cannot be read.
        """
        image = open_image(base / record.source)
        return image.crop(record.box) if record.box else image

    def read_mask(self, base: Path, record: Record) -> Image.Image:
        """Read the mask of a record that has one: 255 where any of its mask files is not 0."""
        return Image.fromarray(crop(read_masks(base, record.masks), record.box).astype(np.uint8) * 255)

    def is_normal(self, category: str, label: str) -> bool:
        """Whether pictures of a label are normal for a category."""
        del category
        return label == GOOD

    def check(self, where: str, counts: Mapping[tuple[str, str], int]) -> None:
        """Compare counts with those of the whole dataset.

        Args:
            where: What is counted, for the error.
            counts: Number of pictures by split and label.

        Raises:
            DatasetError: If they differ; the message names each difference.
        """

        def count(split: str, label: str) -> int:
            if label != ABNORMAL:
                return counts.get((split, label), 0)
            return sum(number for (part, kind), number in counts.items() if part == split and kind != GOOD)

        self._compare(where, {" ".join(key): (count(*key), allowed) for key, allowed in self.card.expected.items()})

    @staticmethod
    def _compare(where: str, counts: Mapping[str, tuple[int, tuple[int, ...]]]) -> None:
        wrong = [
            f"{count} {what} (expected {' or '.join(map(str, allowed))})"
            for what, (count, allowed) in counts.items()
            if count not in allowed
        ]
        if wrong:
            msg = (
                f"{where} is not the whole dataset: {', '.join(wrong)}. Probably its archive was extracted only in "
                "part: extract it again. If you mean to use a part of the dataset, turn the check off: "
                "check_counts=False, or --no_check_counts for `anomalib-inctrl convert`."
            )
            raise DatasetError(msg)

    def missing(self, root: Path, found: str) -> DatasetError:
        """The error for data that is not there or not all there; names the remedy.

        Args:
            root: Folder that was searched.
            found: What was found instead.

        Returns:
            An error to raise.
        """
        archives = sorted(path.name for path in _children(root) if path.suffix.lower() in _ARCHIVES)
        remedy = (
            f"Extract {', '.join(archives)} there, so that the files lie like this"
            if archives
            else f"Get the dataset from {self.card.homepage} and let its files lie like this, or correct root"
        )
        return DatasetError(f"{self.card.name} in {root}: {found}. {remedy}:\n{self.card.layout}")


def natural_key(text: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sorting key by which numbers count as numbers: ``Part2`` comes before ``Part10``, on every machine."""
    parts = re.split(r"(\d+)", text.casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part], text


def image_files(folder: Path) -> list[Path]:
    """Image files in a folder and below, in natural order; hidden files, such as macOS adds them, are left out."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    visible = (path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    return sorted(visible, key=lambda path: natural_key(path.relative_to(folder).as_posix()))


def split_normals(records: Sequence[Record], name: str) -> list[Record]:
    """Put three quarters of the normal pictures into the train split, by the authors' rule.

    They draw a quarter at random (scikit-learn, seed 42), but from a list in the order of the file system, so that
    their exact splits cannot be recovered. Here the list is sorted first.

    Args:
        records: Normal pictures.
        name: Name of the dataset, for errors.

    Returns:
        The records with their split, in natural order of their origin.

    Raises:
        DatasetError: If there are fewer than two.
    """
    if len(records) < 2:
        msg = f"{name}: {len(records)} normal pictures cannot be split into train and test. At least two are needed."
        raise DatasetError(msg)
    ordered = sorted(records, key=lambda record: natural_key(record.origin))
    _, tested = train_test_split(range(len(ordered)), test_size=_TEST_SHARE, random_state=_SPLIT_SEED)
    test = set(tested)
    return [replace(record, split="test" if at in test else "train") for at, record in enumerate(ordered)]


def safe_path(name: str) -> PurePosixPath | None:
    """Take a relative path from a file that came with data; None if it could lead out of its folder."""
    path = PurePosixPath(name)
    bad = not name or path.is_absolute() or ".." in path.parts or any(sign in name for sign in ("\\", ":", "\0"))
    return None if bad else path


def open_image(path: Path) -> Image.Image:
    """Read an image file in its own mode. Not to be changed: it is shared.

    Raises:
        ImageFileError: If it is missing, truncated or no image.
    """
    try:
        status = path.stat()
        return _open_image(path, status.st_mtime_ns, status.st_size)
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


# The parts of a picture are asked for one by one; the stamp tells a changed file apart.
@lru_cache(maxsize=16)
def _open_image(path: Path, *_stamp: int) -> Image.Image:
    with Image.open(path, formats=FORMATS) as image:
        image.load()
        return image.copy()


def _unreadable(path: Path, error: Exception) -> ImageFileError:
    return ImageFileError(f"{path}: not readable as an image ({error}). Extract it from the dataset's archive again.")


def read_masks(base: Path, masks: Sequence[str], size: tuple[int, int] | None = None) -> npt.NDArray[np.bool_]:
    """Read the union of mask files.

    Args:
        base: Folder that names are relative to.
        masks: Mask files, at least one.
        size: Width and height they must have.

    Returns:
        ``(H, W)``, true where any of them is not 0.

    Raises:
        DatasetError: If a mask is not as large as its picture.
    """
    parts = []
    for name in masks:
        mask = open_image(base / name).convert("L")
        size = size or mask.size
        if mask.size != size:
            msg = (
                f"{base / name} is {mask.width} x {mask.height} pixels, its picture {size[0]} x {size[1]} (width x "
                "height). Extract both from the dataset's archive again."
            )
            raise DatasetError(msg)
        parts.append(np.asarray(mask) > 0)
    union: npt.NDArray[np.bool_] = np.logical_or.reduce(parts)
    return union


def crop(pixels: npt.NDArray[np.bool_], box: tuple[int, int, int, int] | None) -> npt.NDArray[np.bool_]:
    """Part of a mask; box as in :class:`Record`."""
    if box is None:
        return pixels
    left, top, right, bottom = box
    return pixels[top:bottom, left:right]


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image file, from its header.

    Raises:
        ImageFileError: If it is no image.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.size
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def _children(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _unique_names(records: Sequence[Record]) -> list[Record]:
    """Tell pictures apart that would get the same name, such as ``1.jpg`` and ``1.JPEG``, by ending or number.

    Names that differ in case alone count as the same, since on many file systems they are.
    """
    uses = Counter(record.path.casefold() for record in records)
    taken: set[str] = set()
    unique = []
    for record in records:
        candidate, number = record, 1
        if uses[record.path.casefold()] > 1:
            ending = PurePosixPath(record.source).suffix.lstrip(".").lower()
            candidate = replace(record, name=f"{record.name}_{ending}")
            while candidate.path.casefold() in taken:
                number += 1
                candidate = replace(record, name=f"{record.name}_{ending}_{number}")
        taken.add(candidate.path.casefold())
        unique.append(candidate)
    return unique
