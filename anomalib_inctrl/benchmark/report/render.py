# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Puts a report together: Markdown for a repository, one self-contained HTML file for reading."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from rich.table import Table

from anomalib_inctrl.benchmark.config import BenchmarkConfig
from anomalib_inctrl.benchmark.metrics import METRICS, PIXEL_METRICS, TITLES
from anomalib_inctrl.benchmark.report.figures import curves
from anomalib_inctrl.benchmark.report.tables import (
    category_table,
    dataset_lines,
    published,
    shot_columns,
    shot_title,
)

_MAX_EXAMPLES = 6
_CURVES = ("image_AUROC", "pixel_AUPRO")


class Report:
    """The report of a benchmark.

    Args:
        config: What was asked for.
        table: ``results.csv``.
        categories: Targets and categories.
        examples: Gives the example pictures of a model, target and category, if there are any.
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
        """The report in Markdown: tables and where the numbers come from."""
        return self.environment.get_template("report.md.jinja").render(**self._content())

    def html(self) -> str:
        """The report as one HTML file: tables, curves and pictures, readable narrow and wide, by day and by night."""
        figures = {target: self._figures(target) for target in self.config.targets}
        pictures = {target: self._pictures(target) for target in self.config.targets}
        template = self.environment.get_template("report.html.jinja")
        return template.render(**self._content(), figures=figures, pictures=pictures)

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
        details = {target: category_table(table, config, target, metrics) for target in config.targets}
        expected = sum(len(names) for names in self.categories.values()) * sum(
            len(config.settings(model)) for model in config.models
        )
        shown = {line.method for block in blocks["image_AUROC"].values() for line in block if line.published}
        return {
            "config": config,
            "titles": TITLES,
            "metrics": metrics,
            "columns": [shot_title(k_shot) for k_shot in shot_columns(config)],
            "blocks": blocks,
            "details": details,
            "categories": self.categories,
            "rows": len(table),
            "expected": expected,
            "sources": [entry for entry in published()["entries"] if entry["method"] in shown],
            "kinds": {name: _kind(config, name) for name in config.models},
            "origins": self._origins(),
            "costs": self._costs(),
        }

    def _origins(self) -> list[dict[str, Any]]:
        """On what, and by which versions, the rows were measured."""
        names = ["device", "version", "commit", "anomalib", "torch", "python"]
        counted = self.table.groupby(names, dropna=False).size().reset_index(name="rows")
        return [{str(key): value for key, value in row.items()} for row in counted.to_dict("records")]

    def _costs(self) -> list[dict[str, Any]]:
        """What a category took, by model: the pass that its settings share, and each setting."""
        lines = []
        for model in self.config.models:
            rows = self.table[self.table["model"] == model]
            if len(rows):
                images = (rows["normal"] + rows["abnormal"]).clip(lower=1)
                lines.append(
                    {
                        "model": model,
                        "pass": f"{1000 * (rows['pass_seconds'] / images).median():.1f}",
                        "setting": f"{1000 * (rows['setting_seconds'] / images).median():.1f}",
                    }
                )
        return lines

    def _figures(self, target: str) -> list[Markup]:
        k_shots = [k for k in shot_columns(self.config) if k is not None]
        found = []
        for metric in _CURVES:
            if len(k_shots) > 1 and self.table[metric].notna().any():
                lines = dataset_lines(self.table, self.config, target, self.categories[target], metric)
                drawn = {line.method: line.cells[: len(k_shots)] for line in lines if not line.published}
                svg = curves(drawn, k_shots, f"{target}, {TITLES[metric]}", f"{TITLES[metric]}, %")
                if svg:
                    found.append(Markup(svg))  # noqa: S704  # made above, by matplotlib
        return found

    def _pictures(self, target: str) -> list[tuple[str, str, str]]:
        """Category, model and picture of some categories, evenly spread, by the first model that has any."""
        names = self.categories[target]
        step = max(1, -(-len(names) // _MAX_EXAMPLES))
        found = []
        for name in names[::step]:
            for model in self.config.models:
                picture = self.examples(model, target, name)
                if picture is not None:
                    found.append((name, model, base64.b64encode(picture).decode()))
                    break
        return found


def _kind(config: BenchmarkConfig, name: str) -> str:
    """What a model saw before."""
    model = config.models[name]
    if not model.ours:
        seen = "all normal training images of" if model.train_on == "all" else "the same K prompts of"
        return f"anomalib's {model.class_path.rpartition('.')[2]}, trained on {seen} each category"
    if model.weights is None:
        return f"{model.class_path.rpartition('.')[2]} without trained heads: the training-free floor"
    weights = model.weights if isinstance(model.weights, str) else ", ".join(dict.fromkeys(model.weights.values()))
    return f"{model.class_path.rpartition('.')[2]} with heads of {weights}, never trained on a target"
