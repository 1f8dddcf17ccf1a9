# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""InCTRL (CVPR 2024)."""

from anomalib_inctrl.models.inctrl.lightning_model import InCTRL
from anomalib_inctrl.models.inctrl.torch_model import InCTRLModel

__all__ = ["InCTRL", "InCTRLModel"]
