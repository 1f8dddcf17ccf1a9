# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Raw data of MNIST and CIFAR-10, as torchvision's readers take it.

What is normal depends on the category: in one-vs-all one class, in the multi-class setting about half of them. So
pictures are labelled by what they show and stored once for all categories; the usual test split stays the test split.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image
from torchvision.datasets import CIFAR10, MNIST
from torchvision.datasets.utils import check_integrity

from anomalib_inctrl.data.raw.base import DatasetCard, RawDataset, Record, Scan

_SPLITS = {"train": True, "test": False}


class SemanticDataset(RawDataset):
    """Pictures that come in arrays, labelled by what they show.

    Attributes:
        labels: What the classes are called, in torchvision's order.
        normal: Normal labels of the multi-class category; every other category is its own normal label.
    """

    labels: ClassVar[tuple[str, ...]]
    normal: ClassVar[Mapping[str, frozenset[str]]]
    _folder: ClassVar[str]

    def is_normal(self, category: str, label: str) -> bool:
        """Whether a label is among the normal ones of the category."""
        return label in self.normal.get(category, {category})

    def read(self, base: Path, record: Record) -> Image.Image:
        """Take the picture of a record from its array."""
        pixels, _ = self._arrays(base, record.split)
        return Image.fromarray(pixels[record.index])

    def _scan(self, root: Path, *, check_counts: bool) -> Scan:
        del check_counts  # the counts of the labels tell
        base = self._find(root)
        records = []
        for split in _SPLITS:
            _, targets = self._arrays(base, split)
            for index, target in enumerate(targets):
                records.append(
                    Record(
                        category=self._folder,
                        split=split,
                        label=self.labels[target],
                        name=f"{index:05}",
                        source=self._source(split),
                        index=index,
                    )
                )
        return Scan(base, records, [])

    @abstractmethod
    def _find(self, root: Path) -> Path:
        """Find torchvision's root, whole."""

    @abstractmethod
    def _source(self, split: str) -> str:
        """Raw file or folder of a split, relative to torchvision's root."""

    @abstractmethod
    def _arrays(self, base: Path, split: str) -> tuple[npt.NDArray[np.uint8], list[int]]:
        """Pictures ``(N, H, W)`` or ``(N, H, W, 3)`` and class numbers of a split."""


DIGITS = tuple(f"digit_{digit}" for digit in range(10))


class RawMNIST(SemanticDataset):
    """MNIST: handwritten digits, 28 x 28 pixels, grey."""

    labels = DIGITS
    normal = {"even_digit": frozenset(DIGITS[::2])}  # noqa: RUF012
    _folder = "digits"
    card = DatasetCard(
        name="MNIST",
        title="MNIST handwritten digits",
        task="classification",
        licence="CC BY-SA 3.0",
        homepage="http://yann.lecun.com/exdb/mnist/",
        citation=(
            "Y. LeCun, L. Bottou, Y. Bengio, P. Haffner: Gradient-Based Learning Applied to Document Recognition. "
            "Proceedings of the IEEE 86(11):2278-2324, 1998."
        ),
        layout=(
            "  MNIST/raw/train-images-idx3-ubyte     (extracted from the .gz)\n"
            "  MNIST/raw/train-labels-idx1-ubyte\n"
            "  MNIST/raw/t10k-images-idx3-ubyte\n"
            "  MNIST/raw/t10k-labels-idx1-ubyte"
        ),
        categories=(*DIGITS, "even_digit"),
        default_categories=DIGITS,
        folders=dict.fromkeys((*DIGITS, "even_digit"), "digits"),
        expected={
            **{
                ("train", f"digit_{digit}"): (count,)
                for digit, count in enumerate((5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949))
            },
            **{
                ("test", f"digit_{digit}"): (count,)
                for digit, count in enumerate((980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009))
            },
        },
    )

    def _find(self, root: Path) -> Path:
        base = root.parent if root.name == "MNIST" and (root / "raw").is_dir() else root
        raw = base / "MNIST" / "raw"
        names = [Path(url).stem for url, _ in MNIST.resources]
        for name in names:
            if not (raw / name).is_file():
                packed = (raw / f"{name}.gz").is_file()
                found = f"MNIST/raw/{name}.gz is not extracted" if packed else f"there is no MNIST/raw/{name}"
                raise self.missing(raw if packed else root, found)
        return base

    def _source(self, split: str) -> str:
        return f"MNIST/raw/{'train' if split == 'train' else 't10k'}-images-idx3-ubyte"

    def _arrays(self, base: Path, split: str) -> tuple[npt.NDArray[np.uint8], list[int]]:
        try:
            return _read_mnist(base.resolve(), split, (base / self._source(split)).stat().st_mtime_ns)
        except (RuntimeError, ValueError, AssertionError, OSError) as error:
            raise self.missing(base, f"{self._source(split)} or its labels are damaged ({error})") from error


