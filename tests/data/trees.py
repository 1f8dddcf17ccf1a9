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


def mvtec_category(root: Path, name: str, *, train: int = 5, size: tuple[int, int] = (32, 32)) -> Path:
    """Normal images for training, two normal and three abnormal ones for testing, whose masks are a square of 8 x 8."""
    for folder, count, seed in (("train/good", train, 0), ("test/good", 2, 100), ("test/scratch", 3, 200)):
        for index in range(count):
            write_image(root / name / folder / f"{index:03}.png", seed + index, size)
    mask = np.zeros(size, dtype=np.uint8)
    mask[4:12, 4:12] = 255
    masks = root / name / "ground_truth" / "scratch"
    masks.mkdir(parents=True, exist_ok=True)
    for index in range(3):
        Image.fromarray(mask).save(masks / f"{index:03}_mask.png")
    return root


def folder_tree(root: Path, normal: int = 6, abnormal: int = 4) -> dict[str, object]:
    """Write a tree for Folder; returns its options."""
    for folder, count, seed in (("good", normal, 300), ("bad", abnormal, 400)):
        for index in range(count):
            write_image(root / folder / f"{index:03}.png", seed + index)
    return {"name": root.name, "normal_dir": "good", "abnormal_dir": "bad"}
