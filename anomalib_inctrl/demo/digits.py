# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Real handwriting that comes with scikit-learn, as a semantic target that needs no download."""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from anomalib_inctrl.data.datasets.base import BenchmarkDataModule
from anomalib_inctrl.data.datasets.converted import is_converted, write_converted
from anomalib_inctrl.data.datasets.records import DIGITS, DatasetCard, Scan, one_vs_all, scan_arrays

_EVERY = 6  # one image of so many is for testing
_STRETCH = 255 / 16  # they have 17 levels


class ScikitDigits(BenchmarkDataModule):
    """The digits of scikit-learn: handwritten, 8 x 8 pixels, grey; one-vs-all and multi-class, with image labels.

    For the categories ``digit_0`` to ``digit_9`` one digit is normal and the others are abnormal; for ``even_digit``
    the even ones are normal. Every sixth image is for testing. `prepare_data` writes the images in their own size to
    `root`, ``./datasets/ScikitDigits`` if not given. For the arguments see :class:`BenchmarkDataModule`.

    A stand-in for :class:`anomalib_inctrl.data.MNIST` where nothing can be downloaded; it is in no paper. Licence,
    source and citation: see ``card``.
    """

    card = DatasetCard(
        name="ScikitDigits",
        title="Optical recognition of handwritten digits, the test set that comes with scikit-learn",
        task="classification",
        licence="CC BY 4.0",
        homepage="https://archive.ics.uci.edu/dataset/80",
        citation=(
            "E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits. UCI Machine Learning Repository, 1998."
        ),
        layout="  (nothing: scikit-learn contains the images)",
        **one_vs_all(DIGITS, "even_digit", DIGITS[::2]),
        folder="digits",
        expected={},
    )

    @classmethod
    def _scan(cls, root: Path) -> Scan:
        digits = load_digits()
        images = np.rint(digits.images * _STRETCH).astype(np.uint8)
        is_test = np.arange(len(images)) % _EVERY == 0
        splits = {
            split: (f"sklearn.datasets.load_digits {split}", images[chosen], digits.target[chosen].tolist())
            for split, chosen in (("train", ~is_test), ("test", is_test))
        }
        return scan_arrays(cls.card, root, DIGITS, splits)

    @property
    def converted_root(self) -> Path:
        """Folder of the images: root itself."""
        return self.root

    def prepare_data(self) -> None:
        """Write the images, unless they are present."""
        if not is_converted(self.root):
            self.root.parent.mkdir(parents=True, exist_ok=True)
            write_converted(self.scan(self.root.parent), self.root)
