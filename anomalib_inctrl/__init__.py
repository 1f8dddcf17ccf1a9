# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Generalist few-shot anomaly detection for anomalib: InCTRL and InCTRLv2.

Importing the package makes its models and datamodules known to anomalib. After installation anomalib does so by itself.
"""

from anomalib_inctrl.data import GeneralistDataModule
from anomalib_inctrl.demo import InCTRLDemo
from anomalib_inctrl.models import InCTRL, InCTRLModel, InCTRLv2, InCTRLv2Model
from anomalib_inctrl.predictor import Detector, Prediction
from anomalib_inctrl.registration import register
from anomalib_inctrl.version import __version__

__all__ = [
    "Detector",
    "GeneralistDataModule",
    "InCTRL",
    "InCTRLDemo",
    "InCTRLModel",
    "InCTRLv2",
    "InCTRLv2Model",
    "Prediction",
    "__version__",
    "register",
]

register()
