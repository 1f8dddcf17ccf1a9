# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Ablation: train variants of the models on some of the demo categories, test them few-shot on the others.

    python benchmarks/ablate.py --config configs/ablations/inctrl_v2.yaml --output results/ablation

Settings of the config can be replaced by arguments such as `setup.steps=50`. A second run goes on where the first one
stopped: what has been measured with the same settings is not measured again.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import logging
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from anomalib.utils.path import resolve_dataset_root
from features import EncodedDataset, Encoder, TrainingTable
from omegaconf import OmegaConf
from report import summarize, to_markdown, to_rich
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from scoring import METRICS, UnseenCategories
from torch import Tensor
from torch.nn import functional as F
from training import MODELS, Schedule, Trainer

from anomalib_inctrl import __version__
from anomalib_inctrl.backbones.openclip import weights_file
from anomalib_inctrl.data import DataSource, GeneralistDataModule
from anomalib_inctrl.demo import AUXILIARY_CATEGORIES, UNSEEN_CATEGORIES
from anomalib_inctrl.io.files import write_text_atomic
from anomalib_inctrl.models.components.score_components import ScoreComponents

_LOSS_WINDOW = 25
_KINDS = ("trained", "floor", "residual", "text", "constant", "position")


@dataclass(frozen=True)
class Setup:
    """What all rows have in common.

    Attributes:
        backbone: Name of an OpenCLIP vision transformer.
        pretrained: OpenCLIP pretrained tag or path of a weights file; ``None`` for fixed random weights.
        layers: Blocks whose patch tokens are used; None for the default.
        data_root: Folder of the demo data; rendered if it is not there.
        data_options: Further arguments of ``InCTRLDemo``.
        auxiliary: Categories to train on.
        unseen: Categories to test on.
        seeds: Each decides first weights, batches and prompts of one repetition.
        k_shot: Prompts of each test category and of each training query.
        steps: Training steps.
        batch_size: Balanced queries a step; half as many come on top for the one-class branch.
        mask_size: Side of the masks in the pixel losses, in pixels; None for the backbone's image size.
        pixel_stride: Pixel metrics are taken on every such row and column.
    """

    backbone: str = "demo-vit-16-240"
    pretrained: str | None = None
    layers: list[int] | None = None
    data_root: str = "./datasets/InCTRLDemo"
    data_options: dict[str, Any] = field(default_factory=dict)
    auxiliary: list[str] = field(default_factory=lambda: list(AUXILIARY_CATEGORIES))
    unseen: list[str] = field(default_factory=lambda: list(UNSEEN_CATEGORIES))
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    k_shot: int = 4
    steps: int = 300
    batch_size: int = 16
    mask_size: int | None = None
    pixel_stride: int = 1


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: Its name, used once.
        group: Heading it belongs under.
        kind: ``trained``; ``floor``, the same model untrained; ``residual``, the patch residual alone; ``text``, the
            text score alone; ``constant``, the same score and map for every image; ``position``, for every image the
            mean mask of the training images.
        model: ``InCTRLv2`` or ``InCTRL``.
        options: Arguments of the model that differ from the base's.
    """

    name: str
    group: str = ""
    kind: str = "trained"
    model: str = "InCTRLv2"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ablation:
    """A whole config.

    Attributes:
        setup: What all rows have in common.
        base: By model the arguments that all its rows have.
        rows: The rows.
        reference: Name of the row that the others are compared with.
    """

    setup: Setup
    base: dict[str, dict[str, Any]]
    rows: list[Row]
    reference: str

    def options(self, row: Row) -> dict[str, Any]:
        """Arguments of a row's model."""
        return {**self.base.get(row.model, {}), **row.options}


