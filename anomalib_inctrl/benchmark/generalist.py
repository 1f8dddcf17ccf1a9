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
from anomalib_inctrl.benchmark.report import Report
from anomalib_inctrl.benchmark.results_folder import ResultsFolder
from anomalib_inctrl.errors import BenchmarkError
from anomalib_inctrl.io.files import write_text_atomic


def run(config: BenchmarkConfig, console: Console | None = None, *, report_only: bool = False) -> pd.DataFrame:
    """Run a config; see :func:`anomalib_inctrl.benchmark.run_benchmark`."""
    # Without a terminal rich would assume a narrow one.
    console = console or Console(width=None if Console().is_terminal else 140)
    folder, failures = ResultsFolder(config), []
    with folder.locked():
        sources = target_categories(config)
        jobs = [] if report_only else plan_jobs(_trained(config, console), sources, folder.finished())
        table = folder.write_table(sources)
        missing = sum(len(settings) for job in jobs for settings in job.settings.values())
        console.print(f"{len(table)} rows are finished, {missing} to measure, in {len(jobs)} passes.")
        results = run_jobs(jobs, config.workers, config.ray)
        for job, result in track(results, "Measuring", total=len(jobs), console=console):
            if result.rows:
                folder.add(result, job.target, job.class_name)
                table = folder.write_table(sources)
                auroc = 100 * pd.DataFrame(result.rows)["image_AUROC"].mean()
                console.print(f"{job.label}: image AUROC {auroc:.1f}", markup=False, soft_wrap=True)
            for failure in result.failures:
                failures.append(f"  {job.label}: {failure}")
                console.print(f"failed:{failures[-1][1:]}", style="red", markup=False, highlight=False)
        report = Report(config, table, list(sources))
        for kind in ("md", "html"):
            write_text_atomic(folder.path / f"report.{kind}", report.render(kind))
        console.print(f"Report: {folder.path / 'report.html'}", soft_wrap=True)
    if failures:
        msg = "\n".join([f"{len(failures)} could not be measured, all else is in {folder.path}:", *failures])
        raise BenchmarkError(msg)
    return table


def _trained(config: BenchmarkConfig, console: Console) -> BenchmarkConfig:
    """The config with checkpoints in place of training configs, which are run."""
    models = {}
    for name, model in config.models.items():
        weights = {}
        for target in config.targets:
            path = model.weights_for(target)
            if path is not None:
                trained = Path(path).suffix in TRAINING_CONFIGS
                folder = config.output / "weights" / file_name(name)
                weights[target] = str(_train(name, Path(path), folder, console)) if trained else path
        models[name] = model.model_copy(update={"weights": weights or None})
    return config.model_copy(update={"models": models})


def _train(name: str, config: Path, folder: Path, console: Console) -> Path:
    # Named by content: targets may have training configs of the same file name.
    content = json.dumps(weights_content(str(config)), sort_keys=True, default=str)
    checkpoint = folder / f"{config.stem}-{hashlib.sha256(content.encode()).hexdigest()[:8]}.ckpt"
    if checkpoint.is_file():
        return checkpoint
    console.print(f"Training {name} by {config}")
    folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(mkdtemp(prefix=f".{config.stem}-", dir=folder))
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
