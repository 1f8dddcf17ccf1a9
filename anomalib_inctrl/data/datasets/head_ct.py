# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""HeadCT: computed tomography images of mixed sizes and modes."""

from pathlib import Path

from anomalib_inctrl.data.datasets.base import BenchmarkDataModule
from anomalib_inctrl.data.datasets.records import ABNORMAL, GOOD, DatasetCard, Record, Scan, read_labels


class HeadCT(BenchmarkDataModule):
    """HeadCT: numbered slices of heads; ``labels.csv`` lists which of them show a hemorrhage.

    Licence, source and citation: see ``card``. For the arguments see :class:`BenchmarkDataModule`.
    """

    in_place = True
    card = DatasetCard(
        name="HeadCT",
        title="Head CT - hemorrhage",
        task="classification",
        licence="check at the source",
        homepage="https://www.kaggle.com/datasets/felipekitamura/head-ct-hemorrhage",
        citation="F. C. Kitamura: Head CT - hemorrhage. Kaggle.",
        layout="  labels.csv\n  head_ct/head_ct/000.png ...     or head_ct/000.png ...",
        categories=("head",),
        expected={("train", GOOD): (75,), ("test", GOOD): (25,), ("test", ABNORMAL): (100,)},
    )

    @classmethod
    def _scan(cls, root: Path) -> Scan:
        if not (root / "labels.csv").is_file():
            raise cls.card.missing(root, "there is no labels.csv")
        table = read_labels(root / "labels.csv", {"id": int, "hemorrhage": int}, skipinitialspace=True)
        folder = next((name for name in ("head_ct", ".") if any((root / name).glob("*.png"))), "head_ct/head_ct")
        records = []
        for number, hemorrhage in table.itertuples(index=False):
            split, label = ("test", "hemorrhage") if hemorrhage else ("", GOOD)
            source = (Path(folder) / f"{number:03}.png").as_posix()
            records.append(Record("head", split, label, f"{number:03}", source))
        return Scan(cls.card, root, records)
