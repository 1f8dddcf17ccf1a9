# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Ablation: train variants of the models on auxiliary data, test them few-shot on unseen categories.

    python benchmarks/ablate.py --config configs/ablations/three_domains.yaml --output results/three_domains

Each row is trained by anomalib's engine once for each seed, and measured by the package's benchmark with that seed's
prompts on every target; a target may name its domain, which has columns of its own. Settings of the config can be
replaced by arguments such as `setup.steps=50`. A second run continues: trained heads and measured rows of the same
settings are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf
from pydantic import BaseModel, TypeAdapter, model_validator
from rich.console import Console
from scipy.stats import t as student
from timing import MODELS, markdown, script_parser, train_heads

from anomalib_inctrl import GeneralistDataModule
from anomalib_inctrl.benchmark import run_benchmark
from anomalib_inctrl.benchmark.config import BenchmarkConfig
from anomalib_inctrl.benchmark.jobs import quiet
from anomalib_inctrl.benchmark.metrics import METRICS
from anomalib_inctrl.data.sources import DataSource, build_datamodules, prepare, read_parts
from anomalib_inctrl.errors import DatasetError
from anomalib_inctrl.io.files import write_text_atomic

_COMPARED = ("image_AUROC", "pixel_AUROC", "pixel_AUPRO")


class Target(BaseModel, extra="allow"):
    """A source to test on, as in a benchmark, with two further settings.

    Attributes:
        domain: Whose columns of the table it belongs to: the mean over its targets of the means over their categories.
        optional: Whether to go on without it where its data is missing.
    """

    domain: str = ""
    optional: bool = False

    @property
    def source(self) -> DataSource:
        """The source alone."""
        return TypeAdapter(DataSource).validate_python(self.model_extra)

    @model_validator(mode="after")
    def _check(self) -> Target:
        _ = self.source
        return self


class Setup(BaseModel, extra="forbid"):
    """Settings that all rows have in common.

    Attributes:
        backbone: Name of the backbone.
        pretrained: Its weights.
        auxiliary: Sources to train on, as for ``GeneralistDataModule``.
        targets: Sources to test on, by name.
        seeds: Each decides first weights, batches and prompts of one repetition.
        k_shot: Prompts of each test category and of each training query.
        steps: Training steps.
        batch_size: Balanced queries a step; half as many are added for the one-class branch.
    """

    backbone: str
    pretrained: bool | str | None = True
    auxiliary: list[dict[str, Any]]
    targets: dict[str, Target]
    seeds: list[int] = [0, 1, 2]
    k_shot: int = 4
    steps: int = 300
    batch_size: int = 16


class Row(BaseModel, extra="forbid"):
    """One line of the table.

    Attributes:
        name: Its name, used once.
        group: Heading it belongs under.
        model: ``InCTRLv2`` or ``InCTRL``.
        trained: Whether its heads are trained; if not, the training-free baseline is measured.
        options: Arguments of the model that differ from its defaults.
    """

    name: str
    group: str = ""
    model: str = "InCTRLv2"
    trained: bool = True
    options: dict[str, Any] = {}


class Ablation(BaseModel, extra="forbid"):
    """A whole config.

    Attributes:
        setup: Settings that all rows have in common.
        rows: The rows.
        reference: Name of the row that the others are compared with.
        only: Names of the rows to run; all if empty.
    """

    setup: Setup
    rows: list[Row]
    reference: str
    only: list[str] = []

    @model_validator(mode="after")
    def _check(self) -> Ablation:
        names = [row.name for row in self.rows]
        if absent := sorted(set(self.only) - set(names)):
            msg = f"only={absent} are not rows. Rows: {', '.join(names)}."
            raise ValueError(msg)
        self.rows = [row for row in self.rows if row.name in self.only] or self.rows
        names = [row.name for row in self.rows]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            msg = f"rows: the names {twice} are used twice. Give each row its own."
            raise ValueError(msg)
        if self.reference not in names:
            msg = f"reference={self.reference!r} is not a row. Rows: {', '.join(names)}."
            raise ValueError(msg)
        if unknown := sorted({row.model for row in self.rows} - MODELS.keys()):
            msg = f"rows: there are no models {unknown}. Choose among {sorted(MODELS)}."
            raise ValueError(msg)
        return self

    def options(self, row: Row) -> dict[str, Any]:
        """Arguments of a row's model."""
        # The papers' weights, so that what a row changes is not weighted away.
        own = {"backbone": self.setup.backbone, "pretrained": self.setup.pretrained, "fusion": "paper"}
        return own | row.options


def train(ablation: Ablation, row: Row, seed: int, datamodule: GeneralistDataModule, folder: Path) -> Path:
    """Train the heads of a row with one seed, unless they have been."""
    common = ablation.setup.model_dump(exclude={"targets", "seeds"})
    identity = json.dumps([common, row.model, ablation.options(row), seed], sort_keys=True)
    path = folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.ckpt"
    if not path.is_file():
        module = MODELS[row.model](**ablation.options(row), seed=seed, visualizer=False)
        datamodule.seed = seed
        with quiet():
            checkpoint = train_heads(module, datamodule, folder / "runs")
        checkpoint.replace(path)
    return path