def read_config(path: Path, overrides: Sequence[str] = ()) -> Ablation:
    """Read and check a config.

    Args:
        path: YAML file.
        overrides: Settings to replace, such as ``setup.steps=50``.

    Returns:
        The ablation.

    Raises:
        ValueError: If a key, kind, model or option does not exist, or a name is used twice.
    """
    content: Any = OmegaConf.to_container(
        OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(list(overrides))), resolve=True
    )
    _check_keys(content, [item.name for item in fields(Ablation)], f"{path}")
    setup = content.get("setup") or {}
    _check_keys(setup, [item.name for item in fields(Setup)], f"{path}: setup")
    rows = []
    for number, row in enumerate(content.get("rows") or []):
        _check_keys(row, [item.name for item in fields(Row)], f"{path}: rows[{number}]")
        rows.append(Row(**row))
    ablation = Ablation(Setup(**setup), content.get("base") or {}, rows, content.get("reference", ""))
    names = [row.name for row in rows]
    for row in rows:
        where = f"{path}: row {row.name!r}"
        if names.count(row.name) > 1:
            msg = f"{where}: the name is used twice. Give each row its own."
            raise ValueError(msg)
        for key, value, known in (("kind", row.kind, _KINDS), ("model", row.model, MODELS)):
            if value not in known:
                msg = f"{where}: {key}={value!r} does not exist. Choose one of {', '.join(known)}."
                raise ValueError(msg)
        _check_keys(ablation.options(row), list(inspect.signature(MODELS[row.model]).parameters), f"{where}: options")
    if ablation.reference not in names:
        msg = f"{path}: reference={ablation.reference!r} is no row. Rows: {', '.join(names)}."
        raise ValueError(msg)
    return ablation


