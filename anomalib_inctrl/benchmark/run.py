# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""A run from beginning to end: train what is to be trained, measure what is missing, write the report."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pandas as pd
from anomalib.engine import Engine
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from anomalib_inctrl.benchmark.config import TRAINING_CONFIGS, BenchmarkConfig, weights_content
from anomalib_inctrl.benchmark.jobs import CategoryJob, JobPlanner, file_name, quiet
from anomalib_inctrl.benchmark.metrics import METRICS, TITLES
from anomalib_inctrl.benchmark.outcome import Outcome
from anomalib_inctrl.benchmark.report import Report
from anomalib_inctrl.benchmark.runners import ProcessRunner, RayRunner, Result, SerialRunner, StreamingRunner
from anomalib_inctrl.benchmark.store import ResultsFolder
from anomalib_inctrl.errors import BenchmarkError
from anomalib_inctrl.io.files import write_text_atomic


class Benchmark:
    """A benchmark, its folder and its progress.

    Args:
        config: What to run.
        console: Where progress is shown.
    """

    def __init__(self, config: BenchmarkConfig, console: Console | None = None) -> None:
        self.config = config
        self.folder = ResultsFolder(config)
        # Without a terminal rich would assume a narrow one.
        self.console = console or Console(width=None if Console().is_terminal else 140)
        self.failures: dict[str, str] = {}
        self._categories: list[tuple[str, str]] = []
        self._bar: Progress | None = None
        self._task: Any = None

    def run(self) -> pd.DataFrame:
        """Run what is missing.

        Returns:
            The rows of ``results.csv``.

        Raises:
            BenchmarkError: If it cannot start, or something could not be measured.
        """
        try:
            self.folder.open()
            runner = self.runner()
            generator: Any = runner.generator
            self._categories = list(generator.categories())
            jobs = list(generator())
            self._begin(jobs)
            columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            with Progress(TextColumn("{task.description}"), *columns, console=self.console) as self._bar:
                self._task = self._bar.add_task("Measuring", total=len(jobs))
                runner.run_jobs(jobs)
            table = self.folder.write_table(self._categories)
            self._write_report(table)
        finally:
            self.folder.close()
        if self.failures:
            lines = "\n".join(f"  {name}: {reason}" for name, reason in self.failures.items())
            failed = f"{len(self.failures)} of {len(jobs)}"
            msg = f"{failed} could not be measured, all else is in {self.folder.path}:\n{lines}"
            raise BenchmarkError(msg)
        return table

    def runner(self) -> StreamingRunner:
        """Where jobs run, by the config; trains what is to be trained first."""
        planner = JobPlanner(self.config, self._weights(), self.folder.finished())
        if self.config.ray is not None:
            return RayRunner(planner, self._receive, self.config.ray)
        if self.config.workers > 1:
            return ProcessRunner(planner, self._receive, self.config.workers)
        return SerialRunner(planner, self._receive, self._show_images)

    def report(self) -> None:
        """Write the report of what is there, and measure nothing.

        Raises:
            BenchmarkError: If another config gave what is there.
            PretrainedWeightsError: If weights that the config names are not there.
        """
        self.folder.check()
        self._categories = list(JobPlanner(self.config, {}, {}).categories())
        self._write_report(self.folder.write_table(self._categories))

    # ------------------------------------------------------------------ training

    def _weights(self) -> dict[tuple[str, str], str]:
        """Checkpoint by model and target; those of training configs are made now if they are not there."""
        found = {}
        for name, model in self.config.models.items():
            for target in self.config.targets:
                path = model.weights_for(target)
                if path is not None:
                    trained = Path(path).suffix in TRAINING_CONFIGS
                    found[name, target] = str(self._train(name, Path(path)) if trained else path)
        return found

    def _train(self, name: str, config: Path) -> Path:
        # By its content: each target may have a training of its own, in files that are called alike.
        content = json.dumps(weights_content(str(config)), sort_keys=True, default=str)
        digest = hashlib.sha256(content.encode()).hexdigest()[:8]
        checkpoint = self.folder.path / "weights" / file_name(name) / f"{config.stem}-{digest}.ckpt"
        if checkpoint.is_file():
            return checkpoint
        self.console.print(f"Training {name} by {config}")
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(mkdtemp(prefix=f".{config.stem}-", dir=checkpoint.parent))
        try:
            with quiet():
                # Targets that the config names are not looked at: here they are measured afterwards.
                engine, model, datamodule = Engine.from_config(
                    str(config), default_root_dir=scratch, **{"trainer.limit_val_batches": 0, "trainer.logger": False}
                )
                engine.fit(model, datamodule=datamodule)
            if not engine.best_model_path:
                msg = f"{config}: the training left no checkpoint. Take out of trainer what keeps it from writing one."
                raise BenchmarkError(msg)
            Path(engine.best_model_path).replace(checkpoint)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return checkpoint

    # ------------------------------------------------------------------ progress

    def _begin(self, jobs: list[CategoryJob]) -> None:
        rows = sum(len(settings) for job in jobs for settings in job.settings.values())
        done = len(self.folder.write_table(self._categories))
        self.console.print(f"{done} rows are there already, {rows} to measure, in {len(jobs)} passes.")

    def _show_images(self, job: CategoryJob, done: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=f"{job.where}, {done} images")

    def _receive(self, job: CategoryJob, result: Result) -> None:
        if isinstance(result, Outcome):
            self.folder.add(result, job.target, job.class_name)
            self.folder.write_table(self._categories)
            for line in _summaries(result.rows):
                self.console.print(f"{job.where}  {line}", highlight=False, soft_wrap=True)
        else:
            self.failures[job.label] = f"{type(result).__name__}: {result}"
            self.console.print(f"[red]failed[/] {job.label}: {type(result).__name__}: {result}", highlight=False)
        if self._bar is not None:
            self._bar.update(self._task, advance=1, description="Measuring")

    def _write_report(self, table: pd.DataFrame) -> None:
        report = Report(self.config, table, self._categories, self.folder.examples)
        write_text_atomic(self.folder.path / "report.md", report.markdown())
        write_text_atomic(self.folder.path / "report.html", report.html())
        self.console.print(report.overview())
        self.console.print(f"Report: {self.folder.path / 'report.html'}", soft_wrap=True)


def write_report(config: BenchmarkConfig) -> None:
    """Write the report of what a folder holds; see :meth:`Benchmark.report`.

    Args:
        config: What it was run with.
    """
    Benchmark(config).report()


def _summaries(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each model and K: means over seeds."""
    groups: dict[tuple[str, Any], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["k_shot"]), []).append(row)
    lines = []
    for (model, k_shot), some in groups.items():
        means = [
            f"{TITLES[name]} {100 * sum(row[name] for row in some) / len(some):.1f}"
            for name in METRICS
            if all(name in row for row in some)
        ]
        lines.append(f"{model}, {'all images' if k_shot is None else f'K={k_shot}'}: {', '.join(means)}")
    return lines
