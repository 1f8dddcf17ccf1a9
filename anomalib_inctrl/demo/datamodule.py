# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The demo data as an anomalib datamodule."""

from pathlib import Path

from anomalib.data.datamodules.base.image import AnomalibDataModule
from anomalib.data.datasets.image.mvtecad import MVTecADDataset
from anomalib.data.utils import Split, TestSplitMode, ValSplitMode
from anomalib.utils.path import resolve_dataset_root
from torchvision.transforms.v2 import Transform

from anomalib_inctrl.demo.render import check_category
from anomalib_inctrl.demo.writer import DemoSettings, check_rendered, render_category


class InCTRLDemo(AnomalibDataModule):
    """Rendered products and materials with defects, one category at a time.

    `prepare_data` renders the category into `root/category` in the layout of MVTec AD, so that anomalib's own
    `MVTecAD(root=root, category=category)` reads it as well. What is there already is used again, provided that it was
    rendered with the same counts and seed.

    Args:
        root: Folder of the dataset; None stands for anomalib's folder of datasets.
        category: One of `anomalib_inctrl.demo.CATEGORIES`.
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
        train_count: Number of normal training images.
        test_normal_count: Number of normal test images.
        test_anomalous_count: Number of anomalous test images, spread evenly over the category's kinds of defect.
        seed: Seed of the rendering and of random splits.

    Raises:
        DatasetError: If the category is unknown or a count is not positive; from `prepare_data` and `setup`, if the
            folder of the category was rendered with other settings.

    Example:
        >>> from anomalib_inctrl.demo import InCTRLDemo
        >>> datamodule = InCTRLDemo(category="gear")
        >>> datamodule.prepare_data()
        >>> datamodule.setup()
        >>> next(iter(datamodule.test_dataloader())).image.shape
        torch.Size([32, 3, 240, 240])
    """

    def __init__(
        self,
        root: Path | str | None = "./datasets/InCTRLDemo",
        category: str = "washer",
        *,
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 0,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        test_split_mode: TestSplitMode | str = TestSplitMode.FROM_DIR,
        test_split_ratio: float = 0.2,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        val_split_ratio: float = 0.5,
        train_count: int = 40,
        test_normal_count: int = 20,
        test_anomalous_count: int = 40,
        seed: int = 0,
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
        check_category(category)
        self.root = resolve_dataset_root(root, self.name)
        self.category = category
        self.settings = DemoSettings(
            train_count=train_count,
            test_normal_count=test_normal_count,
            test_anomalous_count=test_anomalous_count,
            seed=seed,
        )

    def prepare_data(self) -> None:
        """Render the category if it is not on disk yet."""
        render_category(self.root, self.category, self.settings)

    def _setup(self, _stage: str | None = None) -> None:
        check_rendered(self.root / self.category, self.settings)
        self.train_data = MVTecADDataset(root=self.root, category=self.category, split=Split.TRAIN)
        self.test_data = MVTecADDataset(root=self.root, category=self.category, split=Split.TEST)
