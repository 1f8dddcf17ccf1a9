# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Small copies of the raw datasets' layouts, a few kilobytes each, with every irregularity of the originals."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
from PIL import Image


def save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def noise_image(path: Path, size: tuple[int, int], seed: int = 0, mode: str = "L") -> None:
    """An image of coarse noise, which compresses well; size is (width, height)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 12), dtype=np.uint8)
    save(path, Image.fromarray(coarse).resize(size, Image.Resampling.NEAREST).convert(mode))


def mask(path: Path, size: tuple[int, int], *boxes: tuple[int, int, int, int]) -> None:
    """A mask with boxes (left, top, right, bottom) set; size is (width, height)."""
    image = Image.new("L", size)
    for box in boxes:
        image.paste(255, box)
    save(path, image)


def write_aitex(root: Path) -> Path:
    """Four tiles a strip; images with one mask, two, none and an empty one, and one that is narrower."""
    size = (1024, 256)
    for fabric, name in enumerate(("2306881-210020u", "2311517-195063u")):
        for number in (1, 2, 10):
            noise_image(root / "NODefect_images" / name / f"{number:04}_000_0{fabric}.png", size, 10 * fabric + number)
    for seed, name in enumerate(("0011_002_00", "0044_019_04", "0100_025_08", "0106_010_03")):
        noise_image(root / "Defect_images" / f"{name}.png", size, 30 + seed)
    noise_image(root / "Defect_images" / "0094_027_05.png", (724, 256), 40)
    masks = root / "Mask_images"
    mask(masks / "0011_002_00_mask.png", size, (250, 0, 260, 9))  # across the first cut
    mask(masks / "0044_019_04_mask1.png", size, (10, 10, 20, 20))
    mask(masks / "0044_019_04_mask2.png", size, (800, 10, 820, 20))
    mask(masks / "0094_027_05_mask.png", (724, 256), (720, 200, 724, 256))
    mask(masks / "0106_010_03_mask.png", size)
    (root / "NODefect_images" / ".DS_Store").write_bytes(b"\0")
    (root / "Defect_images" / "._0011_002_00.png").write_bytes(b"\0")
    return root


def write_kolektor(root: Path) -> Path:
    """Heights that three does not divide; a defect in one part, one across a cut, and none."""
    size = (20, 31)  # parts of 10, 10 and 11 rows
    defects = {("kos01", 2): [(3, 12, 8, 15)], ("kos02", 10): [(3, 19, 8, 22)]}
    for folder in ("kos01", "kos02", "kos10"):
        for part in (0, 2, 10):
            noise_image(root / folder / f"Part{part}.jpg", size, part)
            mask(root / folder / f"Part{part}_label.bmp", size, *defects.get((folder, part), []))
    return root


def write_elpv(root: Path) -> Path:
    """Cells of all four probabilities and both kinds."""
    rows = []
    for number in range(1, 21):
        probability = (0.0, 0.0, 0.3333333333333333, 1.0, 0.6666666666666666)[number % 5]
        noise_image(root / "images" / f"cell{number:04}.png", (30, 30), number)
        rows.append(f"images/cell{number:04}.png  {probability}   {'mono' if number % 2 else 'poly'}\n")
    (root / "labels.csv").write_text("".join(rows))
    return root


def write_brain_mri(root: Path) -> Path:
    """Every suffix, mode and several sizes; two names that differ in the suffix alone."""
    files = [("no/1 no.jpeg", (40, 50), "RGB"), ("no/N2.JPG", (64, 44), "L"), ("no/no 10.jpg", (32, 32), "L")]
    files += [("no/no 9.jpg", (30, 31), "L"), ("no/N17.png", (33, 30), "RGBA"), ("yes/Y1.jpg", (60, 30), "L")]
    files += [("yes/Y1.JPG", (30, 60), "RGB"), ("yes/Y20.jpg", (31, 33), "CMYK")]
    for seed, (name, size, mode) in enumerate(files, 1):
        noise_image(root / name, size, seed, mode)
    return root


def write_head_ct(root: Path) -> Path:
    """Numbered images of several sizes and modes."""
    for number in range(12):
        path = root / "head_ct" / "head_ct" / f"{number:03}.png"
        noise_image(path, (30 + number, 28), number, "RGB" if number % 3 else "L")
    rows = [f"{number},{int(number < 5)}\n" for number in range(12)]
    (root / "labels.csv").write_text("id, hemorrhage\n" + "".join(rows))
    return root


def write_mnist(root: Path) -> Path:
    """idx files of all ten digits; three of each for training and two for testing."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 30), ("t10k", 20)):
        labels = np.arange(count, dtype=np.uint8) % 10
        pixels = np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        for kind, magic, values in (("images-idx3", 2051, pixels), ("labels-idx1", 2049, labels)):
            header = np.array([magic, *values.shape], dtype=">i4").tobytes()
            (raw / f"{split}-{kind}-ubyte").write_bytes(header + values.tobytes())
    return root


def write_cifar10(root: Path, monkeypatch) -> Path:
    """Batches of 20 images; their checksums replace those of the originals."""
    from torchvision.datasets import CIFAR10

    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)

    def write(name: str, content: dict) -> list[str]:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    def batch(seed: int) -> dict:
        coarse = np.random.default_rng(seed).integers(0, 256, (20, 3, 2, 2), dtype=np.uint8)
        return {"data": coarse.repeat(16, 2).repeat(16, 3).reshape(20, 3072), "labels": [*range(10)] * 2}

    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    monkeypatch.setattr(CIFAR10, "train_list", [write(f"data_batch_{number}", batch(number)) for number in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [write("test_batch", batch(6))])
    filename, md5 = write("batches.meta", {"label_names": names})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": filename, "key": "label_names", "md5": md5})
    return root


WRITERS = {
    "AITEX": write_aitex,
    "BrainMRI": write_brain_mri,
    "ELPV": write_elpv,
    "HeadCT": write_head_ct,
    "KolektorSDD": write_kolektor,
    "MNIST": write_mnist,
}
"""All but CIFAR-10's, which needs other checksums."""


def write_raw(name: str, root: Path, monkeypatch) -> Path:
    """Write the small copy of a dataset."""
    return write_cifar10(root, monkeypatch) if name == "CIFAR10" else WRITERS[name](root)
