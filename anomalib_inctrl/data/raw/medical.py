# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Raw data of BrainMRI and HeadCT: pictures of mixed sizes, endings and modes, with a label each."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from anomalib_inctrl.data.raw.base import (
    ABNORMAL,
    GOOD,
    DatasetCard,
    RawDataset,
    Record,
    Scan,
    image_files,
    split_normals,
)
from anomalib_inctrl.errors import DatasetError


class RawBrainMRI(RawDataset):
    """BrainMRI: a folder ``no`` of normal and a folder ``yes`` of abnormal pictures."""

    in_place = True
    card = DatasetCard(
        name="BrainMRI",
        title="Brain MRI Images for Brain Tumor Prediction",
        task="classification",
        licence="not stated",
        homepage="https://www.kaggle.com/datasets/navoneel/brain-mri-images-for-brain-tumor-detection",
        citation="N. Chakrabarty: Brain MRI Images for Brain Tumor Prediction. Kaggle, 2019.",
        layout="  no/1 no.jpeg ...\n  yes/Y1.jpg ...",
        categories=("brain",),
        default_categories=("brain",),
        expected={("train", GOOD): (73,), ("test", GOOD): (25,), ("test", ABNORMAL): (155,)},
    )

    def _scan(self, root: Path, *, check_counts: bool) -> Scan:
        del check_counts  # the counts of the labels tell
        # The archive holds both folders twice, the second time below brain_tumor_dataset.
        places = (root, root / "brain_tumor_dataset")
        base = next((place for place in places if (place / "no").is_dir() and (place / "yes").is_dir()), root)
        files = {name: image_files(base / name) for name in ("no", "yes")}
        if empty := [name for name, found in files.items() if not found]:
            raise self.missing(root, f"there are no pictures in {' and '.join(empty)}")
        normal = [Record("brain", "", GOOD, path.stem, f"no/{_below(path, base / 'no')}") for path in files["no"]]
        abnormal = [
            Record("brain", "test", "tumor", path.stem, f"yes/{_below(path, base / 'yes')}") for path in files["yes"]
        ]
        return Scan(base, [*split_normals(normal, self.card.name), *abnormal], [])


class RawHeadCT(RawDataset):
    """HeadCT: ``labels.csv`` says which numbered picture shows a hemorrhage."""

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
        default_categories=("head",),
        expected={("train", GOOD): (75,), ("test", GOOD): (25,), ("test", ABNORMAL): (100,)},
    )

    def _scan(self, root: Path, *, check_counts: bool) -> Scan:
        del check_counts  # the counts of the labels tell
        labels = root / "labels.csv"
        if not labels.is_file():
            raise self.missing(root, "there is no labels.csv")
        try:
            table = pd.read_csv(labels, skipinitialspace=True)[["id", "hemorrhage"]].astype(int)
        except (ValueError, KeyError, pd.errors.ParserError) as error:
            msg = f"{labels}: not a table with the columns id and hemorrhage ({error}). Fetch it again."
            raise DatasetError(msg) from error
        folder = next((name for name in ("head_ct/head_ct", "head_ct", ".") if any((root / name).glob("*.png"))), None)
        if folder is None:
            raise self.missing(root, "there are no pictures in head_ct")
        names = {number: (Path(folder) / f"{number:03}.png").as_posix() for number in table["id"]}
        if absent := [name for name in names.values() if not (root / name).is_file()]:
            raise self.missing(root, f"{len(absent)} of {len(names)} pictures are missing, the first is {absent[0]}")
        normal, abnormal = [], []
        for number, hemorrhage in zip(table["id"], table["hemorrhage"], strict=True):
            if hemorrhage:
                abnormal.append(Record("head", "test", "hemorrhage", f"{number:03}", names[number]))
            else:
                normal.append(Record("head", "", GOOD, f"{number:03}", names[number]))
        return Scan(root, [*split_normals(normal, self.card.name), *abnormal], [])


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
