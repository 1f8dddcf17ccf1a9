# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""BrainMRI: magnetic resonance images of mixed sizes, suffixes and modes."""

from pathlib import Path

from anomalib_inctrl.data.datasets.base import BenchmarkDataModule
from anomalib_inctrl.data.datasets.records import ABNORMAL, GOOD, DatasetCard, Record, Scan, find_folder, image_files


class BrainMRI(BenchmarkDataModule):
    """BrainMRI: slices of brains in a folder ``no`` (normal) and a folder ``yes`` (with a tumor).

    Licence, source and citation: see ``card``. For the arguments see :class:`BenchmarkDataModule`.
    """

    in_place = True
    card = DatasetCard(
        name="BrainMRI",
        title="Brain MRI Images for Brain Tumor Detection",
        task="classification",
        licence="not stated",
        homepage="https://www.kaggle.com/datasets/navoneel/brain-mri-images-for-brain-tumor-detection",
        citation="N. Chakrabarty: Brain MRI Images for Brain Tumor Detection. Kaggle, 2019.",
        layout="  no/1 no.jpeg ...\n  yes/Y1.jpg ...",
        categories=("brain",),
        expected={("train", GOOD): (73,), ("test", GOOD): (25,), ("test", ABNORMAL): (155,)},
    )

    @classmethod
    def _scan(cls, root: Path) -> Scan:
        # The archive holds both folders twice, the second time below brain_tumor_dataset.
        base = find_folder(root, (".", "brain_tumor_dataset"), "no", "yes") or root
        files = {name: image_files(base / name) for name in ("no", "yes")}
        if empty := [name for name, found in files.items() if not found]:
            raise cls.card.missing(root, f"there are no images in {' and '.join(empty)}")
        records = [
            Record("brain", split, label, path.stem, path.relative_to(base).as_posix())
            for name, split, label in (("no", "", GOOD), ("yes", "test", "tumor"))
            for path in files[name]
        ]
        return Scan(cls.card, base, records)
