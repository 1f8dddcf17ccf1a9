# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""MNIST, as torchvision reads it."""

from pathlib import Path

from torchvision import datasets

from anomalib_inctrl.data.datasets.base import BenchmarkDataModule
from anomalib_inctrl.data.datasets.records import DIGITS, DatasetCard, Scan, scan_arrays

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
        categories=(*DIGITS, "even_digit"),
        default_categories=DIGITS,
        folder="digits",
        normal_labels={**{digit: (digit,) for digit in DIGITS}, "even_digit": DIGITS[::2]},
        expected={
            **{("train", digit): (count,) for digit, count in zip(DIGITS, _TRAIN_COUNTS, strict=True)},
            **{("test", digit): (count,) for digit, count in zip(DIGITS, _TEST_COUNTS, strict=True)},
        },
    )

    @classmethod
    def _scan(cls, root: Path) -> Scan:
        base = root.parent if root.name == "MNIST" and (root / "raw").is_dir() else root
        raw = base / "MNIST" / "raw"
        for name in (Path(url).stem for url, _ in datasets.MNIST.resources):
            if (raw / f"{name}.gz").is_file() and not (raw / name).is_file():
                raise cls.card.missing(raw, f"MNIST/raw/{name}.gz is not extracted")
            if not (raw / name).is_file():
                raise cls.card.missing(root, f"there is no MNIST/raw/{name}")
        splits = {}
        for split, prefix in (("train", "train"), ("test", "t10k")):
            source = f"MNIST/raw/{prefix}-images-idx3-ubyte"
            try:
                data = datasets.MNIST(base, train=split == "train", download=False)
                if len(data.data) != len(data.targets):
                    msg = f"{len(data.data)} images, {len(data.targets)} labels"
                    raise ValueError(msg)
            except (RuntimeError, ValueError, AssertionError, OSError) as error:
                raise cls.card.missing(base, f"{source} or its labels are damaged ({error})") from error
            splits[split] = source, data.data.numpy(), data.targets.tolist()
        return scan_arrays(cls.card, base, DIGITS, splits)
