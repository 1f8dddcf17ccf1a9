# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The report of a benchmark, in Markdown and as one HTML file."""

from anomalib_inctrl.benchmark.report.render import Report

__all__ = ["Report"]
