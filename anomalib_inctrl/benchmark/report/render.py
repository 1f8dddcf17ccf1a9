# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The report in Markdown, as one self-contained HTML file, and as a table for the terminal."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from rich.table import Table

from anomalib_inctrl.benchmark.config import BenchmarkConfig
from anomalib_inctrl.benchmark.metrics import METRICS, PIXEL_METRICS, TITLES
from anomalib_inctrl.benchmark.report.figures import curves
from anomalib_inctrl.benchmark.report.tables import (
    category_tables,
    dataset_lines,
    published,
    shot_columns,
    shot_title,
)
from anomalib_inctrl.benchmark.results_folder import PROVENANCE, TIMING

_MAX_EXAMPLES = 6
_CURVES = ("image_AUROC", "pixel_AUPRO")


class Report:
    """The report of a benchmark.

    Args:
        config: The benchmark.
        table: ``results.csv``.
        categories: Targets and categories.
        examples: Returns the example images of a model, target and category, if there are any.
    """

    def __init__(
        self,
        config: BenchmarkConfig,
        table: pd.DataFrame,
        categories: Sequence[tuple[str, str]],
        examples: Callable[[str, str, str], bytes | None],
    ) -> None:
        self.config = config
        self.table = table
        self.categories = {target: [name for owner, name in categories if owner == target] for target in config.targets}
        self.examples = examples
        self.environment = Environment(
            loader=PackageLoader("anomalib_inctrl.benchmark.report", "templates"),
            autoescape=select_autoescape(["html.jinja"]),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.environment.filters["cell"] = lambda value: str(value).replace("|", r"\|")  # of a Markdown table

    def markdown(self) -> str:
        """The report in Markdown: tables and provenance."""
        return self.environment.get_template("report.md.jinja").render(**self._content())

    def html(self) -> str:
        """The report as one HTML file with tables, curves and example images; it has a dark mode."""
        figures = {target: self._figures(target) for target in self.config.targets}
        images = {target: self._images(target) for target in self.config.targets}
        template = self.environment.get_template("report.html.jinja")
        return template.render(**self._content(), figures=figures, images=images)

    def overview(self) -> Table:
        """Image AUROC for the terminal."""
        columns = shot_columns(self.config)
        table = Table(title=f"{TITLES['image_AUROC']}, %, mean ± standard deviation over seeds")
        table.add_column("dataset")
        table.add_column("method")
        for k_shot in columns:
            table.add_column(shot_title(k_shot), justify="right")
        for target, names in self.categories.items():
            lines = dataset_lines(self.table, self.config, target, names, "image_AUROC")
            for number, line in enumerate(lines):
                cells = [f"[bold]{cell}[/]" if cell.best else str(cell) for cell in line.cells]
                method = f"[dim]{line.method}[/]" if line.published else line.method
                last = number == len(lines) - 1
                table.add_row("" if number else target, method, *cells, end_section=last)
        return table

    def _content(self) -> dict[str, Any]:
        config, table = self.config, self.table
        metrics = [name for name in METRICS if name not in PIXEL_METRICS or table[name].notna().any()]
        blocks = {
            metric: {
                target: dataset_lines(table, config, target, names, metric) for target, names in self.categories.items()
            }
            for metric in metrics
        }
        shown = {line.method for block in blocks["image_AUROC"].values() for line in block if line.published}
        settings = sum(len(config.settings(model)) for model in config.models)
        return {
            "config": config,
            "titles": TITLES,
            "metrics": metrics,
            "columns": [shot_title(k_shot) for k_shot in shot_columns(config)],
            "blocks": blocks,
            "details": {target: category_tables(table, config, target, metrics) for target in config.targets},
            "rows": len(table),
            "expected": settings * sum(map(len, self.categories.values())),
            "sources": [entry for entry in published() if entry["method"] in shown],
            "kinds": {name: _description(config, name) for name in config.models},
            "origins": table.groupby(list(PROVENANCE), dropna=False).size().reset_index(name="rows").to_dict("records"),
            "costs": self._costs(),
        }

    def _costs(self) -> list[tuple[str, str, str]]:
        """By model the milliseconds per image of the pass that settings share, and of a setting."""
        images = (self.table["normal"] + self.table["abnormal"]).clip(lower=1)
        times = self.table[list(TIMING)].div(images, axis=0).mul(1000)
        medians = times.groupby(self.table["model"], sort=False).median()
        return [(str(model), *(f"{value:.1f}" for value in row)) for model, row in medians.iterrows()]  # type: ignore[misc]

    def _figures(self, target: str) -> list[tuple[str, str]]:
        """Title and SVG of the curves over K."""
        k_shots = [k for k in shot_columns(self.config) if k is not None]
        found = []
        for metric in _CURVES:
            if len(k_shots) > 1 and self.table[metric].notna().any():
                lines = dataset_lines(self.table, self.config, target, self.categories[target], metric)
                drawn = {line.method: line.cells[: len(k_shots)] for line in lines if not line.published}
                title = f"{target}, {TITLES[metric]}"
                if svg := curves(drawn, k_shots, title, f"{TITLES[metric]}, %"):
                    found.append((title, base64.b64encode(svg).decode()))
        return found

    def _images(self, target: str) -> list[tuple[str, str, str]]:
        """Category, model and JPEG of some categories, evenly spread, by the first model that has examples."""
        names = self.categories[target]
        found = []
        for name in names[:: max(1, -(-len(names) // _MAX_EXAMPLES))]:
            images = ((model, self.examples(model, target, name)) for model in self.config.models)
            found += [(name, model, base64.b64encode(image).decode()) for model, image in images if image][:1]
        return found


def _description(config: BenchmarkConfig, name: str) -> str:
    """What a model was trained on."""
    model = config.models[name]
    kind = model.class_path.rpartition(".")[2]
    if not model.ours:
        images = "all normal training images of" if model.train_on == "all" else "the same K prompts of"
        return f"anomalib's {kind}, trained on {images} each category"
    if model.weights is None:
        return f"{kind} without trained heads: the training-free baseline"
    weights = model.weights if isinstance(model.weights, str) else ", ".join(dict.fromkeys(model.weights.values()))
    return f"{kind} with heads of {weights}, never trained on a target"
