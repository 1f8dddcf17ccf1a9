# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Converted datasets: folders in MVTec AD's layout with a list of their files.

``manifest.csv`` has one row for each image and one for each mask: ``path`` below the dataset's folder, ``split``
(``train``, ``test``, ``ground_truth``), ``label``, ``category`` (its folder), ``source`` (raw file and part) and the
file's ``sha256``. ``dataset.json`` holds licence, source and citation.
"""

from __future__ import annotations

import json
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock
from PIL import Image
from rich.console import Console
from rich.progress import track

from anomalib_inctrl.data.datasets.records import GROUND_TRUTH, DatasetCard, Scan, natural_key, read_masks, safe_path
from anomalib_inctrl.errors import DatasetError
from anomalib_inctrl.io.images import open_image
from anomalib_inctrl.io.weights import file_sha256

MANIFEST = "manifest.csv"
CARD = "dataset.json"
COLUMNS = ["path", "split", "label", "category", "source", "sha256"]

_PNG_MODES = frozenset({"1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA"})


def is_converted(folder: Path) -> bool:
    """Whether a folder holds a converted dataset; since it is moved into place when finished, a complete one."""
    return (folder / MANIFEST).is_file()


def write_converted(scan: Scan, out: str | Path) -> bool:
    """Write a dataset in MVTec AD's layout; False if ``out`` holds the same already.

    The folder appears complete or not at all, even if the process is killed, and several processes may write it at the
    same time.

    Raises:
        DatasetError: If ``out`` holds something else.
        ImageFileError: If a raw image cannot be read.
    """
    out = Path(out).resolve()
    if scan.base.resolve().is_relative_to(out):
        msg = f"{out} holds the raw data itself. Give another folder for the converted data."
        raise DatasetError(msg)
    out.parent.mkdir(parents=True, exist_ok=True)
    # A lock ends with the process that held it, so an unfinished folder found here belongs to nobody.
    with FileLock(out.with_name(f".{out.name}.lock")):
        if is_converted(out):
            if problems := differences(scan.card, out, scan):
                msg = (
                    f"{out} differs from what would be written: {len(problems)} differences, the first: {problems[0]}. "
                    "Remove it to have it converted again."
                )
                raise DatasetError(msg)
            return False
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            msg = f"{out} exists and is no converted dataset. Give a new folder, or remove what is there."
            raise DatasetError(msg)
        unfinished = out.with_name(f".{out.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            _write(scan, unfinished)
            if out.exists():
                out.rmdir()
            unfinished.replace(out)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return True


def _write(scan: Scan, folder: Path) -> None:
    read = lru_cache(1)(open_image)  # the parts of one raw image follow each other
    rows = []
    records = sorted(scan.records, key=lambda record: record.source)
    for record in track(records, scan.card.name, console=Console(stderr=True), transient=True):
        part: Any = record.part
        if record.source in scan.arrays:
            images = [Image.fromarray(scan.arrays[record.source][part[0]])]
        else:
            images = [read(scan.base / record.source)]
            images += [read_masks(scan.base, record.masks)] if record.masks else []
            images = [image.crop(part) if part else image for image in images]
        for image, row in zip(images, record.rows(), strict=True):
            path = folder / row[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            (image if image.mode in _PNG_MODES else image.convert("RGB")).save(path)
            rows.append((*row, file_sha256(path)))
    rows.sort(key=lambda row: natural_key(row[0]))
    (folder / CARD).write_text(_card_text(scan.card), encoding="utf-8")
    pd.DataFrame(rows, columns=COLUMNS).to_csv(folder / MANIFEST, index=False, lineterminator="\n")


def _card_text(card: DatasetCard) -> str:
    facts = ("name", "title", "task", "licence", "homepage", "citation")
    return json.dumps({fact: getattr(card, fact) for fact in facts}, indent=2) + "\n"


def read_manifest(folder: Path) -> pd.DataFrame:
    """Read the manifest of a converted dataset; all its columns are text.

    Raises:
        DatasetError: If it cannot be read, lacks a column, or names a file outside the folder.
    """
    path = folder / MANIFEST
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")[COLUMNS]
    except (ValueError, KeyError, OSError) as error:
        msg = f"{path}: not readable as a table with the columns {', '.join(COLUMNS)} ({error}). Convert the dataset."
        raise DatasetError(msg) from error
    if unsafe := [name for name in table["path"] if safe_path(name) is None]:
        msg = (
            f"{path}: names {unsafe[0]!r}, which is not a plain path below its folder. Do not use this copy; convert "
            "the dataset yourself."
        )
        raise DatasetError(msg)
    return table


def differences(card: DatasetCard, folder: Path, scan: Scan | None = None) -> list[str]:
    """Compare a converted dataset with its manifest, and the manifest with the raw data if given; a sentence each.

    Raises:
        DatasetError: If the manifest cannot be read or names files outside the folder.
    """
    table = read_manifest(folder)
    expected = {CARD, MANIFEST, *table["path"]}
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    found = [f"{path} is missing" for path in sorted(expected - present, key=natural_key)]
    found += [f"{path} is not in the manifest" for path in sorted(present - expected, key=natural_key)]
    found += [
        f"{path} has changed"
        for path, sha256 in zip(table["path"], table["sha256"], strict=True)
        if path in present and file_sha256(folder / path) != sha256
    ]
    if CARD in present and (folder / CARD).read_text(encoding="utf-8") != _card_text(card):
        found.append(f"{CARD} is not that of {card.name}")
    if scan is not None:
        rows = set(table[COLUMNS[:-1]].itertuples(index=False, name=None))
        wanted = {row for record in scan.records for row in record.rows()}
        found += [f"{row[0]} ({row[4]}) is not in the converted data" for row in sorted(wanted - rows)]
        found += [f"{row[0]} ({row[4]}) is not in the raw data" for row in sorted(rows - wanted)]
    return found


def converted_rows(card: DatasetCard, folder: Path, category: str, *, check_counts: bool = True) -> pd.DataFrame:
    """List the images of one category of a converted dataset.

    Returns:
        ``image_path``, ``split``, ``label``, and ``mask_path``, which is empty where there is no mask.

    Raises:
        DatasetError: If the manifest is not of this dataset, or lists too few images where counts are checked.
    """
    manifest = read_manifest(folder)
    wanted = card.folder or category
    table = manifest[manifest["category"] == wanted]
    if table.empty:
        held = ", ".join(sorted(set(manifest["category"]))) or "nothing"
        msg = f"{folder} is a converted dataset, but not {card.name}: it holds {held}, not {wanted}. Correct root."
        raise DatasetError(msg)
    images = table[table["split"] != GROUND_TRUTH]
    if check_counts:
        card.check_counts(str(folder), images.groupby(["split", "label"]).size().to_dict())
    masks = images["path"].str.replace("/test/", f"/{GROUND_TRUTH}/").str.replace(r"\.png$", "_mask.png", regex=True)
    masks = masks.where(masks.isin(table["path"]))
    place = f"{folder}/"
    return images[["split", "label"]].assign(image_path=place + images["path"], mask_path=(place + masks).fillna(""))
