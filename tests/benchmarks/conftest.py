# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import sys
from pathlib import Path

# The benchmarks are scripts that lie side by side, not a package.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
