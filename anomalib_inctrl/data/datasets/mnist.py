# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""MNIST, as torchvision reads it."""

from pathlib import Path

from torchvision import datasets

from anomalib_inctrl.data.datasets.base import BenchmarkDataModule
from anomalib_inctrl.data.datasets.records import DIGITS, DatasetCard, Scan, one_vs_all, scan_torchvision

_TRAIN_COUNTS = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
_TEST_COUNTS = (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)


class MNIST(BenchmarkDataModule):
    """MNIST: handwritten digits, 28 x 28 pixels, grey; one-vs-all and multi-class, with image labels.

    For the categories ``digit_0`` to ``digit_9`` one digit is normal and the others are abnormal; for ``even_digit``
    the even ones are normal. Prompts come from the normal images of the usual train split, the usual test split is
    used for testing. Images are stored once for all categories, labelled by what they show.

    Licence, source and citation: see ``card``; or ``torchvision.datasets.MNIST(root, download=True)``. For the
    arguments see :class:`BenchmarkDataModule`.
    """

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
        **one_vs_all(DIGITS, "even_digit", DIGITS[::2]),
        folder="digits",
        expected={
            **{("train", digit): (count,) for digit, count in zip(DIGITS, _TRAIN_COUNTS, strict=True)},
            **{("test", digit): (count,) for digit, count in zip(DIGITS, _TEST_COUNTS, strict=True)},
        },
    )

    @classmethod
    def _scan(cls, root: Path) -> Scan:
        sources = ("MNIST/raw/train-images-idx3-ubyte", "MNIST/raw/t10k-images-idx3-ubyte")
        return scan_torchvision(cls.card, root, datasets.MNIST, "MNIST", sources)
