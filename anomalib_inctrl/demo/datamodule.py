# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The demo data on disk, in the layout of MVTec AD, and as an anomalib datamodule."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import torch
from anomalib.data.datamodules.image.mvtecad import MVTecAD
from anomalib.utils.path import resolve_dataset_root
from filelock import FileLock
from torch import Tensor

from anomalib_inctrl.demo.categories import REGISTRY
from anomalib_inctrl.demo.render import (
    CATEGORIES,
    IMAGE_SIZE,
    RANDOM_PRODUCTS,
    RenderedBatch,
    Sample,
    check_category,
    render_batch,
)
from anomalib_inctrl.errors import DatasetError, RenderError

_SETTINGS_FILE = "demo.json"
_VERSION = 1  # raised whenever the same settings would give other images
_NORMAL_TEST, _ANOMALOUS_TEST = 1_000_000, 2_000_000  # where the image numbers of the test splits start
# sensor noise leaves nothing to match: entropy coding alone is the fastest and nearly as small
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY]


def _write_png(path: Path, pixels: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", pixels.numpy(), _PNG)[1].tobytes())


def _render_any(sample: Sample, kinds: Sequence[str], seed: int) -> tuple[str | None, RenderedBatch]:
    """Render an image with the first kind of defect that shows on it: not all do on every random product."""
    for kind in kinds:
        try:
            return kind, render_batch([replace(sample, defect=kind)], seed=seed)
        except RenderError:  # noqa: PERF203
            if sample.category not in RANDOM_PRODUCTS:
                raise
    return None, render_batch([sample], seed=seed)


class InCTRLDemo(MVTecAD):
    """Rendered products and materials with defects, one category at a time.

    `prepare_data` renders the category into `root/category` in the layout of MVTec AD, so that anomalib's own
    `MVTecAD(root=root, category=category)` reads it as well. What is there already is used again, provided that it was
    rendered with the same counts and seed.

    Args:
        root: Folder of the dataset; None stands for anomalib's folder of datasets.
        category: One of `anomalib_inctrl.demo.CATEGORIES`, or `product-000` to `product-299`, composed at random.
        num_workers: Number of workers of each dataloader.
        train_count: Number of normal training images.
        test_normal_count: Number of normal test images.
        test_anomalous_count: Number of anomalous test images, spread evenly over the category's kinds of defect.
        seed: Seed of the rendering and of random splits.
        **options: Further arguments of anomalib's `MVTecAD`: batch sizes, augmentations and splits.

    Raises:
        DatasetError: If the category is unknown or a count is not between 1 and 1 000 000; from `prepare_data` and
            `setup`, if the folder of the category was rendered with other settings.

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
        num_workers: int = 0,
        train_count: int = 40,
        test_normal_count: int = 20,
        test_anomalous_count: int = 40,
        seed: int = 0,
        **options: Any,
    ) -> None:
        check_category(category)
        root = resolve_dataset_root(root, "InCTRLDemo")
        super().__init__(root, category, num_workers=num_workers, seed=seed, **options)
        names = ("train_count", "test_normal_count", "test_anomalous_count")
        counts = dict(zip(names, (train_count, test_normal_count, test_anomalous_count), strict=True))
        for name, count in counts.items():
            if not 1 <= count <= _NORMAL_TEST:
                msg = f"{name} must be between 1 and {_NORMAL_TEST}, got {count}."
                raise DatasetError(msg)
        self._settings = {"generator_version": _VERSION, "size": IMAGE_SIZE, "seed": seed, **counts}

    def prepare_data(self) -> None:
        """Render the category if it is not on disk yet.

        Its folder appears complete or not at all, and several processes may ask for it at the same time.
        """
        folder = self.root / self.category
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            # A lock is gone with the process that held it, so the contents of the unfinished folder belong to nobody.
            with FileLock(folder.with_name(f".{self.category}.lock")):
                if not folder.exists():  # no other process was faster
                    self._render(folder)
        self._check()

    def _setup(self, _stage: str | None = None) -> None:
        self._check()
        super()._setup(_stage)

    def _check(self) -> None:
        folder = self.root / self.category
        if not folder.is_dir():
            msg = f"There is no demo category in {folder}; call prepare_data() first."
            raise DatasetError(msg)
        remedy = "Use another root, or delete that folder to have it rendered again."
        try:
            found = dict(json.loads((folder / _SETTINGS_FILE).read_text(encoding="utf-8")))
        except (OSError, TypeError, ValueError) as error:
            msg = f"{folder} holds no readable {_SETTINGS_FILE}, so it is not a finished demo category. {remedy}"
            raise DatasetError(msg) from error
        wanted = self._settings.items()
        if other := [f"{n}={found.get(n)} (asked for: {value})" for n, value in wanted if found.get(n) != value]:
            msg = f"{folder} was rendered with other settings: {', '.join(other)}. {remedy}"
            raise DatasetError(msg)

    def _render(self, folder: Path) -> None:
        category, settings, kinds = self.category, self._settings, (REGISTRY | RANDOM_PRODUCTS)[self.category].defects
        # number of each image, and kinds of defect to try on it
        images: list[tuple[int, tuple[str, ...]]] = [(i, ()) for i in range(settings["train_count"])]
        images += [(_NORMAL_TEST + i, ()) for i in range(settings["test_normal_count"])]
        for i in range(settings["test_anomalous_count"]):
            first = i % len(kinds)
            images.append((_ANOMALOUS_TEST + i, kinds[first:] + kinds[:first]))
        numbers: Counter[str] = Counter()
        unfinished = folder.with_name(f".{category}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the images are small: twice as fast as with two threads
        try:
            for number, tried in images:
                kind, (image, mask) = _render_any(Sample(category, number), tried, settings["seed"])
                group = "train/good" if number < _NORMAL_TEST else f"test/{kind or 'good'}"
                path = f"{group}/{numbers[group]:03}"
                numbers[group] += 1
                _write_png(unfinished / f"{path}.png", image[0].flip(0).permute(1, 2, 0).contiguous())  # blue first
                if kind:
                    name = path.replace("test", "ground_truth", 1) + "_mask.png"
                    _write_png(unfinished / name, mask[0].byte() * 255)
            (unfinished / _SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
            unfinished.replace(folder)
        finally:
            torch.set_num_threads(threads)
            shutil.rmtree(unfinished, ignore_errors=True)
