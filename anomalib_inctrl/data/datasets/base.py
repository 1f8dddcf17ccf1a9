# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Base of the benchmark datasets: an anomalib datamodule that reads a dataset as its authors distribute it."""

import logging
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from anomalib.data import AnomalibDataset
from anomalib.data.datamodules.base.image import AnomalibDataModule
from anomalib.data.utils import TestSplitMode, ValSplitMode

from anomalib_inctrl.data.datasets.converted import converted_rows, is_converted, write_converted
from anomalib_inctrl.data.datasets.records import GOOD, DatasetCard, Scan, split_records
from anomalib_inctrl.data.reading import name_unreadable_files
from anomalib_inctrl.errors import DatasetError

logger = logging.getLogger(__name__)


class BenchmarkDataModule(AnomalibDataModule, ABC):
    """A dataset of the papers that anomalib lacks. Nothing is downloaded.

    `root` is the folder of the raw data or of converted data. Raw data whose images have to be cut or unpacked is
    converted by `prepare_data`, once, into a folder beside it, ``<root>_converted``; where :attr:`in_place` is true it
    is read without conversion. The train split holds normal images only.

    Args:
        root: Folder of the dataset; ``./datasets/<name>`` if not given.
        category: Category of the dataset; the first if not given. It is the class name of text prompts as well.
        train_batch_size: Batch size of the train dataloader.
        eval_batch_size: Batch size of the validation, test and predict dataloaders.
        num_workers: Number of workers of each dataloader.
        test_split_mode: How the test set is made.
        val_split_mode: How the validation set is made.
        seed: Seed of random validation splits; train and test splits do not depend on it.
        check_counts: Whether all images of the dataset must be present. Turn it off to use a part of the dataset.
        **options: Further arguments of anomalib's datamodules: augmentations and the ratios of splits.

    Attributes:
        card: Licence, source, citation, layout, categories and expected counts.
        in_place: Whether images are used as they are distributed, without conversion.
        default_categories: Categories that stand for the whole dataset.

    Raises:
        DatasetError: If the dataset has no such category; from `prepare_data` and `setup`, if the data is missing,
            extracted in part or changed. The message names its source and the layout it must have.
    """

    card: ClassVar[DatasetCard]
    in_place: ClassVar[bool] = False
    default_categories: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls) -> None:
        """Take the default categories from the card."""
        super().__init_subclass__()
        cls.default_categories = cls.card.default_categories or cls.card.categories

    def __init__(
        self,
        root: Path | str | None = None,
        category: str | None = None,
        *,
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 8,
        test_split_mode: TestSplitMode | str = TestSplitMode.FROM_DIR,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        seed: int | None = None,
        check_counts: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            test_split_mode=test_split_mode,
            val_split_mode=val_split_mode,
            seed=seed,
            **options,
        )
        card = self.card
        self.root = Path("datasets", card.name) if root is None else Path(root)
        self.category = card.categories[0] if category is None else category
        if self.category not in card.categories:
            msg = f"category={category!r}: {card.name} has no such category. It has {', '.join(card.categories)}."
            raise DatasetError(msg)
        self.check_counts = check_counts

    @classmethod
    def scan(cls, root: str | Path, *, check_counts: bool = True) -> Scan:
        """List the images of raw data, sorted and split.

        Raises:
            DatasetError: If the data is missing, extracted in part, inconsistent, or its counts are not as expected.
        """
        root = Path(root)
        if not root.is_dir():
            raise cls.card.missing(root, "there is no such folder")
        found = cls._scan(root)
        records = split_records(found.records, cls.card.name)
        if check_counts:
            counts = Counter((record.split, record.label) for record in records)
            cls.card.check_counts(f"{cls.card.name} in {root}", {**counts, **found.file_counts})
        return replace(found, records=records)

    @classmethod
    @abstractmethod
    def _scan(cls, root: Path) -> Scan:
        """List the images of raw data; see :meth:`scan`. The folder exists; images without a split are split later."""

    @property
    def converted_root(self) -> Path:
        """Folder of the converted data: root itself, or a folder beside it."""
        return self.root if is_converted(self.root) else self.root.with_name(f"{self.root.name}_converted")

    def prepare_data(self) -> None:
        """Convert raw data that cannot be read in place, unless it has been."""
        if self.in_place or is_converted(self.converted_root):
            return
        logger.info("Converting %s to %s.", self.root, self.converted_root)
        scan = self.scan(self.root, check_counts=self.check_counts)
        try:
            write_converted(scan, self.converted_root)
        except OSError as error:
            msg = (
                f"{self.converted_root} cannot be written ({error}). Convert to another folder with "
                f"`anomalib-inctrl convert {self.card.name} --root {self.root} --out FOLDER`, and give that as root."
            )
            raise DatasetError(msg) from error
        for note in scan.notes:
            logger.warning("%s: %s", self.card.name, note)

    def _setup(self, _stage: str | None = None) -> None:
        card, samples = self.card, self._samples_table()
        normal = samples["label"].isin(card.normal_labels.get(self.category, (GOOD,)))
        files = [*samples["image_path"], *filter(None, samples["mask_path"])]
        if absent := [path for path in files if not Path(path).is_file()]:
            msg = (
                f"{card.name}: {len(absent)} of {len(files)} files are missing, the first is {absent[0]}. Copy or "
                "extract the dataset again."
            )
            raise DatasetError(msg)
        samples = samples.assign(label_index=1 - normal)
        samples.attrs["task"] = card.task
        for split in ("train", "test"):
            part = samples[(samples["split"] == split) & (normal | (split == "test"))]
            if part.empty:
                msg = f"{card.name} in {self.root}: no {split} images of category {self.category!r}."
                raise DatasetError(msg)
            dataset = AnomalibDataset()
            dataset.samples, dataset.category = part, self.category
            name_unreadable_files(dataset)
            setattr(self, f"{split}_data", dataset)

    def _samples_table(self) -> pd.DataFrame:
        """All images that the category may use: ``image_path``, ``split``, ``label`` and ``mask_path``."""
        if not self.in_place or is_converted(self.root):
            return converted_rows(self.card, self.converted_root, self.category, check_counts=self.check_counts)
        scan = self.scan(self.root, check_counts=self.check_counts)
        rows = [(str(scan.base / record.source), record.split, record.label, "") for record in scan.records]
        return pd.DataFrame(rows, columns=["image_path", "split", "label", "mask_path"])
