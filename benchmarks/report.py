# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Tables of an ablation: mean over categories, then mean and standard deviation over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from rich.table import Table
from scipy.stats import t as student
from scoring import METRICS

TITLES = dict(zip(METRICS, ("image AUROC", "image AP", "pixel AUROC", "pixel AP", "AUPRO"), strict=True))
_COMPARED = ("image_AUROC", "pixel_AUROC", "AUPRO")


def summarize(results: pd.DataFrame, names: Sequence[str], reference: str) -> pd.DataFrame:
    """Summarize results in long form.

    Args:
        results: A line per row, seed and category, with ``row``, ``group``, ``seed``, ``category`` and the metrics.
        names: Rows in the order to show them; those without results are left out.
        reference: Row that the others are compared with, seed by seed.

    Returns:
        A line per row: ``group``, ``row``, and text ``mean ± standard deviation`` over seeds, for each metric and, in
        columns that start with a delta, for the difference to the reference. A star marks a difference that a paired
        t-test over the seeds calls significant at 5 %; it says nothing about other categories.
    """
    by_seed = results.groupby(["row", "seed"])[list(METRICS)].mean()
    groups = results.drop_duplicates("row").set_index("row")["group"]
    lines = []
    for name in names:
        if name not in groups:
            continue
        own = by_seed.loc[name]
        line = {"group": groups[name], "row": name}
        line |= {TITLES[metric]: _text(own[metric]) for metric in METRICS}
        if reference in groups:
            shift = own - by_seed.loc[reference]
            line |= {
                f"Δ {TITLES[metric]}": "" if name == reference else _text(shift[metric], "+") + _star(shift[metric])
                for metric in _COMPARED
            }
        lines.append(line)
    return pd.DataFrame(lines)


def _text(values: pd.Series, sign: str = "") -> str:
    # In hundredths: metrics as percentages.
    spread = 100 * values.std(ddof=1) if len(values) > 1 else 0.0
    return f"{100 * values.mean():{sign}.1f} ± {spread:.1f}"


def _star(shift: pd.Series) -> str:
    if len(shift) < 2:
        return ""
    error = shift.std(ddof=1) / np.sqrt(len(shift))
    return " *" if abs(shift.mean()) > student.ppf(0.975, len(shift) - 1) * error + 1e-6 else ""


def to_markdown(summary: pd.DataFrame) -> str:
    """Write a summary as a Markdown table."""
    columns = list(summary.columns)
    lines = [columns, ["---"] * 2 + ["---:"] * (len(columns) - 2), *summary.to_numpy().tolist()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def to_rich(summary: pd.DataFrame, title: str) -> Table:
    """Make a summary a table for the terminal; the differences stay out, for want of room."""
    table = Table(title=title)
    shown = ["row", *TITLES.values()]
    for column in shown:
        table.add_column(column, justify="left" if column == "row" else "right", no_wrap=True)
    last_of_group = summary["group"] != summary["group"].shift(-1)
    for line, ends in zip(summary[shown].to_numpy().tolist(), last_of_group, strict=True):
        table.add_row(*line, end_section=bool(ends))
    return table
