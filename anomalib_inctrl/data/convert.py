# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Converting datasets in odd raw layouts to MVTec AD's; the command ``anomalib-inctrl convert``."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock
from PIL import Image
from rich.console import Console
from rich.progress import track

from anomalib_inctrl.data.manifest import (
    CARD,
    COLUMNS,
    GROUND_TRUTH,
    MANIFEST,
    converted_samples,
    is_converted,
    manifest_text,
    read_manifest,
)
from anomalib_inctrl.data.raw import RAW_DATASETS, RawDataset, Record, Scan
from anomalib_inctrl.data.raw.base import GOOD, natural_key
from anomalib_inctrl.errors import DatasetError, ImageFileError

_Row = tuple[str, ...]
_SHOWN = 20
_WORKERS = min(4, os.cpu_count() or 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Convert a dataset, or check a converted one.

    Args:
        argv: Arguments without the program's name; those of the process if None.

    Returns:
        0 if all is well, 1 if the data is not as it should be.
    """
    parser = argparse.ArgumentParser(
        prog="anomalib-inctrl convert",
        description="Convert a dataset as its authors hand it out to MVTec AD's folder layout. Nothing is downloaded.",
    )
    parser.add_argument("dataset", choices=sorted(RAW_DATASETS), help="which dataset")
    parser.add_argument("--root", type=Path, help="folder of the raw data, extracted")
    parser.add_argument("--out", type=Path, required=True, help="folder of the converted data")
    parser.add_argument("--check", action="store_true", help="write nothing, name what differs in --out")
    parser.add_argument("--no_check_counts", action="store_true", help="accept a part of the dataset")
    args = parser.parse_args(argv)
    if args.root is None and not args.check:
        parser.error("--root is needed: the folder of the raw data.")

    dataset, check_counts = RAW_DATASETS[args.dataset], not args.no_check_counts
    console = Console(soft_wrap=True, highlight=False)
    _introduce(dataset, console)
    try:
        if args.check:
            return _report_check(dataset, args.out, args.root, check_counts, console)
        scan = dataset.scan(args.root, check_counts=check_counts)
        for note in scan.notes:
            console.print(f"Note: {note}", markup=False)
        written = write_dataset(dataset, scan, args.out, console=console)
        table = read_manifest(args.out)
        counts = table.groupby(["category", "split", "label"], sort=True).size()
        for (category, split, label), count in counts.items():
            console.print(f"{count:>7}  {category}/{split}/{label}", markup=False)
        state = "Converted to" if written else "Nothing to do, already converted and unchanged:"
        console.print(f"{state} {args.out}", markup=False)
    except (DatasetError, ImageFileError, OSError) as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"Error: {error}", markup=False)
        return 1
    return 0


def convert(
    dataset: RawDataset, root: str | Path, out: str | Path, *, check_counts: bool = True, console: Console | None = None
) -> list[str]:
    """Convert a dataset to ``out``.

    The folder appears whole or not at all, whatever happens, and several processes may ask for it at the same time.
    What is there already and unchanged is left as it is.

    Args:
        dataset: Which dataset.
        root: Folder of the raw data.
        out: Folder to write.
        check_counts: Whether all pictures of the dataset must be there.
        console: Where to show progress; standard error if None.

    Returns:
        Notes for the user, such as pictures that had to be left out.

    Raises:
        DatasetError: If the raw data is not as it should be, or ``out`` holds something else.
        ImageFileError: If a raw picture cannot be read.
    """
    scan = dataset.scan(root, check_counts=check_counts)
    write_dataset(dataset, scan, out, console=console)
    return scan.notes


def write_dataset(dataset: RawDataset, scan: Scan, out: str | Path, *, console: Console | None = None) -> bool:
    """Write scanned data in MVTec AD's layout; see :func:`convert`.

    Args:
        dataset: Which dataset.
        scan: Its pictures.
        out: Folder to write.
        console: Where to show progress; standard error if None.

    Returns:
        Whether anything was written; False if ``out`` holds the same already.

    Raises:
        DatasetError: If ``out`` holds something else, or what was written does not read back.
        ImageFileError: If a raw picture cannot be read.
    """
    out = Path(out).resolve()
    if scan.base.resolve().is_relative_to(out):
        msg = f"{out} holds the raw data itself. Give another folder for the converted data."
        raise DatasetError(msg)
    console = console or Console(stderr=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    # A lock is gone with the process that held it, so what lies in the unfinished folder belongs to nobody.
    with FileLock(out.with_name(f".{out.name}.lock")):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            _require_same(dataset, scan, out)
            return False
        unfinished = out.with_name(f".{out.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            _write(dataset, scan, unfinished, console)
            if problems := differences(dataset, unfinished, scan):
                msg = f"What was written does not read back: {_listed(problems)}. Is the disk full or faulty?"
                raise DatasetError(msg)
            if out.exists():
                out.rmdir()
            unfinished.replace(out)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return True


def differences(dataset: RawDataset, folder: Path, scan: Scan | None = None) -> list[str]:
    """Compare a converted dataset with its manifest, and that with the raw data.

    Args:
        dataset: Which dataset it should be.
        folder: Folder of the converted dataset.
        scan: The raw data, if it is at hand.

    Returns:
        What differs, a sentence each; empty if nothing does.

    Raises:
        DatasetError: If the manifest cannot be read or names files outside the folder.
    """
    table = read_manifest(folder)
    found = []
    expected = {CARD, MANIFEST, *table["path"]}
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    found += [f"{path} is missing" for path in sorted(expected - present, key=natural_key)]
    found += [f"{path} is not in the manifest" for path in sorted(present - expected, key=natural_key)]
    listed = [(path, sha256) for path, sha256 in zip(table["path"], table["sha256"], strict=True) if path in present]
    with ThreadPoolExecutor(_WORKERS) as pool:
        sums = pool.map(lambda path: _sha256(folder / path), [path for path, _ in listed])
        found += [f"{path} has changed" for (path, wanted), got in zip(listed, sums, strict=True) if got != wanted]
    if CARD in present and (folder / CARD).read_text(encoding="utf-8") != _card_text(dataset):
        found.append(f"{CARD} is not that of {dataset.card.name}")
    if scan is not None:
        rows = set(table[list(COLUMNS[:-1])].itertuples(index=False, name=None))
        wanted_rows = {row for record in scan.records for row in _rows(record)}
        found += [f"{row[0]} ({row[4]}) is not in the converted data" for row in sorted(wanted_rows - rows)]
        found += [f"{row[0]} ({row[4]}) is not in the raw data" for row in sorted(rows - wanted_rows)]
    return found


def _require_same(dataset: RawDataset, scan: Scan, out: Path) -> None:
    if not out.is_dir() or not is_converted(out):
        msg = f"{out} exists and is no converted dataset. Give a new folder, or remove what is there."
        raise DatasetError(msg)
    if problems := differences(dataset, out, scan):
        msg = f"{out} differs from what would be written: {_listed(problems)}. Remove it to have it converted anew."
        raise DatasetError(msg)


def _write(dataset: RawDataset, scan: Scan, folder: Path, console: Console) -> None:
    for parent in {Path(row[0]).parent for record in scan.records for row in _rows(record)}:
        (folder / parent).mkdir(parents=True, exist_ok=True)

    def write_group(records: list[Record]) -> list[_Row]:
        rows: list[_Row] = []
        for record in records:
            contents = [_content(dataset, scan.base, record)]
            if record.masks:
                contents.append(_png(dataset.read_mask(scan.base, record)))
            for row, content in zip(_rows(record), contents, strict=True):
                (folder / row[0]).write_bytes(content)
                rows.append((*row, hashlib.sha256(content).hexdigest()))
        return rows

    # The parts of one raw picture stay together, so that it is read once.
    groups: dict[tuple[str, int | None], list[Record]] = {}
    for record in scan.records:
        groups.setdefault((record.source, record.index), []).append(record)

    rows: list[_Row] = []
    with ThreadPoolExecutor(_WORKERS) as pool:
        try:
            done = pool.map(write_group, groups.values())
            for part in track(done, dataset.card.name, total=len(groups), console=console, transient=True):
                rows += part
        except BaseException:  # an interrupt does not wait for all that is left
            pool.shutdown(cancel_futures=True)
            raise
    rows.sort(key=lambda row: natural_key(row[0]))
    (folder / CARD).write_text(_card_text(dataset), encoding="utf-8")
    (folder / MANIFEST).write_text(manifest_text(rows), encoding="utf-8")


def _content(dataset: RawDataset, base: Path, record: Record) -> bytes:
    image = dataset.read(base, record)
    as_it_is = record.box is None and record.index is None and record.source.endswith(".png")
    return (base / record.source).read_bytes() if as_it_is else _png(image)


def _rows(record: Record) -> list[tuple[str, str, str, str, str]]:
    """Rows of the manifest for a picture and its mask, but for the checksum."""
    rows = [(record.path, record.split, record.label, record.category, record.origin)]
    if record.masks:
        origin = "+".join(record.masks) + record.origin.removeprefix(record.source)
        rows.append((record.mask_path, GROUND_TRUTH, record.label, record.category, origin))
    return rows


def _png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    # Modes that PNG has not, such as CMYK, are turned into RGB; everything else keeps its own.
    (image if image.mode in {"1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA"} else image.convert("RGB")).save(
        content, format="PNG"
    )
    return content.getvalue()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _card_text(dataset: RawDataset) -> str:
    card = dataset.card
    facts = {
        "name": card.name,
        "title": card.title,
        "task": card.task,
        "licence": card.licence,
        "homepage": card.homepage,
        "citation": card.citation,
    }
    return json.dumps(facts, indent=2) + "\n"


def _introduce(dataset: RawDataset, console: Console) -> None:
    card = dataset.card
    for line in (
        card.title,
        f"Licence:  {card.licence}",
        f"Source:   {card.homepage}",
        f"Citation: {card.citation}",
        "The authors' exact split cannot be recovered: they drew from a list in the order of the file system. Here it "
        "is sorted first."
        if any(label == GOOD for _, label in card.expected)
        else "The usual train and test split is kept.",
    ):
        console.print(line, markup=False)


def _report_check(dataset: RawDataset, out: Path, root: Path | None, check_counts: bool, console: Console) -> int:
    if not is_converted(out):
        msg = f"{out} is no converted dataset: it has no {MANIFEST}. Convert the raw data first, without --check."
        raise DatasetError(msg)
    scan = None if root is None else dataset.scan(root, check_counts=check_counts)
    problems = differences(dataset, out, scan)
    if not problems:
        for category in dataset.card.categories:
            converted_samples(dataset, out, category, check_counts=check_counts)
        console.print(f"{out} is as it was converted: {len(read_manifest(out))} files.", markup=False)
        return 0
    for problem in problems:
        console.print(problem, markup=False)
    console.print(f"{out}: {len(problems)} differences. Remove the folder and convert again.", markup=False)
    return 1


def _listed(problems: list[str]) -> str:
    more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return "; ".join(problems[:_SHOWN]) + more


if __name__ == "__main__":
    sys.exit(main())
