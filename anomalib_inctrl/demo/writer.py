# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Write demo categories to disk in the layout of MVTec AD."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from filelock import FileLock

from anomalib_inctrl.demo.categories import REGISTRY
from anomalib_inctrl.demo.render import IMAGE_SIZE, Sample, check_category, render_batch
from anomalib_inctrl.errors import DatasetError

GENERATOR_VERSION = 1
"""Raised whenever the same settings would give other pictures."""

SETTINGS_FILE = "demo.json"
_BATCH = 16
_NORMAL_TEST, _ANOMALOUS_TEST = 1_000_000, 2_000_000  # where the image numbers of the test splits start
# sensor noise leaves nothing to match: entropy coding alone is the fastest and nearly as small
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY]


@dataclass(frozen=True)
class DemoSettings:
    """What decides the pictures of a category folder.

    Attributes:
        train_count: Number of normal training images.
        test_normal_count: Number of normal test images.
        test_anomalous_count: Number of anomalous test images, spread evenly over the category's kinds of defect.
        seed: Seed of the rendering.
        size: Side of the images in pixels.
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


def render_category(root: Path | str, category: str, settings: DemoSettings) -> Path:
    """Render a category into `root/category` unless it is there already.

    The folder appears whole or not at all, and several processes may ask for it at the same time.

    Args:
        root: Folder of the dataset; made if it does not exist.
        category: Name of the category.
        settings: What to render.

    Returns:
        The folder of the category.

    Raises:
        DatasetError: If the category is unknown, or its folder exists but was not rendered with these settings.
    """
    check_category(category)
    folder = Path(root) / category
    if folder.exists():
        check_rendered(folder, settings)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # A lock is gone with the process that held it, so what lies in the unfinished folder belongs to nobody.
    with FileLock(folder.with_name(f".{category}.lock")):
        if folder.exists():  # another process was faster
            check_rendered(folder, settings)
            return folder
        unfinished = folder.with_name(f".{category}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            _write(unfinished, category, settings)
            unfinished.replace(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def check_rendered(folder: Path, settings: DemoSettings) -> None:
    """Check that a category folder holds what the settings ask for.

    Raises:
        DatasetError: If it does not exist or was rendered with other settings; the message names the difference.
    """
    if not folder.is_dir():
        msg = f"There is no demo category in {folder}; call prepare_data() first."
        raise DatasetError(msg)
    remedy = "Use another root, or delete that folder to have it rendered anew."
    try:
        found = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{folder} holds no readable {SETTINGS_FILE}, so it is not a finished demo category. {remedy}"
        raise DatasetError(msg) from error
    wanted = _description(settings)
    if found != wanted:
        found = found if isinstance(found, dict) else {}
        names = sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))
        differences = ", ".join(f"{n}={found.get(n)} (asked for: {wanted.get(n)})" for n in names)
        msg = f"{folder} was rendered with other settings: {differences}. {remedy}"
        raise DatasetError(msg)


def _description(settings: DemoSettings) -> dict[str, int]:
    return {"generator_version": GENERATOR_VERSION, **asdict(settings)}


def _plan(category: str, settings: DemoSettings) -> Iterator[tuple[Sample, str, str | None]]:
    """Each image of a category with its path and the path of its mask."""
    for i in range(settings.train_count):
        yield Sample(category, i), f"train/good/{i:03}.png", None
    for i in range(settings.test_normal_count):
        yield Sample(category, _NORMAL_TEST + i), f"test/good/{i:03}.png", None
    kinds = REGISTRY[category].defects
    # kind by kind: neighbours of one kind render faster
    for i in sorted(range(settings.test_anomalous_count), key=lambda i: i % len(kinds)):
        number, which = divmod(i, len(kinds))
        kind = kinds[which]
        yield (
            Sample(category, _ANOMALOUS_TEST + i, kind),
            f"test/{kind}/{number:03}.png",
            f"ground_truth/{kind}/{number:03}_mask.png",
        )


def _write(folder: Path, category: str, settings: DemoSettings) -> None:
    plan = list(_plan(category, settings))
    for directory in {Path(path).parent for _, *paths in plan for path in paths if path}:
        (folder / directory).mkdir(parents=True)
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        jobs: list[Future[None]] = []
        for start in range(0, len(plan), _BATCH):
            part = plan[start : start + _BATCH]
            batch = render_batch([sample for sample, _, _ in part], seed=settings.seed, size=settings.size)
            images = batch.image.flip(1).permute(0, 2, 3, 1).contiguous().numpy()  # OpenCV wants blue first
            masks = batch.mask.byte().mul(255).numpy()
            for i, (_, image_path, mask_path) in enumerate(part):
                jobs.append(pool.submit(_write_png, folder / image_path, images[i]))
                if mask_path is not None:
                    jobs.append(pool.submit(_write_png, folder / mask_path, masks[i]))
        for job in jobs:
            job.result()
    (folder / SETTINGS_FILE).write_text(json.dumps(_description(settings), indent=2) + "\n", encoding="utf-8")


def _write_png(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    done, data = cv2.imencode(".png", pixels, _PNG)
    if not done:
        msg = f"OpenCV could not encode {path}."
        raise OSError(msg)
    path.write_bytes(data.tobytes())
