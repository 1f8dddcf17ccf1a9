# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""A run of the benchmark: train heads where the config asks for it, measure what is missing, write the report."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from tempfile import mkdtemp

import pandas as pd
from anomalib.engine import Engine
from rich.console import Console
from rich.progress import track

from anomalib_inctrl.benchmark.config import TRAINING_CONFIGS, BenchmarkConfig, weights_content
from anomalib_inctrl.benchmark.jobs import file_name, plan_jobs, quiet, run_jobs, target_categories
from anomalib_inctrl.benchmark.measurement import CategoryResult
from anomalib_inctrl.benchmark.report import Report
from anomalib_inctrl.benchmark.results_folder import ResultsFolder
from anomalib_inctrl.errors import BenchmarkError
from anomalib_inctrl.io.files import write_text_atomic


class Benchmark:
    """Runs a config and keeps its results folder.

    Args:
        config: The benchmark.
        console: Shows progress.
    """

    def __init__(self, config: BenchmarkConfig, console: Console | None = None) -> None:
        self.config = config
        self.folder = ResultsFolder(config)
        # Without a terminal rich would assume a narrow one.
        self.console = console or Console(width=None if Console().is_terminal else 140)

    def run(self, *, report_only: bool = False) -> pd.DataFrame:
        """Measure what is missing, and write the report.

        Args:
            report_only: Whether to measure nothing, and write the report of the finished rows.

        Returns:
            The rows of ``results.csv``.

        Raises:
            BenchmarkError: If it cannot start, or something could not be measured.
            PretrainedWeightsError: If weights that the config names do not exist.
        """
        config, folder, failures = self.config, self.folder, []
        with folder.locked():
            sources = target_categories(config)
            jobs = [] if report_only else plan_jobs(config, sources, self._weights(), folder.finished())
            table = folder.write_table(sources)
            missing = sum(len(settings) for job in jobs for settings in job.settings.values())
            self.console.print(f"{len(table)} rows are finished, {missing} to measure, in {len(jobs)} passes.")
            results = run_jobs(jobs, config.workers, config.ray)
            for job, result in track(results, "Measuring", total=len(jobs), console=self.console):
                if isinstance(result, CategoryResult):
                    folder.add(result, job.target, job.class_name)
                    table = folder.write_table(sources)
                    auroc = 100 * pd.DataFrame(result.rows)["image_AUROC"].mean()
                    self.console.print(f"{job.label}: image AUROC {auroc:.1f}", markup=False, soft_wrap=True)
                    found = result.failures
                else:
                    found = [f"{type(result).__name__}: {result}"]
                for failure in found:
                    failures.append(f"{job.label}: {failure}")
                    self.console.print(f"failed: {failures[-1]}", style="red", markup=False, highlight=False)
            report = Report(config, table, list(sources))
            write_text_atomic(folder.path / "report.md", report.markdown())
            write_text_atomic(folder.path / "report.html", report.html())
            self.console.print(f"Report: {folder.path / 'report.html'}", soft_wrap=True)
        if failures:
            lines = "\n".join(f"  {failure}" for failure in failures)
            msg = f"{len(failures)} could not be measured, all else is in {folder.path}:\n{lines}"
            raise BenchmarkError(msg)
        return table

    def _weights(self) -> dict[tuple[str, str], str]:
        """Checkpoint by model and target; training configs are run first."""
        found = {}
        for name, model in self.config.models.items():
            for target in self.config.targets:
                path = model.weights_for(target)
                if path is not None:
                    trained = Path(path).suffix in TRAINING_CONFIGS
                    found[name, target] = str(self._train(name, Path(path))) if trained else path
        return found

    def _train(self, name: str, config: Path) -> Path:
        # Named by content: targets may have training configs of the same file name.
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
                # Not validated on the config's targets: they are measured afterwards.
                engine, model, datamodule = Engine.from_config(
                    str(config), default_root_dir=scratch, **{"trainer.limit_val_batches": 0, "trainer.logger": False}
                )
                engine.fit(model, datamodule=datamodule)
            if not engine.best_model_path:
                msg = f"{config}: the training left no checkpoint. Remove the trainer argument that prevents it."
                raise BenchmarkError(msg)
            Path(engine.best_model_path).replace(checkpoint)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return checkpoint
