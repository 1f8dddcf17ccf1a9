# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Curves over K as SVG that takes its text colour from the page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from anomalib_inctrl.benchmark.report.tables import Cell

# Readable on white and on near-black alike, and apart from each other for most colour-blind readers.
COLOURS = ("#2f7ed8", "#d9730d", "#2a9d5c", "#b45bcf", "#c9442e", "#7a7f87", "#a88a10", "#1f9aa8")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_INK = "#010203"  # replaced by the page's own


def curves(lines: Mapping[str, Sequence[Cell]], k_shots: Sequence[int], title: str, unit: str) -> str:
    """Draw a line for each method, with bars for the spread over seeds.

    Args:
        lines: By method its numbers at each K.
        k_shots: The K.
        title: Heading.
        unit: What is on the vertical axis.

    Returns:
        An ``<svg>`` element; empty if there is nothing to draw.
    """
    # matplotlib's own object interface: no backend is chosen, no window state is touched.
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    if not any(cell.mean is not None for cells in lines.values() for cell in cells):
        return ""
    style: Any = {
        "svg.fonttype": "none",
        "text.parse_math": False,  # names may hold dollar signs
        "svg.hashsalt": "anomalib-inctrl",
        "font.family": "sans-serif",
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
    }
    with rc_context(style):
        figure = Figure(figsize=(4.6, 3.2), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for number, (method, cells) in enumerate(lines.items()):
            places = [place for place, cell in enumerate(cells) if cell.mean is not None]
            if places:
                axes.errorbar(
                    places,
                    [cells[place].mean or 0.0 for place in places],
                    [cells[place].spread or 0.0 for place in places],
                    label=method,
                    color=COLOURS[number % len(COLOURS)],
                    marker=_MARKERS[number % len(_MARKERS)],
                    markersize=4.5,
                    linewidth=1.4,
                    capsize=2.5,
                )
        axes.set_xticks(range(len(k_shots)), [str(k) for k in k_shots])
        axes.set_xlim(-0.3, len(k_shots) - 0.7)
        axes.set_xlabel("K, normal images shown")
        axes.set_ylabel(unit)
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color=_INK, alpha=0.12)
        axes.legend(fontsize=7.5, frameon=False, loc="best")
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _embeddable(file.getvalue(), title)


def _embeddable(svg: str, title: str) -> str:
    element = svg[svg.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = element.replace(_INK, "currentColor")
    # Ids are made unique, since several figures share a page.
    prefix = re.sub(r"\W+", "-", title.lower())
    element = re.sub(r'\bid="', f'id="{prefix}-', element)
    element = re.sub(r'href="#', f'href="#{prefix}-', element)
    element = re.sub(r"url\(#", f"url(#{prefix}-", element)
    # Its size is the page's to say.
    head, body = element.split(">", 1)
    return f"""{re.sub(r' (?:width|height)="[^"]*"', "", head)}>{body}"""
