# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Lightning callbacks for training: monitor loss terms and branches, schedule both.

They are configured like any callback of Lightning::

    trainer:
      callbacks:
        - class_path: anomalib_inctrl.callbacks.LossMonitor
          init_args:
            every_n_steps: 5
"""

from anomalib_inctrl.callbacks.loss_schedule import LossSchedule
from anomalib_inctrl.callbacks.monitors import BranchMonitor, LossMonitor

__all__ = ["BranchMonitor", "LossMonitor", "LossSchedule"]
