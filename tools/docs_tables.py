# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Write the tables of results on the demonstration encoder into the pages that show them.

    python tools/docs_tables.py

reads the results of `configs/benchmarks/embedded.yaml` and of the ablations with the demonstration encoder's weights
and with random ones, and replaces the text between `<!-- table: NAME -->` and `<!-- end of table -->` in the pages.
`make tables` first runs those that are missing.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from anomalib_inctrl.io.files import write_text_atomic

ROOT = Path(__file__).parents[1]
CARD = Path("anomalib_inctrl/backbones/weights/mini-clip-16-240-demo.md")
PAGES = (ROOT / "README.md", ROOT / "docs/ablation.md", ROOT / CARD)
RESULTS = ("benchmark/embedded", "ablation_mini_clip", "ablation_random")
BASELINE, PATCHES = "training-free baseline", "patch residual alone"
PHOTOGRAPHS = ("brick", "grass", "gravel")
SHOWN = (
    "InCTRLv2",
    "InCTRL",
    BASELINE,
    PATCHES,
    "prompt_shifts 4",
    "InCTRL, prompt_shifts 4",
    "baseline, prompt_shifts 4",
    "patch residual alone, prompt_shifts 4",
    "rate 3e-3 decay 1, alpha 0.75, prompt_shifts 4",
)  # rows of the ablation that are shown by kind of target
METRICS = {"image_AUROC": "image AUROC", "pixel_AUROC": "pixel AUROC", "AUPRO": "AUPRO"}
_PLACE = re.compile(r"(<!-- table: (?P<name>[\w ]+) -->\n).*?(?=<!-- end of table -->)", re.DOTALL)


def over_seeds(results: pd.DataFrame, by: list[str], among: str) -> pd.DataFrame:
    """Means over categories, of these `mean ± standard deviation` over seeds in percent, by metric, indexed by `by`.

    The best of those that differ in the column `among` is bold.
    """
    seeds = results.groupby([*by, "seed"], sort=False)[list(METRICS)].mean() * 100
    groups = seeds.groupby(by, sort=False)
    mean, std = groups.mean().round(1), groups.std()
    text = mean.apply(lambda column: column.map("{:.1f}".format)) + " ± "
    text += std.apply(lambda column: column.map("{:.1f}".format))
    best = mean.groupby([name for name in by if name != among]).transform("max")
    return text.where(mean != best, "**" + text + "**")


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: int) -> str:
    """A table whose last `numbers` columns are right-aligned."""
    rule = ["---"] * (len(header) - numbers) + ["---:"] * numbers
    return "".join(f"| {' | '.join(line)} |\n" for line in [header, rule, *rows])


def shots(results: pd.DataFrame, targets: Sequence[str], *, pixels: bool) -> str:
    """Image AUROC for every K, with pixel metrics at K = 4 if `pixels`."""
    results = results[results["target"].isin(targets)]
    table = over_seeds(results, ["target", "model", "k_shot"], "model")
    k_shots = sorted(results["k_shot"].unique())
    columns = [("image_AUROC", k) for k in k_shots] + [(name, 4) for name in ("pixel_AUROC", "AUPRO") if pixels]
    names = [f"{METRICS[name]}, K = {k}" for name, k in columns]
    names[1 : len(k_shots)] = [f"K = {k}" for k in k_shots[1:]]
    rows = [
        ["" if number else target, model, *(table.loc[(target, model, k), name] for name, k in columns)]
        for target in targets
        for number, model in enumerate(table.loc[target].index.unique("model"))
    ]
    return markdown(["unseen", "model", *names], rows, len(columns))


def groups(results: pd.DataFrame) -> str:
    """Rendered categories and photographs apart, for the rows in `SHOWN`."""
    kind = results["category"].isin(PHOTOGRAPHS).map({True: "photographs", False: "rendered"})
    table = over_seeds(results.assign(kind=kind)[results["row"].isin(SHOWN)], ["row", "kind"], "row")
    columns = [(name, kind) for name in METRICS for kind in ("rendered", "photographs")]
    names = [f"{METRICS[name]}: {kind}" for name, kind in columns]
    rows = [[row, *(table.loc[(row, kind), name] for name, kind in columns)] for row in SHOWN]
    return markdown(["row", *names], rows, len(columns))


def categories(random: pd.DataFrame, trained: pd.DataFrame) -> str:
    """Each category without trained heads, with random weights and with the trained ones, means over seeds."""
    columns = (
        ("image AUROC, baseline", BASELINE, "image_AUROC"),
        ("image AUROC, patches alone", PATCHES, "image_AUROC"),
        ("pixel AUROC", BASELINE, "pixel_AUROC"),
    )
    table = pd.DataFrame(
        {
            f"{title}: {weights}": results[results["row"] == row].groupby("category")[metric].mean() * 100
            for title, row, metric in columns
            for weights, results in (("random", random), ("this", trained))
        }
    ).sort_index()
    rows = [[str(name), *(f"{value:.1f}" for value in values)] for name, *values in table.itertuples()]
    rows.append(["**mean**", *(f"**{value:.1f}**" for value in table.mean())])
    return markdown(["category", *table.columns], rows, len(table.columns))


def main(argv: Sequence[str] | None = None) -> int:
    """Write the tables; a KeyError names a table that a page asks for and that does not exist."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of the results")
    results: Path = parser.parse_args(argv).results
    files = [results / name / "results.csv" for name in RESULTS]
    if missing := [str(file) for file in files if not file.is_file()]:
        parser.error(f"not found: {', '.join(missing)}. Run `make tables`; no page was changed.")
    embedded, mini_clip, random = (pd.read_csv(file).rename(columns={"pixel_AUPRO": "AUPRO"}) for file in files)
    tables: dict[str, Callable[[], str]] = {
        "results": lambda: shots(embedded, ["rendered", "photographs"], pixels=True),
        "shots": lambda: shots(embedded, ["rendered", "photographs", "digits", "even digits"], pixels=False),
        "rows": lambda: files[1].with_name("table.md").read_text(encoding="utf-8"),
        "groups": lambda: groups(mini_clip),
        "categories": lambda: categories(random, mini_clip),
    }
    for page in PAGES:
        old = page.read_text(encoding="utf-8")
        new = _PLACE.sub(lambda place: place[1] + tables[place["name"]](), old)
        write_text_atomic(page, new)
        print(f"{page}: {'unchanged' if new == old else 'changed'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
