# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Numbers of a report: mean over categories, then mean and spread over seeds; published ones beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from anomalib_inctrl.benchmark.config import BenchmarkConfig

NOT_RUN = "not run"
NO_MASKS = "no masks"


@dataclass(frozen=True)
class Cell:
    """One number of a table, in percent.

    Attributes:
        mean: Mean over seeds; None if there is nothing.
        spread: Standard deviation over seeds; None for one seed, or where nobody says.
        text: What stands in place of a number that is not there.
        best: Whether no other number of the dataset is higher at this K, to the digits shown.
    """

    mean: float | None = None
    spread: float | None = None
    text: str = ""
    best: bool = False

    def __str__(self) -> str:
        """The number as it is shown."""
        if self.mean is None:
            return self.text
        return f"{self.mean:.1f}" if self.spread is None else f"{self.mean:.1f} ± {self.spread:.1f}"


@dataclass(frozen=True)
class Line:
    """A method's numbers on a dataset.

    Attributes:
        method: Its name.
        cells: Numbers by column.
        published: Whether others measured it.
    """

    method: str
    cells: list[Cell]
    published: bool = False


def shot_columns(config: BenchmarkConfig) -> list[int | None]:
    """Columns of the tables: every K, and None if a model saw all normal images."""
    k_shots: set[int | None] = {k for name in config.models for k, _ in config.settings(name)} | set(config.k_shots)
    numbers = sorted(k for k in k_shots if k is not None)
    return [*numbers, *([None] if None in k_shots else [])]


def shot_title(k_shot: int | None) -> str:
    """Heading of a column."""
    return "all normal images" if k_shot is None else f"K = {k_shot}"


def cell(
    table: pd.DataFrame,
    config: BenchmarkConfig,
    model: str,
    target: str,
    categories: Sequence[str],
    k_shot: int | None,
    metric: str,
) -> Cell:
    """Summarize the rows of a model on a dataset at one K.

    Args:
        table: ``results.csv``.
        config: What was asked for.
        model: Name of the model.
        target: Name of the dataset.
        categories: Its categories.
        k_shot: K; None for models that saw all normal images.
        metric: Column.

    Returns:
        The mean over categories (of pixel metrics, over those that have masks), averaged over those seeds that have all
        categories, or a word for why there is none.
    """
    wanted = [seed for k, seed in config.settings(model) if k == k_shot]
    if not wanted:
        return Cell(text="–")
    matches = table["k_shot"].isna() if k_shot is None else table["k_shot"] == k_shot
    rows = table[(table["model"] == model) & (table["target"] == target) & matches & table["seed"].isin(wanted)]
    if not len(rows):
        return Cell(text=NOT_RUN)
    complete = rows.groupby("seed")["category"].nunique()
    seeds = complete[complete == len(categories)].index
    if not len(seeds):
        return Cell(text=f"{rows['category'].nunique()} of {len(categories)} categories")
    means = 100 * rows[rows["seed"].isin(seeds)].groupby("seed")[metric].mean()
    if means.isna().any():
        return Cell(text=NO_MASKS)
    return Cell(float(means.mean()), float(means.std(ddof=1)) if len(means) > 1 else None)


def dataset_lines(
    table: pd.DataFrame, config: BenchmarkConfig, target: str, categories: Sequence[str], metric: str
) -> list[Line]:
    """All methods on a dataset: those of the config, then published ones.

    Args:
        table: ``results.csv``.
        config: What was asked for.
        target: Name of the dataset.
        categories: Its categories.
        metric: Column.

    Returns:
        A line for each method, the best of each K marked.
    """
    columns = shot_columns(config)
    lines = [
        Line(model, [cell(table, config, model, target, categories, k_shot, metric) for k_shot in columns])
        for model in config.models
    ]
    source = config.targets[target]
    if source.categories is None:
        for entry in published()["entries"]:
            numbers = entry.get(metric, {}).get(source.datamodule.rpartition(".")[2])
            if numbers:
                cells = [Cell(numbers[k]) if k in numbers else Cell(text="–") for k in columns]
                lines.append(Line(entry["method"], cells, published=True))
    return _mark_best(lines)


def _mark_best(lines: list[Line]) -> list[Line]:
    marked = [list(line.cells) for line in lines]
    for column in range(len(marked[0])):
        known = [round(cells[column].mean, 1) for cells in marked if cells[column].mean is not None]  # type: ignore[arg-type]
        for cells in marked:
            mean = cells[column].mean
            if mean is not None and len(known) > 1 and round(mean, 1) == max(known):
                cells[column] = Cell(mean, cells[column].spread, best=True)
    return [Line(line.method, cells, line.published) for line, cells in zip(lines, marked, strict=True)]


def category_table(
    table: pd.DataFrame, config: BenchmarkConfig, target: str, metrics: Sequence[str]
) -> tuple[list[str], list[str], dict[str, list[list[str]]]]:
    """Means over seeds of every category, by model, at its largest K.

    Args:
        table: ``results.csv``.
        config: What was asked for.
        target: Name of the dataset.
        metrics: Columns.

    Returns:
        Models with their K as titles, categories, and by category the numbers of each model.
    """
    titles, columns = [], []
    for model in config.models:
        k_shot = max((k for k, _ in config.settings(model) if k is not None), default=None)
        rows = table[(table["model"] == model) & (table["target"] == target)]
        if k_shot is not None:
            rows = rows[rows["k_shot"] == k_shot]
        if len(rows):
            titles.append(f"{model}, {shot_title(k_shot)}")
            columns.append(100 * rows.groupby("category", sort=False)[list(metrics)].mean())
    categories = list(dict.fromkeys(name for column in columns for name in column.index))
    numbers = {
        name: [
            [_number(column.loc[name, metric]) if name in column.index else "" for metric in metrics]
            for column in columns
        ]
        for name in categories
    }
    return titles, categories, numbers


def _number(value: Any) -> str:
    return "" if pd.isna(value) else f"{value:.1f}"


@lru_cache(maxsize=1)
def published() -> Mapping[str, Any]:
    """Numbers of others, from the file beside this module."""
    content: Mapping[str, Any] = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))
    return content
