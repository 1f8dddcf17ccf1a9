# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What importing the package costs beyond importing anomalib."""

import os
import subprocess
import sys

SCRIPT = """
import sys, anomalib.models, anomalib.data
before = set(sys.modules)
import anomalib_inctrl
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


def test_nothing_heavy_is_imported_beyond_what_anomalib_imports():
    environment = {**os.environ, "ANOMALIB_INCTRL_AUTOLOAD": "0"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
    )
    # Of the last two anomalib has imported most already.
    assert set(done.stdout.split()) <= {"anomalib_inctrl", "huggingface_hub", "sklearn", "platformdirs", "yaml"}
