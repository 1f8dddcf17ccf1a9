# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""ELPV: solar cells in electroluminescence."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from anomalib_inctrl.data.datasets.base import BenchmarkDataModule
from anomalib_inctrl.data.datasets.records import (
    ABNORMAL,
    GOOD,
    DatasetCard,
    Record,
    Scan,
    find_folder,
    read_labels,
    safe_path,
)
from anomalib_inctrl.errors import DatasetError

_KINDS = {"monocrystalline": "mono", "polycrystalline": "poly"}
_PLACES = (".", "src/elpv_dataset/data", "elpv-dataset", "elpv-dataset-master")


class ELPV(BenchmarkDataModule):
    """ELPV: solar cells with a probability of being defective; 0 is normal, 1 abnormal, values between are left out.

    Without a root the data of the package ``elpv-dataset`` is read, where it is installed
    (``pip install "anomalib-inctrl[real]"``). Category ``solar_cell`` has all cells, ``monocrystalline`` and
    ``polycrystalline`` have those of one kind.

    Licence, source and citation: see ``card``. For the arguments see :class:`BenchmarkDataModule`.
    """

    in_place = True
    card = DatasetCard(
        name="ELPV",
        title="ELPV: solar cells in electroluminescence",
        task="classification",
        licence="CC BY-NC-SA 4.0 (images)",
        homepage="https://github.com/zae-bayern/elpv-dataset",
        citation=(
            "S. Deitsch, V. Christlein, S. Berger, C. Buerhop-Lutz, A. Maier, F. Gallwitz, C. Riess: Automatic "
            "Classification of Defective Photovoltaic Module Cells in Electroluminescence Images. Solar Energy "
            "185:455-468, 2019. C. Buerhop-Lutz et al.: A Benchmark for Visual Identification of Defective Solar Cells "
            "in Electroluminescence Imagery. EU PVSEC 2018."
        ),
        layout="  labels.csv\n  images/cell0001.png ...",
        categories=("solar_cell", *_KINDS),
        default_categories=("solar_cell",),
        folder="solar_cell",
        expected={("train", GOOD): (1131,), ("test", GOOD): (377,), ("test", ABNORMAL): (715,)},
    )

    def __init__(self, root: Path | str | None = None, category: str | None = None, **options: Any) -> None:
        package = find_spec("elpv_dataset") if root is None else None
        if package is not None and package.origin is not None:
            root = Path(package.origin).parent / "data"
        super().__init__(root, category, **options)

    def _samples_table(self) -> pd.DataFrame:
        samples = super()._samples_table()
        if self.category not in _KINDS:
            return samples
        if self.converted_root == self.root:
            msg = f"category={self.category!r}: {self.root} is converted data, which has {self.card.folder!r} alone."
            raise DatasetError(msg)
        base, table = self._labels(self.root)
        chosen = table["path"][table["kind"] == _KINDS[self.category]]
        return samples[samples["image_path"].isin([str(base / path) for path in chosen])]

    @classmethod
    def _labels(cls, root: Path) -> tuple[Path, pd.DataFrame]:
        if (base := find_folder(root, _PLACES, "labels.csv")) is None:
            raise cls.card.missing(root, "there is no labels.csv")
        types = {"path": str, "probability": float, "kind": str}
        return base, read_labels(base / "labels.csv", types, sep=r"\s+", header=None, names=list(types))

    @classmethod
    def _scan(cls, root: Path) -> Scan:
        base, table = cls._labels(root)
        if unsafe := [name for name in table["path"] if safe_path(name) is None]:
            msg = f"{base / 'labels.csv'}: names {unsafe[0]!r}, a path outside its folder. Fetch the file again."
            raise DatasetError(msg)
        certain = table[table["probability"].isin([0, 1])]
        records = [
            Record("solar_cell", "test" if defective else "", kind if defective else GOOD, Path(name).stem, name)
            for name, defective, kind in certain.itertuples(index=False)
        ]
        uncertain = len(table) - len(certain)
        notes = [f"{uncertain} images are left out: their labels are uncertain."] if uncertain else []
        return Scan(cls.card, base, records, notes)
