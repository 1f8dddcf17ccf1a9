# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""ELPV: solar cells in electroluminescence."""

from pathlib import Path

import pandas as pd

from anomalib_inctrl.data.datasets.base import BenchmarkDataModule
from anomalib_inctrl.data.datasets.records import (
    ABNORMAL,
    GOOD,
    DatasetCard,
    Record,
    Scan,
    natural_key,
    safe_path,
    split_normals,
)
from anomalib_inctrl.errors import DatasetError


class ELPV(BenchmarkDataModule):
    """ELPV: solar cells with a probability of being defective; 0 is normal, 1 abnormal, values between are left out.

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
        categories=("solar_cell",),
        expected={("train", GOOD): (1131,), ("test", GOOD): (377,), ("test", ABNORMAL): (715,)},
    )

    @classmethod
    def _scan(cls, root: Path) -> Scan:
        places = (root, root / "src/elpv_dataset/data", root / "elpv-dataset", root / "elpv-dataset-master")
        base = next((place for place in places if (place / "labels.csv").is_file()), None)
        if base is None:
            raise cls.card.missing(root, "there is no labels.csv")
        labels = base / "labels.csv"
        try:
            table = pd.read_csv(labels, sep=r"\s+", header=None, names=["path", "probability", "kind"])
            table = table.astype({"path": str, "probability": float, "kind": str})
        except ValueError as error:
            msg = f"{labels}: not a list of path, probability and kind of cell ({error}). Fetch it again."
            raise DatasetError(msg) from error
        if unsafe := [name for name in table["path"] if safe_path(name) is None]:
            msg = f"{labels}: names {unsafe[0]!r}, a path outside its folder. Fetch the file again."
            raise DatasetError(msg)
        if absent := [name for name in table["path"] if not (base / name).is_file()]:
            raise cls.card.missing(root, f"{len(absent)} of {len(table)} images are missing, the first is {absent[0]}")
        normal, abnormal, uncertain = [], [], 0
        for name, probability, kind in table.itertuples(index=False):
            if probability == 0:
                normal.append(Record("solar_cell", "", GOOD, Path(name).stem, name))
            elif probability == 1:
                abnormal.append(Record("solar_cell", "test", kind, Path(name).stem, name))
            else:
                uncertain += 1
        abnormal.sort(key=lambda record: natural_key(record.source))
        notes = [f"{uncertain} images are left out: their labels are uncertain."] if uncertain else []
        return Scan(cls.card, base, [*split_normals(normal, cls.card.name), *abnormal], notes)
