# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Write the tables of results on the demonstration encoder into the pages that show them.

    python tools/docs_tables.py

reads the results of `configs/benchmarks/embedded.yaml` and of the ablations with the demonstration encoder's weights
and with random ones, and replaces what stands between
`<!-- table: NAME -->` and `<!-- end of table -->` in the pages. `make tables` runs what is missing of them first.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from anomalib_inctrl.io.files import write_text_atomic

ROOT = Path(__file__).parents[1]
PAGES = (
    ROOT / "README.md",
    ROOT / "docs" / "ablation.md",
    ROOT / "anomalib_inctrl" / "demo" / "weights" / "mini-clip-16-240-demo.md",
)
PHOTOGRAPHS = ("brick", "grass", "gravel")
SHOWN = (
    "InCTRLv2",
    "InCTRL",
    "training-free floor",
    "patch residual alone",
    "prompt_shifts 4",
    "InCTRL, prompt_shifts 4",
    "floor, prompt_shifts 4",
    "patch residual alone, prompt_shifts 4",
    "rate 3e-3 decay 1, alpha 0.75, prompt_shifts 4",
)  # of the ablation, for each kind of target
METRICS = {"image_AUROC": "image AUROC", "pixel_AUROC": "pixel AUROC", "AUPRO": "AUPRO"}
_PLACE = re.compile(r"(<!-- table: (?P<name>[\w ]+) -->\n).*?(?=<!-- end of table -->)", re.DOTALL)


def over_seeds(results: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Means over categories, of these mean and standard deviation over seeds, in percent."""
    metrics = [name for name in METRICS if name in results]
    seeds = results.groupby([*by, "seed"], sort=False)[metrics].mean() * 100
    return seeds.groupby(by, sort=False).agg(["mean", "std"])


def told(mean: float, spread: float, best: float) -> str:
    """`72.9 ± 0.9`, bold if no other is higher."""
    text = f"{mean:.1f} ± {spread:.1f}"
    return f"**{text}**" if round(mean, 1) == round(best, 1) else text


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: int) -> str:
    """A table whose last columns, so many, are numbers."""
    words = len(header) - numbers
    lines = [header, ["---"] * words + ["---:"] * numbers, *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def shots(results: pd.DataFrame, targets: Sequence[str], extra: bool) -> str:
    """Image AUROC for every K; with pixel metrics at K = 4 if `extra`."""
    results = results.rename(columns={"pixel_AUPRO": "AUPRO"})
    table = over_seeds(results[results["target"].isin(targets)], ["target", "model", "k_shot"])
    k_shots = sorted(results["k_shot"].unique())
    columns = [("image_AUROC", k) for k in k_shots] + ([("pixel_AUROC", 4), ("AUPRO", 4)] if extra else [])
    rows = []
    for target in targets:
        best = {(name, k): table.loc[target].xs(k, level="k_shot")[name]["mean"].max() for name, k in columns}
        for place, model in enumerate(table.loc[target].index.unique("model")):
            cells = [told(*table.loc[(target, model, k), name], best[name, k]) for name, k in columns]
            rows.append(["" if place else target, model, *cells])
    names = [f"{METRICS[name]}, K = {k}" for name, k in columns]
    names[1 : len(k_shots)] = [f"K = {k}" for k in k_shots[1:]]
    return markdown(["unseen", "model", *names], rows, len(columns))


def groups(results: pd.DataFrame) -> str:
    """Rendered categories and photographs apart, for the rows that stand for models."""
    results = results[results["row"].isin(SHOWN)].assign(photograph=results["category"].isin(PHOTOGRAPHS))
    table = over_seeds(results, ["row", "photograph"])
    columns = [(name, photograph) for name in METRICS for photograph in (False, True)]
    best = {(name, which): table.xs(which, level="photograph")[name]["mean"].max() for name, which in columns}
    rows = [
        [row, *(told(*table.loc[(row, which), name], best[name, which]) for name, which in columns)] for row in SHOWN
    ]
    names = [f"{title}: {group}" for title in METRICS.values() for group in ("rendered", "photographs")]
    return markdown(["row", *names], rows, len(columns))


def categories(random: pd.DataFrame, trained: pd.DataFrame) -> str:
    """Each category without trained heads, with random weights and with the trained ones, means over seeds."""
    columns = (
        ("image AUROC, floor", "training-free floor", "image_AUROC"),
        ("image AUROC, patches alone", "patch residual alone", "image_AUROC"),
        ("pixel AUROC", "training-free floor", "pixel_AUROC"),
    )
    found = {
        f"{title}: {which}": results[results["row"] == row].groupby("category")[metric].mean() * 100
        for title, row, metric in columns
        for which, results in (("random", random), ("this", trained))
    }
    table = pd.DataFrame(found).sort_index()
    rows = [
        [str(name), *(f"{value:.1f}" for value in line)] for name, line in zip(table.index, table.values, strict=True)
    ]
    rows.append(["**mean**", *(f"**{value:.1f}**" for value in table.mean())])
    return markdown(["category", *table.columns], rows, len(table.columns))


def main(argv: Sequence[str] | None = None) -> int:
    """Write the tables.

    Args:
        argv: Arguments without the program's name; those of the process if None.

    Returns:
        0.

    Raises:
        KeyError: If a page asks for a table that is not there.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of the results")
    results: Path = parser.parse_args(argv).results

    files = [results / name / "results.csv" for name in ("benchmark/embedded", "ablation_mini_clip", "ablation_random")]
    if missing := [str(file) for file in files if not file.is_file()]:
        parser.error(f"not there: {', '.join(missing)}. `make tables` measures what is missing; no page was changed.")
    embedded, mini_clip, random = (pd.read_csv(file) for file in files)
    tables: dict[str, Callable[[], str]] = {
        "results": lambda: shots(embedded, ["rendered", "photographs"], extra=True),
        "shots": lambda: shots(embedded, ["rendered", "photographs", "digits", "even digits"], extra=False),
        "rows": lambda: (results / "ablation_mini_clip" / "table.md").read_text(encoding="utf-8"),
        "groups": lambda: groups(mini_clip),
        "categories": lambda: categories(random, mini_clip),
    }
    for page in PAGES:
        old = page.read_text(encoding="utf-8")
        new = _PLACE.sub(lambda place: place[1] + tables[place["name"]](), old)
        write_text_atomic(page, new)
        print(f"{page.relative_to(ROOT)}: {'as it was' if new == old else 'written anew'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
