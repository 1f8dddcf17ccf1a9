# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""InCTRLv2 (2026), a reconstruction."""

from anomalib_inctrl.models.inctrl_v2.lightning_model import InCTRLv2
from anomalib_inctrl.models.inctrl_v2.torch_model import InCTRLv2Model

__all__ = ["InCTRLv2", "InCTRLv2Model"]
