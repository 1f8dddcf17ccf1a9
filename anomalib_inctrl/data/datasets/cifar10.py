# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10, as torchvision reads it."""

from pathlib import Path

from torchvision import datasets

from anomalib_inctrl.data.datasets.base import BenchmarkDataModule
from anomalib_inctrl.data.datasets.records import DatasetCard, Scan, one_vs_all, scan_torchvision

_OBJECTS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class CIFAR10(BenchmarkDataModule):
    """CIFAR-10: ten classes of natural images, 32 x 32 pixels; one-vs-all and multi-class, with image labels.

    For the categories ``airplane`` to ``truck`` one class is normal and the others are abnormal; for ``animal`` the six
    animals are normal. Prompts come from the normal images of the usual train split, the usual test split is used for
    testing. Images are stored once for all categories, labelled by what they show.

    The raw files are pickles, which could run code when read. Only files with torchvision's checksums are.

    Licence, source and citation: see ``card``; or ``torchvision.datasets.CIFAR10(root, download=True)``. For the
    arguments see :class:`BenchmarkDataModule`.
    """

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
        **one_vs_all(_OBJECTS, "animal", ("bird", "cat", "deer", "dog", "frog", "horse")),
        folder="objects",
        expected={(split, name): (n,) for split, n in (("train", 5000), ("test", 1000)) for name in _OBJECTS},
    )

    @classmethod
    def _scan(cls, root: Path) -> Scan:
        folder = datasets.CIFAR10.base_folder
        return scan_torchvision(cls.card, root, datasets.CIFAR10, folder, (folder, f"{folder}/test_batch"))
