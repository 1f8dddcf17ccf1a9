# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The generalist benchmark as an anomalib pipeline: ``anomalib generalist --config X.yaml``.

anomalib's command line imports this module for every command, so heavy imports are inside functions.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalib.pipelines.components.base import Pipeline, Runner
from jsonargparse import ArgumentParser, Namespace

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from anomalib_inctrl.benchmark.config import BenchmarkConfig

_SUMMARY = "Measure models on many datasets and write a report."


class GeneralistBenchmark(Pipeline):
    """Measure models on many datasets, few-shot and without training on them, and write a report."""

    def run(self, args: Namespace | None = None) -> None:
        """Run the benchmark that a config describes.

        Args:
            args: ``config``, the YAML file; ``set``, settings to replace; ``report_only``, to measure nothing.

        Raises:
            SystemExit: If it cannot start, or something could not be measured, with the reason.
        """
        from anomalib_inctrl.errors import BenchmarkError, CheckpointError

        args = self.get_parser().parse_args() if args is None else args
        try:
            overrides = [str(item) for item in args.get("set") or []]
            run_benchmark(str(args.config), overrides, report_only=bool(args.get("report_only")))
        except (BenchmarkError, CheckpointError, ValueError, FileNotFoundError) as error:
            sys.exit(f"error: {error}")

    def _setup_runners(self, args: Any) -> list[Runner]:
        del args
        return []  # run() runs the jobs itself, as each category is written when it is finished

    @staticmethod
    def get_parser(parser: ArgumentParser | None = None) -> ArgumentParser:
        """The command's arguments."""
        parser = parser or ArgumentParser(description=_SUMMARY)
        parser.add_argument("--config", type=str, required=True, help="YAML file of the benchmark")
        parser.add_argument("--set", type=str, nargs="*", default=[], help="settings to replace, such as workers=4")
        parser.add_argument(
            "--report_only", type=bool, default=False, help="measure nothing, write the report of finished rows"
        )
        return parser


def run_benchmark(
    config: str | Path | Mapping[str, Any] | BenchmarkConfig,
    overrides: Sequence[str] = (),
    console: Console | None = None,
    *,
    report_only: bool = False,
) -> pd.DataFrame:
    """Measure what has not been measured yet, and write the report.

    Args:
        config: YAML file, its content, or a config that is checked already.
        overrides: Settings to replace in the first two, such as ``workers=4``.
        console: Shows progress.
        report_only: Whether to measure nothing, and write the report of the finished rows.

    Returns:
        The rows of ``results.csv``.

    Raises:
        BenchmarkError: If the config does not hold, its folder holds rows of another config, or something could not
            be measured, after everything else was.
        PretrainedWeightsError: If weights that the config names do not exist.
        DatasetError: If a target's dataset does not exist.
    """
    from anomalib_inctrl.benchmark.config import BenchmarkConfig, read_config
    from anomalib_inctrl.benchmark.generalist import run

    checked = config if isinstance(config, BenchmarkConfig) else read_config(config, overrides)
    return run(checked, console, report_only=report_only)


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``anomalib-inctrl generalist``.

    Args:
        argv: Arguments without the program's name.

    Returns:
        0; a failure ends the process.
    """
    parser = ArgumentParser(prog="anomalib-inctrl generalist", description=_SUMMARY)
    GeneralistBenchmark().run(GeneralistBenchmark.get_parser(parser).parse_args(None if argv is None else list(argv)))
    return 0
