# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The report in Markdown and as one self-contained HTML file.

A number is the mean over categories, then mean and standard deviation over seeds, with published numbers beside it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from matplotlib import rc_context
from matplotlib.figure import Figure

from anomalib_inctrl.benchmark.config import BenchmarkConfig
from anomalib_inctrl.benchmark.metrics import METRICS
from anomalib_inctrl.benchmark.results_folder import PROVENANCE, TIMING

_LINE = ["target", "method", "published", "k_shot"]


@dataclass(frozen=True)
class ReportTable:
    """A table of the report.

    Attributes:
        columns: Headings.
        rows: Cells; a cell in ``**`` is ahead of all others of its dataset and K by more than the spread over seeds.
        caption: What it shows.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


class Report:
    """The report of a benchmark.

    Args:
        config: The benchmark.
        table: ``results.csv``.
        categories: Targets and categories.
    """

    def __init__(self, config: BenchmarkConfig, table: pd.DataFrame, categories: Sequence[tuple[str, str]]) -> None:
        self.config = config
        self.table = table
        self.sizes = {target: sum(owner == target for owner, _ in categories) for target in config.targets}
        self.k_shots = sorted({k if k is not None else -1 for name in config.models for k, _ in config.settings(name)})
        self.k_shots = sorted(self.k_shots, key=lambda k: (k < 0, k))  # "all normal images" last
        self.published = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))[
            "entries"
        ]
        self.environment = Environment(
            loader=PackageLoader("anomalib_inctrl.benchmark", "templates"),
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
        """The report as one HTML file with tables and curves; it has a dark mode."""
        return self.environment.get_template("report.html.jinja").render(**self._content(), curves=self._curves())

    def numbers(self, metric: str) -> pd.DataFrame:
        """Summarize a metric, in percent.

        Args:
            metric: Column of the table.

        Returns:
            By target, method, whether published, and K (-1 for all normal images): the ``mean`` over the categories
            (of pixel metrics, over those that have masks) and the seeds for which all categories are measured, and the
            standard deviation ``std`` over these seeds.
        """
        names = {"model": "method"}
        rows = self.table.rename(columns=names).assign(
            published=False, k_shot=self.table["k_shot"].fillna(-1).astype(int)
        )
        groups = rows.groupby([*_LINE, "seed"], sort=False)
        complete = groups["category"].nunique() == rows.groupby([*_LINE, "seed"], sort=False)["target"].first().map(
            self.sizes
        )
        found = 100 * groups[metric].mean()[complete]
        measured = found.groupby(_LINE, sort=False).agg(["mean", "std"])
        entries: dict[tuple[str, str, bool, int], float] = {}
        for target, source in self.config.targets.items():
            for entry in self.published if source.categories is None else ():  # those are of whole datasets
                values = entry.get(metric, {}).get(source.datamodule.rpartition(".")[2], {})
                entries |= {(target, entry["method"], True, k): values[k] for k in self.k_shots if k in values}
        if not entries:
            return measured
        index = pd.MultiIndex.from_tuples(entries, names=_LINE)
        return pd.concat([measured, pd.DataFrame({"mean": entries.values(), "std": float("nan")}, index)])

    def _results(self, metric: str) -> ReportTable:
        """A line for each dataset and method, what is ahead beyond noise marked; a missing number reads why."""
        numbers = self.numbers(metric)
        best = {key for _, group in numbers.groupby(level=["target", "k_shot"]) for key in [_best(group)] if key}
        cells = {}
        for key, mean, spread in zip(numbers.index, numbers["mean"], numbers["std"], strict=True):
            mark = key in best
            text = "no masks" if pd.isna(mean) else f"{mean:.1f}" if pd.isna(spread) else f"{mean:.1f} ± {spread:.1f}"
            cells[key] = f"**{text}**" if mark else text
        rows = []
        for target in self.config.targets:
            known = [key[1:3] for key in cells if key[0] == target and key[2]]
            for method, published in dict.fromkeys([*((name, False) for name in self.config.models), *known]):
                wanted = set() if published else {-1 if k is None else k for k, _ in self.config.settings(method)}
                texts = [
                    cells.get((target, method, published, k), "not run" if k in wanted else "–") for k in self.k_shots
                ]
                rows.append([target, f"{method} †" if published else method, *texts])
        return ReportTable(["dataset", "method", *map(_shot_title, self.k_shots)], rows)

    def _conclusion(self, metric: str) -> list[str]:
        """A sentence for each dataset: which method is ahead at the largest K that several have, or that none is."""
        sentences = []
        for target, numbers in self.numbers(metric).dropna(subset="mean").groupby(level="target", sort=False):
            counts = numbers.groupby(level="k_shot").size()
            shared = [k for k in self.k_shots if counts.get(k, 0) > 1]
            if not shared:
                continue
            at = numbers.xs(shared[-1], level="k_shot", drop_level=False).sort_values("mean", ascending=False)
            (first, second), means = at.index.get_level_values("method")[:2], at["mean"].tolist()
            where = f"{target}, {_shot_title(shared[-1])}: {first} has {means[0]:.1f} % {METRICS[metric]}"
            ahead = "ahead of" if _best(at) else "level, within the spread over draws of prompts, with"
            sentences.append(f"{where}, {ahead} {second} ({means[1]:.1f} %).")
        return sentences

    def _categories(self, metrics: Sequence[str]) -> list[ReportTable]:
        """Means of each category over seeds, at the largest K of each model."""
        tables = []
        for (target, model), rows in self.table.groupby(["target", "model"], sort=False):
            k_shot = rows["k_shot"].fillna(-1).max()
            means = (
                100 * rows[rows["k_shot"].fillna(-1) == k_shot].groupby("category", sort=False)[list(metrics)].mean()
            )
            lines = [
                [str(name), *("" if pd.isna(value) else f"{value:.1f}" for value in line)]
                for name, *line in means.itertuples()
            ]
            caption = f"{target}: {model}, {_shot_title(k_shot)}, mean over seeds"
            tables.append(ReportTable(["category", *(METRICS[name] for name in metrics)], lines, caption))
        return tables

    def _content(self) -> dict[str, Any]:
        config, table = self.config, self.table
        metrics = [name for name in METRICS if name == "image_AUROC" or table[name].notna().any()]
        results = {METRICS[name]: self._results(name) for name in metrics}
        shown = {row[1] for result in results.values() for row in result.rows}
        origins = table.groupby(list(PROVENANCE), dropna=False).size().reset_index(name="rows").astype(str)
        times = table[list(TIMING)].div(table["normal"] + table["abnormal"], axis=0).mul(1000)
        medians = times.astype(float).groupby(table["model"], sort=False).median().round(1).reset_index().astype(str)
        return {
            "config": config,
            "conclusion": self._conclusion("image_AUROC"),
            "results": results,
            "categories": self._categories(metrics),
            "rows": len(table),
            "expected": sum(len(config.settings(model)) for model in config.models) * sum(self.sizes.values()),
            "sources": [entry for entry in self.published if f"{entry['method']} †" in shown],
            "kinds": {name: _description(config, name) for name in config.models},
            "origins": ReportTable(list(origins), origins.to_numpy().tolist()),
            "costs": ReportTable(["model", "shared", "each setting"], medians.to_numpy().tolist()),
        }

    def _curves(self) -> list[tuple[str, str]]:
        """Title and SVG of the curves over K, with bars for the standard deviation over seeds."""
        found = []
        for metric in ("image_AUROC", "pixel_AUPRO"):
            numbers = self.numbers(metric).dropna(subset="mean").reset_index()
            numbers = numbers[~numbers["published"].astype(bool) & (numbers["k_shot"] >= 0)]
            for target, lines in numbers.groupby("target", sort=False):
                if lines["k_shot"].nunique() < 2:
                    continue
                # Names may hold dollar signs, and the same numbers give the same file.
                with rc_context({"svg.fonttype": "none", "text.parse_math": False, "svg.hashsalt": "anomalib-inctrl"}):
                    axes = (figure := Figure(figsize=(4.6, 3.2), layout="constrained")).add_subplot()
                    for names, line in _distinct(lines):
                        axes.errorbar(line["k_shot"], line["mean"], line["std"].fillna(0), label=names, marker="o")
                    axes.set(xlabel="K, number of normal prompt images", ylabel=f"{METRICS[metric]}, %", title=target)
                    axes.legend(fontsize="small")
                    figure.savefig(file := io.BytesIO(), format="svg", metadata={"Date": None})
                found.append((f"{target}, {METRICS[metric]}", base64.b64encode(file.getvalue()).decode()))
        return found


def _best(numbers: pd.DataFrame) -> Any:
    """Key of the largest mean, if it is ahead of every other by more than either standard deviation; else None."""
    ordered = numbers.dropna(subset="mean").sort_values("mean", ascending=False)
    if len(ordered) < 2:
        return None
    lead = ordered["mean"].iloc[0] - ordered["mean"].iloc[1:]
    noise = ordered["std"].fillna(0).iloc[1:].clip(lower=ordered["std"].fillna(0).iloc[0])
    return ordered.index[0] if bool((lead > noise).all()) else None


def _distinct(lines: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Curves with their methods; one curve for methods whose values are all the same, as of models with equal maps."""
    found: dict[tuple[Any, ...], list[str]] = {}
    curves = {}
    for method, line in lines.groupby("method", sort=False):
        key = (*line["k_shot"], *line["mean"].round(6))
        found.setdefault(key, []).append(str(method))
        curves[key] = line
    return [(" = ".join(names), curves[key]) for key, names in found.items()]


def _shot_title(k_shot: int) -> str:
    return "all normal images" if k_shot < 0 else f"K = {k_shot}"


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
