# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The models."""

# First of all: when this import ends, the plugin is registered, which imports the modules of the models.
import anomalib.models  # noqa: F401

from anomalib_inctrl.models.inctrl import InCTRL, InCTRLModel
from anomalib_inctrl.models.inctrl_v2 import InCTRLv2, InCTRLv2Model

__all__ = ["InCTRL", "InCTRLModel", "InCTRLv2", "InCTRLv2Model"]
