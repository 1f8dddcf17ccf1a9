# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The models."""

from anomalib_inctrl.models.inctrl import InCTRL, InCTRLModel

__all__ = ["InCTRL", "InCTRLModel"]
