# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The papers' datasets that anomalib has not, as anomalib datamodules of one category each.

Nothing is downloaded. Roots are folders of the data as its authors hand it out, or converted by ``anomalib-inctrl
convert``.
"""

import errno
import logging
from abc import ABC, abstractmethod
from pathlib import Path

import pandas as pd
from anomalib.data import AnomalibDataset, DatasetItem
from anomalib.data.datamodules.base.image import AnomalibDataModule
from anomalib.data.utils import TestSplitMode, ValSplitMode
from torchvision.transforms.v2 import Transform
from torchvision.tv_tensors import Image

from anomalib_inctrl.data.convert import convert
from anomalib_inctrl.data.manifest import converted_samples, is_converted, samples_table
from anomalib_inctrl.data.raw import RAW_DATASETS, RawDataset
from anomalib_inctrl.errors import DatasetError, ImageFileError

logger = logging.getLogger(__name__)


class TableDataset(AnomalibDataset):
    """Images from a table in anomalib's format.

    Args:
        samples: Table with ``image_path``, ``split``, ``label``, ``label_index`` and ``mask_path``, and the task in its
            ``attrs``.
        category: Category of the images.
    """

    def __init__(self, samples: pd.DataFrame, category: str) -> None:
        super().__init__()
        self.samples = samples
        self.category = category

    def __getitem__(self, index: int) -> DatasetItem[Image]:
        """Read an image; see anomalib's dataset.

        Raises:
            ImageFileError: If it cannot be read; the message names the file.
        """
        try:
            return super().__getitem__(index)
        except (OSError, SyntaxError) as error:
            path = self.samples.iloc[index].image_path
            msg = (
                f"{path}: the image or its mask is not readable ({error}). Extract it from the dataset's archive again."
            )
            raise ImageFileError(msg) from error


class ConvertibleDataModule(AnomalibDataModule, ABC):
    """A dataset that comes in a layout of its own.

    `root` may be the folder of the raw data or of converted data. Raw data whose pictures have to be cut or unpacked is
    converted by `prepare_data`, once, into a folder beside it, ``<root>_converted``; ELPV, BrainMRI and HeadCT are read
    as they lie. The train split holds normal images only.

    Args:
        root: Folder of the dataset; ``./datasets/<name>`` if not given.
        category: Category of the dataset; the first if not given. It is the class name of text prompts as well.
        train_batch_size: Batch size of the train dataloader.
        eval_batch_size: Batch size of the validation, test and predict dataloaders.
        num_workers: Number of workers of each dataloader.
        train_augmentations: Augmentations of the training images.
        val_augmentations: Augmentations of the validation images.
        test_augmentations: Augmentations of the test images.
        augmentations: Augmentations where none are given for the stage.
        test_split_mode: How the test set is made.
        test_split_ratio: Share of the data for testing, where the mode asks for it.
        val_split_mode: How the validation set is made.
        val_split_ratio: Share of the data for validation, where the mode asks for it.
        seed: Seed of random validation splits; train and test splits do not depend on it.
        check_counts: Whether all images of the dataset must be there. Turn it off to use a part of the dataset.

    Raises:
        DatasetError: If the dataset has no such category; from `prepare_data` and `setup`, if the data is missing,
            extracted in part or changed. The message says where to get it and how it must lie.
    """

    def __init__(
        self,
        root: Path | str | None = None,
        category: str | None = None,
        *,
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 8,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        test_split_mode: TestSplitMode | str = TestSplitMode.FROM_DIR,
        test_split_ratio: float = 0.2,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        val_split_ratio: float = 0.5,
        seed: int | None = None,
        check_counts: bool = True,
    ) -> None:
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
            test_split_mode=test_split_mode,
            test_split_ratio=test_split_ratio,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            seed=seed,
        )
        card = self.raw.card
        self.root = Path("datasets", card.name) if root is None else Path(root)
        self.category = card.categories[0] if category is None else category
        if self.category not in card.categories:
            msg = f"category={category!r}: {card.name} has no such category. It has {', '.join(card.categories)}."
            raise DatasetError(msg)
        self.check_counts = check_counts

    @property
    @abstractmethod
    def raw(self) -> RawDataset:
        """The reader of its raw data; its ``card`` holds licence, citation, layout, categories and counts."""

    @property
    def converted_root(self) -> Path:
        """Folder of the converted data: root itself, or a folder beside it."""
        return self.root if is_converted(self.root) else self.root.with_name(f"{self.root.name}_converted")

    def prepare_data(self) -> None:
        """Convert raw data that cannot be read as it lies, unless it has been."""
        dataset = self.raw
        if is_converted(self.converted_root) or dataset.in_place:
            return
        logger.info("Converting %s to %s.", self.root, self.converted_root)
        try:
            notes = convert(dataset, self.root, self.converted_root, check_counts=self.check_counts)
        except OSError as error:
            if error.errno not in {errno.EACCES, errno.EPERM, errno.EROFS}:
                raise
            msg = (
                f"{self.converted_root} cannot be written ({error}). Convert to a folder of your own with "
                f"`anomalib-inctrl convert {dataset.card.name} --root {self.root} --out FOLDER`, and give that as root."
            )
            raise DatasetError(msg) from error
        for note in notes:
            logger.warning("%s: %s", dataset.card.name, note)

    def _setup(self, _stage: str | None = None) -> None:
        samples = self._samples_table()
        self.train_data = self._part(samples, "train")
        self.test_data = self._part(samples, "test")

    def _samples_table(self) -> pd.DataFrame:
        dataset, converted = self.raw, self.converted_root
        if is_converted(converted):
            return converted_samples(dataset, converted, self.category, check_counts=self.check_counts)
        scan = dataset.scan(self.root, check_counts=self.check_counts)
        if not dataset.in_place:
            msg = (
                f"{self.root} holds {dataset.card.name} as its authors hand it out. Call prepare_data() first, or run "
                f"`anomalib-inctrl convert {dataset.card.name} --root {self.root} --out {converted}`."
            )
            raise DatasetError(msg)
        rows = [(scan.base, record.source, record.split, record.label, "") for record in scan.records]
        return samples_table(dataset, self.category, rows)

    def _part(self, samples: pd.DataFrame, split: str) -> TableDataset:
        part = samples[samples["split"] == split].reset_index(drop=True)
        if part.empty:
            msg = f"{type(self).__name__} in {self.root}: no {split} images of category {self.category!r}."
            raise DatasetError(msg)
        return TableDataset(part, self.category)


class AITEX(ConvertibleDataModule):
    """AITEX fabrics, in tiles 256 pixels wide, with masks.

    The category is ``fabric``: all seven fabrics are one class, as in the papers. See :class:`ConvertibleDataModule`
    for the arguments and :class:`anomalib_inctrl.data.raw.industrial.RawAITEX` for how pictures are cut.

    Licence: not stated. Source: https://www.aitex.es/afid/

    Reference: J. Silvestre-Blanes, T. Albero-Albero, I. Miralles, R. Perez-Llorens, J. Moreno: A Public Fabric Database
    for Defect Prediction Methods and Results. AUTEX Research Journal 19(4):363-374, 2019.
    """

    raw = RAW_DATASETS["AITEX"]


class ELPV(ConvertibleDataModule):
    """Solar cells in electroluminescence, with image labels; those of uncertain label are left out.

    The category is ``solar_cell``. See :class:`ConvertibleDataModule` for the arguments.

    Licence: CC BY-NC-SA 4.0 (images). Source: https://github.com/zae-bayern/elpv-dataset

    Reference: S. Deitsch et al.: Automatic Classification of Defective Photovoltaic Module Cells in Electroluminescence
    Images. Solar Energy 185:455-468, 2019.
    """

    raw = RAW_DATASETS["ELPV"]


class KolektorSDD(ConvertibleDataModule):
    """KolektorSDD in the papers' cut: each picture in three parts, with masks.

    anomalib's own ``Kolektor`` has whole pictures and another split. The category is ``commutator``. See
    :class:`ConvertibleDataModule` for the arguments.

    Licence: CC BY-NC-SA 4.0. Source: https://www.vicos.si/resources/kolektorsdd/

    Reference: D. Tabernik, S. Sela, J. Skvarc, D. Skocaj: Segmentation-Based Deep-Learning Approach for Surface-Defect
    Prediction. Journal of Intelligent Manufacturing 31(3):759-776, 2020.
    """

    raw = RAW_DATASETS["KolektorSDD"]


class BrainMRI(ConvertibleDataModule):
    """MRI slices of brains with and without tumors, with image labels.

    The category is ``brain``. See :class:`ConvertibleDataModule` for the arguments.

    Licence: not stated. Source: https://www.kaggle.com/datasets/navoneel/brain-mri-images-for-brain-tumor-detection

    Reference: N. Chakrabarty: Brain MRI Images for Brain Tumor Prediction. Kaggle, 2019.
    """

    raw = RAW_DATASETS["BrainMRI"]


class HeadCT(ConvertibleDataModule):
    """CT slices of heads with and without hemorrhage, with image labels.

    The category is ``head``. See :class:`ConvertibleDataModule` for the arguments.

    Licence: check at the source. Source: https://www.kaggle.com/datasets/felipekitamura/head-ct-hemorrhage

    Reference: F. C. Kitamura: Head CT - hemorrhage. Kaggle.
    """

    raw = RAW_DATASETS["HeadCT"]


class MNIST(ConvertibleDataModule):
    """MNIST, one-vs-all and multi-class, with image labels.

    For the categories ``digit_0`` to ``digit_9`` one digit is normal and the others are abnormal; for ``even_digit``
    the even ones are normal. Prompts come from the normal images of the usual train split, the usual test split is
    tested on. See :class:`ConvertibleDataModule` for the arguments.

    Licence: CC BY-SA 3.0. Source: http://yann.lecun.com/exdb/mnist/, or
    ``torchvision.datasets.MNIST(root, download=True)``

    Reference: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner: Gradient-Based Learning Applied to Document Recognition.
    Proceedings of the IEEE 86(11):2278-2324, 1998.
    """

    raw = RAW_DATASETS["MNIST"]


class CIFAR10(ConvertibleDataModule):
    """CIFAR-10, one-vs-all and multi-class, with image labels.

    For the categories ``airplane`` to ``truck`` one class is normal and the others are abnormal; for ``animal`` the six
    animals are normal. Prompts come from the normal images of the usual train split, the usual test split is tested on.
    See :class:`ConvertibleDataModule` for the arguments.

    Licence: not stated. Source: https://www.cs.toronto.edu/~kriz/cifar.html, or
    ``torchvision.datasets.CIFAR10(root, download=True)``

    Reference: A. Krizhevsky: Learning Multiple Layers of Features from Tiny Images. University of Toronto, 2009.
    """

    raw = RAW_DATASETS["CIFAR10"]


BENCHMARK_DATAMODULES = (AITEX, BrainMRI, CIFAR10, ELPV, HeadCT, KolektorSDD, MNIST)