def find_targets(targets: Mapping[str, Target], console: Console) -> dict[str, Target]:
    """Read every target's list of images, so that what is missing is known before anything is trained."""
    found = {}
    for name, target in targets.items():
        where = f"setup.targets.{name}"
        try:
            for class_name, datamodule in build_datamodules([target.source], where).items():
                prepare(datamodule)
                read_parts(class_name, datamodule, where)
        except DatasetError as error:
            if not target.optional:
                raise
            console.print(f"Left out: {error}", markup=False, highlight=False, soft_wrap=True)
        else:
            found[name] = target
    return found


def run(ablation: Ablation, output: Path, console: Console) -> pd.DataFrame:
    """Train and measure what is missing."""
    setup = ablation.setup
    with quiet():
        targets = find_targets(setup.targets, console)
    datamodule = GeneralistDataModule(
        auxiliary=setup.auxiliary,  # type: ignore[arg-type]  # mappings, as from YAML
        k_shot=setup.k_shot,
        train_batch_size=setup.batch_size,
        steps_per_epoch=setup.steps,
        num_workers=0,
        feature_store=str(output / "features"),  # the rows share the images
    )
    tables = []
    for seed in setup.seeds:
        models: dict[str, dict[str, Any]] = {}
        for number, row in enumerate(ablation.rows, start=1):
            models[row.name] = {"class_path": row.model, "init_args": ablation.options(row)}
            if row.trained:
                console.print(f"seed {seed}, row {number} of {len(ablation.rows)}: {row.name}", highlight=False)
                models[row.name]["weights"] = str(train(ablation, row, seed, datamodule, output / "weights"))
        config = BenchmarkConfig.model_validate(
            {
                "output": output / f"seed_{seed}",
                "title": f"Ablation, seed {seed}",
                "models": models,
                "targets": {name: target.source for name, target in targets.items()},
                "k_shots": [setup.k_shot],
                "seeds": [seed],
            }
        )
        tables.append(run_benchmark(config, console=console))
    results = pd.concat(tables).rename(columns={"model": "row"})
    results["group"] = results["row"].map({row.name: row.group for row in ablation.rows})
    results["domain"] = results["target"].map({name: target.domain for name, target in targets.items()})
    write_text_atomic(output / "results.csv", results.to_csv(index=False, float_format="%.6f"))
    return results


def summarize(results: pd.DataFrame, names: Sequence[str], reference: str) -> pd.DataFrame:
    """Summarize results by row: mean over categories, then mean and standard deviation over seeds, in percent.

    A star marks a difference to the reference that a paired t-test over the seeds calls significant at 5 %, for these
    categories. With one domain the differences have columns that start with a delta; with several each has its metrics.
    """
    domains = list(dict.fromkeys(results["domain"]))
    several = len(domains) > 1
    metrics = [name for name in (_COMPARED if several else METRICS) if name in results]
    by_target = 100 * results.groupby(["row", "seed", "domain", "target"])[metrics].mean()
    by_seed = by_target.groupby(["row", "seed", "domain"]).mean().unstack("domain")
    groups = results.drop_duplicates("row").set_index("row")["group"]
    columns = [(key, domain) for domain in domains for key in metrics if by_seed[key, domain].notna().any()]
    lines = []
    for name in names:
        own, shift = by_seed.loc[name], by_seed.loc[name] - by_seed.loc[reference]
        line = {"group": groups[name], "row": name}
        for key, domain in columns:
            star = _star(shift[key, domain]) if several else ""
            line[f"{domain}: {METRICS[key]}" if several else METRICS[key]] = _text(own[key, domain]) + star
        for key, domain in columns:
            if key in _COMPARED and not several:
                values = shift[key, domain]
                line[f"Δ {METRICS[key]}"] = "" if name == reference else _text(values, "+") + _star(values)
        lines.append(line)
    return pd.DataFrame(lines)


def _text(values: pd.Series, sign: str = "") -> str:
    spread = values.std(ddof=1) if len(values) > 1 else 0.0
    return f"{values.mean():{sign}.1f} ± {spread:.1f}"


def _star(shift: pd.Series) -> str:
    if len(shift) < 2:
        return ""
    error = shift.std(ddof=1) / np.sqrt(len(shift))
    return " *" if abs(shift.mean()) > student.ppf(0.975, len(shift) - 1) * error + 1e-4 else ""


def read_config(path: Path, overrides: Sequence[str] = ()) -> Ablation:
    """Read and check a config."""
    merged = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(list(overrides)))
    content: Mapping[str, Any] = OmegaConf.to_container(merged, resolve=True)  # type: ignore[assignment]
    return Ablation.model_validate(content)


def main(argv: Sequence[str] | None = None) -> int:
    """Run an ablation and print its table."""
    parser = script_parser(__doc__)
    parser.add_argument("--config", type=Path, required=True, help="YAML file with setup, rows and reference")
    parser.add_argument("--output", type=Path, required=True, help="folder for results")
    parser.add_argument("overrides", nargs="*", help="settings of the config to replace, such as setup.steps=50")
    args = parser.parse_args(argv)
    ablation = read_config(args.config, args.overrides)
    console = Console(width=None if Console().is_terminal else 140)
    results = run(ablation, args.output, console)
    summary = summarize(results, [row.name for row in ablation.rows], ablation.reference)
    table = markdown(list(summary), summary.to_numpy().tolist(), ("group", "row"))
    write_text_atomic(args.output / "table.md", table)
    console.print("Mean over unseen categories, mean ± standard deviation over seeds, in percent")
    print(table)
    console.print(f"Table: {args.output / 'table.md'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