_OBJECTS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_ANIMALS = frozenset({"bird", "cat", "deer", "dog", "frog", "horse"})


class RawCIFAR10(SemanticDataset):
    """CIFAR-10: ten classes of natural images, 32 x 32 pixels.

    The raw files are pickles, which could run code when read. Only files with torchvision's checksums are.
    """

    labels = _OBJECTS
    normal = {"animal": _ANIMALS}  # noqa: RUF012
    _folder = "objects"
    card = DatasetCard(
        name="CIFAR10",
        title="CIFAR-10",
        task="classification",
        licence="not stated",
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        citation="A. Krizhevsky: Learning Multiple Layers of Features from Tiny Images. University of Toronto, 2009.",
        layout=(
            "  cifar-10-batches-py/batches.meta     (extracted from cifar-10-python.tar.gz)\n"
            "  cifar-10-batches-py/data_batch_1 ... data_batch_5\n"
            "  cifar-10-batches-py/test_batch"
        ),
        categories=(*_OBJECTS, "animal"),
        default_categories=_OBJECTS,
        folders=dict.fromkeys((*_OBJECTS, "animal"), "objects"),
        expected={
            **{("train", name): (5000,) for name in _OBJECTS},
            **{("test", name): (1000,) for name in _OBJECTS},
        },
    )

    def _find(self, root: Path) -> Path:
        base = root.parent if root.name == CIFAR10.base_folder else root
        checksums = [*CIFAR10.train_list, *CIFAR10.test_list, [CIFAR10.meta["filename"], CIFAR10.meta["md5"]]]
        for name, checksum in checksums:
            path = base / CIFAR10.base_folder / name
            if not path.is_file():
                raise self.missing(root, f"there is no {CIFAR10.base_folder}/{name}")
            if not check_integrity(path, checksum):
                raise self.missing(root, f"{CIFAR10.base_folder}/{name} is damaged or not CIFAR-10's: its MD5 differs")
        return base

    def _source(self, split: str) -> str:
        return CIFAR10.base_folder if split == "train" else f"{CIFAR10.base_folder}/test_batch"

    def _arrays(self, base: Path, split: str) -> tuple[npt.NDArray[np.uint8], list[int]]:
        stamp = (base / CIFAR10.base_folder / "test_batch").stat().st_mtime_ns
        return _read_cifar10(base.resolve(), split, stamp)


# A split is read once although its pictures are asked for one by one; the time stamp tells changed files apart.
@lru_cache(maxsize=2)
def _read_mnist(base: Path, split: str, _stamp: int) -> tuple[npt.NDArray[np.uint8], list[int]]:
    dataset = MNIST(str(base), train=_SPLITS[split], download=False)
    if len(dataset.data) != len(dataset.targets):
        msg = f"{len(dataset.data)} pictures, {len(dataset.targets)} labels"
        raise ValueError(msg)
    return dataset.data.numpy(), [int(target) for target in dataset.targets]


@lru_cache(maxsize=2)
def _read_cifar10(base: Path, split: str, _stamp: int) -> tuple[npt.NDArray[np.uint8], list[int]]:
    dataset = CIFAR10(str(base), train=_SPLITS[split], download=False)
    return dataset.data, [int(target) for target in dataset.targets]