def _check_keys(found: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    if wrong := sorted(set(found) - set(known)):
        msg = f"{where}: unknown {', '.join(wrong)}. Known: {', '.join(known)}."
        raise ValueError(msg)


def score_and_map(kind: str, components: ScoreComponents, masks: Tensor) -> tuple[Tensor, Tensor]:
    """What a kind of row says of the images of a category.

    Args:
        kind: See :class:`Row`.
        components: What the row's model says of ``B`` images.
        masks: Masks of the training images ``(N, H, W)``.

    Returns:
        Scores ``(B,)`` and maps ``(B, P)``.
    """
    level = torch.full_like(components.score, 0.5)
    if kind == "residual":
        return components.patch_score, components.anomaly_map
    if kind == "text":
        return components.text_score, components.text_score.unsqueeze(-1).expand_as(components.anomaly_map)
    if kind == "constant":
        return level, torch.full_like(components.anomaly_map, 0.5)
    if kind == "position":
        prior = F.adaptive_avg_pool2d(masks.float().mean(dim=0)[None, None], components.grid).flatten()
        return level, prior.expand_as(components.anomaly_map).contiguous()
    return components.score, components.anomaly_map


@dataclass
class World:
    """Encoded data and what works on them.

    Attributes:
        auxiliary: Training images.
        trainer: Trains on them.
        unseen: Test images.
    """

    auxiliary: EncodedDataset
    trainer: Trainer
    unseen: UnseenCategories

    @classmethod
    def prepare(cls, setup: Setup) -> World:
        """Render what is not there, encode all images, compare all patches."""
        root = str(resolve_dataset_root(setup.data_root, "InCTRLDemo"))
        datamodule = GeneralistDataModule(
            auxiliary=[DataSource("InCTRLDemo", root, setup.auxiliary, setup.data_options)],
            targets=[DataSource("InCTRLDemo", root, setup.unseen, setup.data_options)],
        )
        datamodule.prepare_data()
        datamodule.setup()
        encoder = Encoder(setup.backbone, setup.pretrained, setup.layers)
        auxiliary = encoder.encode_dataset(datamodule.train_data, "Encoding auxiliary images")
        test = encoder.encode_dataset(datamodule.test_data, "Encoding unseen images")
        table = TrainingTable(auxiliary, setup.mask_size)
        schedule = Schedule(setup.steps, setup.batch_size, setup.k_shot)
        trainer = Trainer(encoder, datamodule.train_data, table, schedule)
        unseen = UnseenCategories(encoder, test, datamodule.prompt_candidates(), setup.k_shot, setup.pixel_stride)
        return cls(auxiliary, trainer, unseen)

    def run(self, row: Row, options: Mapping[str, Any], seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Train and test one row with one seed.

        Args:
            row: The row.
            options: Arguments of its model.
            seed: The seed.

        Returns:
            Metrics, a line per category, and losses, a line per term and :data:`_LOSS_WINDOW` steps.
        """
        start = time.monotonic()
        if row.kind == "trained":
            module, courses = self.trainer.train(row.model, options, seed)
        else:
            module, courses = self.trainer.build(row.model, options, seed), {}
        trained = time.monotonic()
        lines = []
        for category in self.unseen.class_names:
            components = self.unseen.score(module.model, category, seed)
            score, anomaly_map = score_and_map(row.kind, components, self.auxiliary.masks)
            lines.append({"category": category, **self.unseen.measure(category, score, anomaly_map)})
        metrics = pd.DataFrame(lines)
        metrics["training_seconds"] = round(trained - start, 2)
        metrics["test_seconds"] = round(time.monotonic() - trained, 2)
        losses = [
            {"term": term, "step": end, "loss": sum(course[end - _LOSS_WINDOW : end]) / _LOSS_WINDOW}
            for term, course in courses.items()
            for end in range(_LOSS_WINDOW, len(course) + 1, _LOSS_WINDOW)
        ]
        return metrics, pd.DataFrame(losses, columns=["term", "step", "loss"])


def run(ablation: Ablation, output: Path, console: Console) -> pd.DataFrame:
    """Run what has not been run and write it down row by row.

    Args:
        ablation: What to run.
        output: Folder of ``results.csv`` (a line per row, seed and category), ``losses.csv``, ``table.md`` and
            ``config.yaml``.
        console: Where progress is shown.

    Returns:
        Results of all rows in the config, in long form.
    """
    setup = ablation.setup
    common = {**asdict(setup), "pretrained": _content(setup), "version": __version__}
    del common["data_root"], common["seeds"]
    tasks = {
        (row.name, seed): _hash({**common, **asdict(row), "options": ablation.options(row), "seed": seed})
        for row in ablation.rows
        for seed in setup.seeds
    }
    results, losses = (_read(output / name, tasks) for name in ("results.csv", "losses.csv"))
    done = set() if results.empty else set(results["hash"])
    # Seed by seed: the whole table is there early, and gains in certainty.
    todo = [(row, seed) for seed in setup.seeds for row in ablation.rows if tasks[row.name, seed] not in done]
    console.print(f"{len(tasks) - len(todo)} of {len(tasks)} repetitions are there already.")
    write_text_atomic(output / "config.yaml", OmegaConf.to_yaml(asdict(ablation)))
    if todo:
        world = World.prepare(setup)
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        bar = [TextColumn(column) if isinstance(column, str) else column for column in columns]
        with Progress(*bar, console=console) as progress:
            for row, seed in progress.track(todo, description="Rows and seeds"):
                found, course = world.run(row, ablation.options(row), seed)
                label = {"row": row.name, "group": row.group, "seed": seed, "hash": tasks[row.name, seed]}
                results, losses = (
                    pd.concat([old, new.assign(**label)[[*label, *new.columns]]], ignore_index=True)
                    for old, new in ((results, found), (losses, course))
                )
                write_text_atomic(output / "losses.csv", losses.to_csv(index=False, float_format="%.6f"))
                write_text_atomic(output / "results.csv", results.to_csv(index=False, float_format="%.6f"))
                means = ", ".join(f"{name} {found[name].mean():.3f}" for name in METRICS)
                progress.console.print(f"{row.name}, seed {seed}: {means}", highlight=False)
    return results


def _content(setup: Setup) -> str | None:
    """What the backbone's weights are: a hash of the file if there is one, OpenCLIP's tag if not."""
    tag = setup.pretrained
    if tag is None:
        return None
    file = weights_file(setup.backbone, tag)
    return tag if file is None else hashlib.sha256(file.read_bytes()).hexdigest()


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _read(path: Path, tasks: Mapping[tuple[str, int], str]) -> pd.DataFrame:
    """Read earlier results, of the present settings only."""
    if not path.is_file():
        return pd.DataFrame()
    table = pd.read_csv(path, keep_default_na=False)
    return table[table["hash"].isin(tasks.values())] if "hash" in table else pd.DataFrame()


def main(argv: Sequence[str] | None = None) -> int:
    """Run an ablation and print its table.

    Args:
        argv: Arguments without the program's name; those of the process if None.

    Returns:
        0.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="YAML file with setup, base, rows and reference")
    parser.add_argument("--output", type=Path, required=True, help="folder for results")
    parser.add_argument("overrides", nargs="*", help="settings of the config to replace, such as setup.steps=50")
    args = parser.parse_args(argv)
    ablation = read_config(args.config, args.overrides)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    # Small tensors: threads would wait for each other.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    # Without a terminal rich would assume a narrow one.
    console = Console(width=None if Console().is_terminal else 120)
    start = time.monotonic()
    results = run(ablation, args.output, console)
    summary = summarize(results, [row.name for row in ablation.rows], ablation.reference)
    write_text_atomic(args.output / "table.md", to_markdown(summary))
    console.print(
        to_rich(summary, "Unseen categories: mean over categories, mean ± standard deviation over seeds, in %")
    )
    console.print(f"Table: {args.output / 'table.md'}   ({time.monotonic() - start:.0f} s)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
