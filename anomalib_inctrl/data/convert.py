# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``anomalib-inctrl convert``: raw datasets to MVTec AD's layout."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from anomalib_inctrl.data.datasets import DATASETS, BenchmarkDataModule
from anomalib_inctrl.data.datasets.converted import converted_rows, differences, read_manifest, write_converted
from anomalib_inctrl.data.datasets.records import GOOD
from anomalib_inctrl.errors import DatasetError, ImageFileError


def main(argv: Sequence[str] | None = None) -> int:
    """Convert a dataset, or check a converted one.

    Args:
        argv: Arguments without the program's name; those of the process if None.

    Returns:
        0 on success, 1 if the data is not as it should be.
    """
    parser = argparse.ArgumentParser(
        prog="anomalib-inctrl convert",
        description="Convert a dataset from its authors' layout to MVTec AD's. Nothing is downloaded.",
    )
    parser.add_argument("dataset", choices=sorted(DATASETS), help="which dataset")
    parser.add_argument("--root", type=Path, help="folder of the raw data, extracted")
    parser.add_argument("--out", type=Path, required=True, help="folder of the converted data")
    parser.add_argument("--check", action="store_true", help="write nothing, name what differs in --out")
    parser.add_argument("--no_check_counts", action="store_true", help="accept a part of the dataset")
    args = parser.parse_args(argv)
    if args.root is None and not args.check:
        parser.error("--root is needed: the folder of the raw data.")

    dataset, check_counts = DATASETS[args.dataset], not args.no_check_counts
    _print_card(dataset)
    try:
        if args.check:
            return _check(dataset, args.out, args.root, check_counts)
        _convert(dataset, args.root, args.out, check_counts)
    except (DatasetError, ImageFileError, OSError) as error:
        _print(f"Error: {error}", stderr=True)
        return 1
    return 0


def _print(text: str, *, stderr: bool = False) -> None:
    Console(stderr=stderr, soft_wrap=True, highlight=False).print(text, markup=False)


def _print_card(dataset: type[BenchmarkDataModule]) -> None:
    card = dataset.card
    drawn = (
        "The authors' exact split cannot be recovered: they drew from a list in the order of the file system. Here it "
        "is sorted first."
    )
    split = drawn if any(label == GOOD for _, label in card.expected) else "The usual train and test split is kept."
    _print(f"{card.title}\nLicence:  {card.licence}\nSource:   {card.homepage}\nCitation: {card.citation}\n{split}")


def _convert(dataset: type[BenchmarkDataModule], root: Path, out: Path, check_counts: bool) -> None:
    scan = dataset.scan(root, check_counts=check_counts)
    for note in scan.notes:
        _print(f"Note: {note}")
    written = write_converted(scan, out)
    counts = read_manifest(out).groupby(["category", "split", "label"]).size()
    for (category, split, label), count in counts.items():
        _print(f"{count:>7}  {category}/{split}/{label}")
    _print(f"{'Converted to' if written else 'Nothing to do, already converted and unchanged:'} {out}")


def _check(dataset: type[BenchmarkDataModule], out: Path, root: Path | None, check_counts: bool) -> int:
    problems = differences(dataset.card, out, dataset.scan(root, check_counts=check_counts) if root else None)
    if problems:
        _print("\n".join(problems))
        _print(f"{out}: {len(problems)} differences. Remove the folder and convert again.")
        return 1
    for category in dataset.card.categories:
        converted_rows(dataset.card, out, category, check_counts=check_counts)
    _print(f"{out} is as it was converted: {len(read_manifest(out))} files.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
