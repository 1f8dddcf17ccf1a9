# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Curves over K."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from anomalib_inctrl.benchmark.report.tables import Cell

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def curves(lines: Mapping[str, Sequence[Cell]], k_shots: Sequence[int], title: str, unit: str) -> bytes:
    """Draw a line for each method, with bars for the standard deviation over seeds.

    Args:
        lines: By method its numbers at each K.
        k_shots: The values of K.
        title: Heading.
        unit: Label of the vertical axis.

    Returns:
        An SVG file; empty if there are no numbers.
    """
    # matplotlib's object interface selects no backend and keeps no global figures.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    if not any(cell.mean is not None for cells in lines.values() for cell in cells):
        return b""
    # Names may hold dollar signs, and the same numbers give the same file.
    with rc_context({"svg.fonttype": "none", "text.parse_math": False, "svg.hashsalt": "anomalib-inctrl"}):
        figure = Figure(figsize=(4.6, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for number, (method, cells) in enumerate(lines.items()):
            places = [place for place, cell in enumerate(cells) if cell.mean is not None]
            if places:
                means, spreads = [cells[i].mean or 0.0 for i in places], [cells[i].spread or 0.0 for i in places]
                marker = _MARKERS[number % len(_MARKERS)]
                axes.errorbar(places, means, spreads, label=method, marker=marker, markersize=4.5, capsize=2.5)
        axes.set_xticks(range(len(k_shots)), [str(k) for k in k_shots])
        axes.set_xlabel("K, number of normal prompt images")
        axes.set_ylabel(unit)
        axes.set_title(title, fontsize=10)
        axes.grid(axis="y", alpha=0.2)
        axes.legend(fontsize=7.5, frameon=False)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
