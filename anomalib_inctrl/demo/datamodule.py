# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The demo data on disk, in the layout of MVTec AD, and as an anomalib datamodule."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
from anomalib.data.datamodules.base.image import AnomalibDataModule
from anomalib.data.datasets.image.mvtecad import MVTecADDataset
from anomalib.data.utils import Split, TestSplitMode, ValSplitMode
from anomalib.utils.path import resolve_dataset_root
from filelock import FileLock
from torch import Tensor
from torchvision.transforms.v2 import Transform

from anomalib_inctrl.demo.categories import REGISTRY
from anomalib_inctrl.demo.render import CATEGORIES, IMAGE_SIZE, Sample, check_category, render_batch
from anomalib_inctrl.errors import DatasetError

GENERATOR_VERSION = 1
"""Raised whenever the same settings would give other images."""

_SETTINGS_FILE = "demo.json"
_NORMAL_TEST, _ANOMALOUS_TEST = 1_000_000, 2_000_000  # where the image numbers of the test splits start
# sensor noise leaves nothing to match: entropy coding alone is the fastest and nearly as small
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY]


@dataclass(frozen=True)
class DemoSettings:
    """What decides the images of a category folder.

    Attributes:
        train_count: Number of normal training images.
        test_normal_count: Number of normal test images.
        test_anomalous_count: Number of anomalous test images, spread evenly over the category's kinds of defect.
        seed: Seed of the rendering.
        size: Side of the images in pixels.

    Raises:
        DatasetError: If a count is not between 1 and 1 000 000.
    """

    train_count: int = 40
    test_normal_count: int = 20
    test_anomalous_count: int = 40
    seed: int = 0
    size: int = IMAGE_SIZE

    def __post_init__(self) -> None:
        for name in ("train_count", "test_normal_count", "test_anomalous_count"):
            if not 1 <= getattr(self, name) <= _NORMAL_TEST:
                msg = f"{name} must be between 1 and {_NORMAL_TEST}, got {getattr(self, name)}."
                raise DatasetError(msg)

    def description(self) -> dict[str, int]:
        """Return what is written beside the images, to recognise them."""
        return {"generator_version": GENERATOR_VERSION, **asdict(self)}


def render_category(root: Path | str, category: str, settings: DemoSettings) -> Path:
    """Render a category into `root/category` unless it is there already.

    The folder appears complete or not at all, and several processes may ask for it at the same time.

    Args:
        root: Folder of the dataset; created if it does not exist.
        category: Name of the category.
        settings: What to render.

    Returns:
        The folder of the category.

    Raises:
        DatasetError: If the category is unknown, or its folder exists but was not rendered with these settings.
    """
    check_category(category)
    folder = Path(root) / category
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        # A lock is gone with the process that held it, so the contents of the unfinished folder belong to nobody.
        with FileLock(folder.with_name(f".{category}.lock")):
            if not folder.exists():  # no other process was faster
                _render_folder(folder, settings)
    _check_rendered(folder, settings)
    return folder


def _check_rendered(folder: Path, settings: DemoSettings) -> None:
    if not folder.is_dir():
        msg = f"There is no demo category in {folder}; call prepare_data() first."
        raise DatasetError(msg)
    remedy = "Use another root, or delete that folder to have it rendered again."
    try:
        found: Any = json.loads((folder / _SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{folder} holds no readable {_SETTINGS_FILE}, so it is not a finished demo category. {remedy}"
        raise DatasetError(msg) from error
    wanted = settings.description()
    if found != wanted:
        found = found if isinstance(found, dict) else {}
        names = sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))
        differences = ", ".join(f"{n}={found.get(n)} (asked for: {wanted.get(n)})" for n in names)
        msg = f"{folder} was rendered with other settings: {differences}. {remedy}"
        raise DatasetError(msg)


def _plan(category: str, settings: DemoSettings) -> Iterator[tuple[Sample, str]]:
    """Each image of a category with its path."""
    for i in range(settings.train_count):
        yield Sample(category, i), f"train/good/{i:03}.png"
    for i in range(settings.test_normal_count):
        yield Sample(category, _NORMAL_TEST + i), f"test/good/{i:03}.png"
    kinds = REGISTRY[category].defects
    for i in range(settings.test_anomalous_count):
        kind = kinds[i % len(kinds)]
        yield Sample(category, _ANOMALOUS_TEST + i, kind), f"test/{kind}/{i // len(kinds):03}.png"


def _render_folder(folder: Path, settings: DemoSettings) -> None:
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        for sample, path in _plan(folder.name, settings):
            batch = render_batch([sample], seed=settings.seed, size=settings.size)
            blue_first = batch.image[0].flip(0).permute(1, 2, 0).contiguous()
            _write_png(unfinished / path, blue_first)
            if sample.defect:
                mask = path.replace("test", "ground_truth", 1).replace(".png", "_mask.png")
                _write_png(unfinished / mask, batch.mask[0].byte() * 255)
        description = json.dumps(settings.description(), indent=2) + "\n"
        (unfinished / _SETTINGS_FILE).write_text(description, encoding="utf-8")
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_png(path: Path, pixels: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", pixels.numpy(), _PNG)[1].tobytes())


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

    default_categories = CATEGORIES

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
            test_split_mode=TestSplitMode.FROM_DIR,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            seed=seed,
        )
        check_category(category)
        self.root = resolve_dataset_root(root, self.name)
        self.category = category
        self.settings = DemoSettings(train_count, test_normal_count, test_anomalous_count, seed)

    def prepare_data(self) -> None:
        """Render the category if it is not on disk yet."""
        render_category(self.root, self.category, self.settings)

    def _setup(self, _stage: str | None = None) -> None:
        _check_rendered(self.root / self.category, self.settings)
        self.train_data = MVTecADDataset(root=self.root, category=self.category, split=Split.TRAIN)
        self.test_data = MVTecADDataset(root=self.root, category=self.category, split=Split.TEST)
