# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Numbers of a report: mean over categories, then mean and standard deviation over seeds, with published numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from anomalib_inctrl.benchmark.config import BenchmarkConfig


@dataclass(frozen=True)
class Cell:
    """One number of a table, in percent.

    Attributes:
        mean: Mean over seeds; None if there is none.
        spread: Standard deviation over seeds; None for one seed, or where it was not published.
        text: Reason for a missing number.
        best: Whether no other number of the dataset is higher at this K, to the digits shown.
    """

    mean: float | None = None
    spread: float | None = None
    text: str = "–"
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
        published: Whether they are published numbers.
    """

    method: str
    cells: list[Cell]
    published: bool = False


def shot_columns(config: BenchmarkConfig) -> list[int | None]:
    """Columns of the tables: every K, and None if a model saw all normal images."""
    found = {k for name in config.models for k, _ in config.settings(name)} | set(config.k_shots)
    return sorted(found, key=lambda k: (k is None, k or 0))


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
        config: The benchmark.
        model: Name of the model.
        target: Name of the dataset.
        categories: Its categories.
        k_shot: K; None for models that saw all normal images.
        metric: Column.

    Returns:
        The mean over categories (of pixel metrics, over those that have masks), averaged over the seeds for which all
        categories are measured, or the reason why there is none.
    """
    wanted = [seed for k, seed in config.settings(model) if k == k_shot]
    if not wanted:
        return Cell()
    matches = table["k_shot"].isna() if k_shot is None else table["k_shot"] == k_shot
    rows = table[(table["model"] == model) & (table["target"] == target) & matches & table["seed"].isin(wanted)]
    if rows.empty:
        return Cell(text="not run")
    by_seed = rows.groupby("seed")
    means = 100 * by_seed[metric].mean()[by_seed["category"].nunique() == len(categories)]
    if means.empty:
        return Cell(text=f"{rows['category'].nunique()} of {len(categories)} categories")
    if means.isna().any():
        return Cell(text="no masks")
    return Cell(float(means.mean()), float(means.std(ddof=1)) if len(means) > 1 else None)


def dataset_lines(
    table: pd.DataFrame, config: BenchmarkConfig, target: str, categories: Sequence[str], metric: str
) -> list[Line]:
    """List all methods on a dataset: those of the config, then published ones.

    Args:
        table: ``results.csv``.
        config: The benchmark.
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
    if source.categories is None:  # published numbers are of whole datasets
        for entry in published():
            numbers = entry.get(metric, {}).get(source.datamodule.rpartition(".")[2])
            if numbers:
                lines.append(Line(entry["method"], [Cell(numbers.get(k)) for k in columns], published=True))
    for column in range(len(columns)):
        shown = [None if (mean := line.cells[column].mean) is None else round(mean, 1) for line in lines]
        known = [mean for mean in shown if mean is not None]
        for line, mean in zip(lines, shown, strict=True):
            if len(known) > 1 and mean == max(known):
                line.cells[column] = replace(line.cells[column], best=True)
    return lines


def category_tables(
    table: pd.DataFrame, config: BenchmarkConfig, target: str, metrics: Sequence[str]
) -> dict[str, dict[str, list[str]]]:
    """Average each category over seeds, at the largest K of each model.

    Args:
        table: ``results.csv``.
        config: The benchmark.
        target: Name of the dataset.
        metrics: Columns.

    Returns:
        By model with its K, and by category, the metrics in percent.
    """
    found = {}
    for model in config.models:
        k_shot = max((k for k, _ in config.settings(model) if k is not None), default=None)
        rows = table[(table["model"] == model) & (table["target"] == target)]
        rows = rows if k_shot is None else rows[rows["k_shot"] == k_shot]
        if len(rows):
            means = 100 * rows.groupby("category", sort=False)[list(metrics)].mean()
            found[f"{model}, {shot_title(k_shot)}"] = {
                str(name): ["" if pd.isna(value) else f"{value:.1f}" for value in values]
                for name, values in zip(means.index, means.to_numpy(), strict=True)
            }
    return found


@lru_cache(maxsize=1)
def published() -> list[Mapping[str, Any]]:
    """Published numbers: ``method``, ``source`` and by metric, datamodule and K the percentages."""
    content = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))
    entries: list[Mapping[str, Any]] = content["entries"]
    return entries
