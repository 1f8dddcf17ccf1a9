# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The report in Markdown and as one self-contained HTML file.

A number is the mean over categories, then mean and standard deviation over seeds, with published numbers beside it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
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
_ALL = -1  # in place of K: all normal images


class Report:
    """The report of a benchmark.

    Args:
        config: The benchmark.
        table: ``results.csv``.
        categories: Targets and categories.
    """

    def __init__(self, config: BenchmarkConfig, table: pd.DataFrame, categories: Sequence[tuple[str, str]]) -> None:
        self.config = config
        self.table = table.assign(k_shot=table["k_shot"].fillna(_ALL).astype(int))
        self.sizes = pd.Series([target for target, _ in categories], dtype=object).value_counts()
        self.wanted = {
            name: {_ALL if k is None else k for k, _ in config.settings(name)} for name in config.models
        }  # K by model
        self.k_shots = sorted(set().union(*self.wanted.values()), key=lambda k: (k == _ALL, k))
        file = Path(__file__).with_name("published.yaml")
        self.published = yaml.safe_load(file.read_text(encoding="utf-8"))["entries"]

    def render(self, kind: str) -> str:
        """The report in a format.

        Args:
            kind: ``"md"``, Markdown: tables and provenance. ``"html"``, one file that has curves as well, and a dark
                mode.
        """
        config, table = self.config, self.table
        environment = Environment(
            loader=PackageLoader("anomalib_inctrl.benchmark", "templates"),
            autoescape=select_autoescape(["html.jinja"]),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters["cell"] = lambda value: str(value).replace("|", r"\|")  # of a Markdown table
        metrics = [name for name in METRICS if name == "image_AUROC" or table[name].notna().any()]
        results = {METRICS[name]: self._results(name) for name in metrics}
        shown = {method for result in results.values() for method in result["method"]}
        origins = table.groupby(list(PROVENANCE), dropna=False).size().reset_index(name="rows").astype(str)
        times = table[list(TIMING)].div(table["normal"] + table["abnormal"], axis=0).mul(1000)
        medians = times.astype(float).groupby(table["model"], sort=False).median().round(1).reset_index().astype(str)
        return environment.get_template(f"report.{kind}.jinja").render(
            config=config,
            conclusion=self._conclusion("image_AUROC"),
            results=results,
            categories=self._categories(metrics),
            rows=len(table),
            expected=sum(len(config.settings(model)) for model in config.models) * self.sizes.sum(),
            sources=[entry for entry in self.published if f"{entry['method']} †" in shown],
            kinds={name: _description(config, name) for name in config.models},
            origins=origins,
            costs=medians.set_axis(["model", "shared", "each setting"], axis=1),
            curves=self._curves() if kind == "html" else [],
        )

    def numbers(self, metric: str) -> pd.DataFrame:
        """Summarize a metric, in percent.

        Args:
            metric: Column of the table.

        Returns:
            By target, method, whether published, and K (-1 for all normal images): the ``mean`` over the categories
            (of pixel metrics, over those that have masks) and the seeds for which all categories are measured, and the
            standard deviation ``std`` over these seeds.
        """
        rows = self.table.rename(columns={"model": "method"}).assign(published=False)
        by_seed = rows.groupby([*_LINE, "seed"], sort=False).agg(value=(metric, "mean"), count=("category", "nunique"))
        complete = by_seed["count"] == by_seed.index.get_level_values("target").map(self.sizes)
        measured = 100 * by_seed["value"][complete].groupby(_LINE, sort=False).agg(["mean", "std"])
        entries: dict[tuple[str, str, bool, int], float] = {}
        for target, source in self.config.targets.items():
            for entry in self.published if source.categories is None else ():  # those are of whole datasets
                values = entry.get(metric, {}).get(source.datamodule.rpartition(".")[2], {})
                entries |= {(target, entry["method"], True, k): values[k] for k in self.k_shots if k in values}
        if not entries:
            return measured
        index = pd.MultiIndex.from_tuples(entries, names=_LINE)
        return pd.concat([measured, pd.DataFrame({"mean": entries.values(), "std": float("nan")}, index)])

    def _results(self, metric: str) -> pd.DataFrame:
        """A line for each dataset and method, what is ahead beyond noise marked; a missing number reads why."""
        numbers = self.numbers(metric)
        best = {_best(group) for _, group in numbers.groupby(level=["target", "k_shot"])}
        cells = {}
        for key, mean, spread in numbers.itertuples():
            text = "no masks" if pd.isna(mean) else f"{mean:.1f}" if pd.isna(spread) else f"{mean:.1f} ± {spread:.1f}"
            cells[key] = f"**{text}**" if key in best else text
        rows = []
        for target in self.config.targets:
            known = [key[1:3] for key in cells if key[0] == target and key[2]]
            for method, published in dict.fromkeys([*((name, False) for name in self.wanted), *known]):
                wanted = set() if published else self.wanted[method]
                missing = ["not run" if k in wanted else "–" for k in self.k_shots]
                keys = [(target, method, published, k) for k in self.k_shots]
                texts = [cells.get(key, text) for key, text in zip(keys, missing, strict=True)]
                rows.append([target, f"{method} †" if published else method, *texts])
        return pd.DataFrame(rows, columns=["dataset", "method", *map(_shot_title, self.k_shots)])

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

    def _categories(self, metrics: Sequence[str]) -> dict[str, pd.DataFrame]:
        """Means of each category over seeds, at the largest K of each model, by caption."""
        tables = {}
        for (target, model), rows in self.table.groupby(["target", "model"], sort=False):
            k_shot = rows["k_shot"].max()
            means = 100 * rows[rows["k_shot"] == k_shot].groupby("category", sort=False)[list(metrics)].mean()
            cells = means.apply(lambda column: column.map(lambda value: "" if pd.isna(value) else f"{value:.1f}"))
            caption = f"{target}: {model}, {_shot_title(k_shot)}, mean over seeds"
            tables[caption] = cells.rename(columns=METRICS).reset_index()
        return tables

    def _curves(self) -> list[tuple[str, str]]:
        """Title and SVG of the curves over K, with bars for the standard deviation over seeds."""
        found = []
        for metric in ("image_AUROC", "pixel_AUPRO"):
            numbers = self.numbers(metric).dropna(subset="mean").reset_index()
            numbers = numbers[~numbers["published"].astype(bool) & (numbers["k_shot"] != _ALL)]
            for target, lines in numbers.groupby("target", sort=False):
                if lines["k_shot"].nunique() < 2:
                    continue
                # Names may hold dollar signs, and the same numbers give the same file.
                with rc_context({"svg.fonttype": "none", "text.parse_math": False, "svg.hashsalt": "anomalib-inctrl"}):
                    axes = (figure := Figure(figsize=(4.6, 3.2), layout="constrained")).add_subplot()
                    for names in _same(lines):
                        line = lines[lines["method"] == names[0]]
                        label, spread = " = ".join(names), line["std"].fillna(0)
                        axes.errorbar(line["k_shot"], line["mean"], spread, label=label, marker="o")
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


def _same(lines: pd.DataFrame) -> list[list[str]]:
    """Methods by curve; those whose values are all the same, as of models with equal maps, have one together."""
    means = lines.pivot(index="method", columns="k_shot", values="mean").round(6).loc[lines["method"].unique()]
    return [list(group.index) for _, group in means.groupby(list(means), sort=False, dropna=False)]


def _shot_title(k_shot: int) -> str:
    return "all normal images" if k_shot == _ALL else f"K = {k_shot}"


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
