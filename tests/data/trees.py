# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Tiny datasets in the folder layouts of anomalib's datamodules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_image(path: Path, seed: int, size: tuple[int, int] = (32, 32)) -> Path:
    """An image of noise; size is (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return path


def write_mask(path: Path, size: tuple[int, int] = (32, 32)) -> Path:
    """A mask with a square of 8 x 8 set."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size, dtype=np.uint8)
    mask[4:12, 4:12] = 255
    Image.fromarray(mask).save(path)
    return path


def mvtec_category(
    root: Path, name: str, *, train: int = 5, good: int = 2, bad: int = 3, size: tuple[int, int] = (32, 32)
) -> Path:
    for index in range(train):
        write_image(root / name / "train" / "good" / f"{index:03}.png", index, size)
    for index in range(good):
        write_image(root / name / "test" / "good" / f"{index:03}.png", 100 + index, size)
    for index in range(bad):
        write_image(root / name / "test" / "scratch" / f"{index:03}.png", 200 + index, size)
        write_mask(root / name / "ground_truth" / "scratch" / f"{index:03}_mask.png", size)
    return root


def folder_tree(root: Path, normal: int = 6, abnormal: int = 4, masks: bool = False) -> dict[str, object]:
    """Write a tree for Folder; returns its options."""
    for index in range(normal):
        write_image(root / "good" / f"{index:03}.png", 300 + index)
    for index in range(abnormal):
        write_image(root / "bad" / f"{index:03}.png", 400 + index)
        if masks:
            write_mask(root / "mask" / f"{index:03}.png")
    options: dict[str, object] = {"name": root.name, "normal_dir": "good", "abnormal_dir": "bad"}
    return {**options, "mask_dir": "mask"} if masks else options
