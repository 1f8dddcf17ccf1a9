# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``anomalib-inctrl convert``: raw datasets to MVTec AD's layout."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from anomalib_inctrl.data.datasets import DATASETS
from anomalib_inctrl.data.datasets.converted import converted_rows, differences, read_manifest, write_converted
from anomalib_inctrl.data.datasets.records import GOOD
from anomalib_inctrl.errors import DatasetError, ImageFileError

_DRAWN = (
    "The authors' exact split cannot be recovered: they drew from a list in the order of the file system. Here it is "
    "sorted first."
)


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
    card = dataset.card
    drawn = any(label == GOOD for _, label in card.expected)
    print(f"{card.title}\nLicence:  {card.licence}\nSource:   {card.homepage}\nCitation: {card.citation}")
    print(_DRAWN if drawn else "The usual train and test split is kept.")
    try:
        scan = dataset.scan(args.root, check_counts=check_counts) if args.root else None
        if scan is None or args.check:
            if problems := differences(card, args.out, scan):
                print(
                    *problems,
                    f"{args.out}: {len(problems)} differences. Remove the folder and convert again.",
                    sep="\n",
                )
                return 1
            for category in card.categories:
                converted_rows(card, args.out, category, check_counts=check_counts)
            done = "Is as it was converted:"
        else:
            print("".join(f"Note: {note}\n" for note in scan.notes), end="")
            written = write_converted(scan, args.out)
            done = "Converted to" if written else "Nothing to do, already converted and unchanged:"
        counts = read_manifest(args.out).groupby(["category", "split", "label"]).size()
    except (DatasetError, ImageFileError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    for (category, split, label), count in counts.items():
        print(f"{count:>7}  {category}/{split}/{label}")
    print(f"{done} {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
