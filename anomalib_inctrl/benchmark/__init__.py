# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The generalist benchmark: models x targets x categories x shots x seeds, resumable, with a report.

Example:
    >>> from anomalib_inctrl.benchmark import run_benchmark
    >>> table = run_benchmark("configs/benchmarks/embedded.yaml")  # doctest: +SKIP
"""

from anomalib_inctrl.benchmark.pipeline import GeneralistBenchmark, run_benchmark

__all__ = ["GeneralistBenchmark", "run_benchmark"]
