# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Real handwriting that comes with scikit-learn, as a semantic target that needs no download."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

from anomalib_inctrl.data.convert import convert
from anomalib_inctrl.data.datamodules import ConvertibleDataModule
from anomalib_inctrl.data.manifest import is_converted
from anomalib_inctrl.data.raw.base import DatasetCard
from anomalib_inctrl.data.raw.semantic import DIGITS, SemanticDataset

_EVERY = 6  # of so many pictures one is for testing
_STRETCH = 255 / 16  # they have 17 levels


class RawScikitDigits(SemanticDataset):
    """The digits of scikit-learn: handwritten, 8 x 8 pixels, grey. They come with that package, not in a folder."""

    labels = DIGITS
    normal = {"even_digit": frozenset(DIGITS[::2])}  # noqa: RUF012
    _folder = "digits"
    card = DatasetCard(
        name="ScikitDigits",
        title="Optical recognition of handwritten digits, the test set that comes with scikit-learn",
        task="classification",
        licence="CC BY 4.0",
        homepage="https://archive.ics.uci.edu/dataset/80",
        citation=(
            "E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits. UCI Machine Learning Repository, 1998."
        ),
        layout="  (nothing: scikit-learn brings the pictures)",
        categories=(*DIGITS, "even_digit"),
        default_categories=DIGITS,
        folders=dict.fromkeys((*DIGITS, "even_digit"), "digits"),
        expected={},
    )

    def _find(self, root: Path) -> Path:
        return root

    def _source(self, split: str) -> str:
        return f"sklearn.datasets.load_digits {split}"

    def _arrays(self, base: Path, split: str) -> tuple[npt.NDArray[np.uint8], list[int]]:
        del base
        return _digits(split)


@lru_cache(maxsize=2)
def _digits(split: str) -> tuple[npt.NDArray[np.uint8], list[int]]:
    digits = load_digits()
    chosen = (np.arange(len(digits.target)) % _EVERY == 0) == (split == "test")
    pictures = np.rint(digits.images[chosen] * _STRETCH).astype(np.uint8)
    return pictures, [int(target) for target in digits.target[chosen]]


class ScikitDigits(ConvertibleDataModule):
    """Handwritten digits that come with scikit-learn, one-vs-all and multi-class, with image labels.

    For the categories ``digit_0`` to ``digit_9`` one digit is normal and the others are abnormal; for ``even_digit``
    the even ones are normal. Every sixth picture is for testing. `prepare_data` writes the pictures, 8 x 8 pixels as
    they are, to `root`, ``./datasets/ScikitDigits`` if not given. See :class:`ConvertibleDataModule` for the arguments.

    A stand-in for :class:`anomalib_inctrl.data.MNIST` where nothing can be downloaded; it is in no paper.

    Licence: CC BY 4.0. Source: https://archive.ics.uci.edu/dataset/80, within scikit-learn

    Reference: E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits. UCI Machine Learning Repository, 1998.
    """

    raw = RawScikitDigits()

    @property
    def converted_root(self) -> Path:
        """Folder of the pictures: root itself."""
        return self.root

    def prepare_data(self) -> None:
        """Write the pictures, unless they are there."""
        if not is_converted(self.root):
            self.root.parent.mkdir(parents=True, exist_ok=True)
            convert(self.raw, self.root.parent, self.root)
