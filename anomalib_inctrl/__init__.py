# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Generalist few-shot anomaly detection for anomalib: InCTRL and InCTRLv2.

Importing the package makes its models and datamodules known to anomalib, as soon as that is imported. After
installation anomalib does so by itself.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from anomalib_inctrl.version import __version__

if TYPE_CHECKING:
    from anomalib_inctrl.data import GeneralistDataModule
    from anomalib_inctrl.demo import InCTRLDemo
    from anomalib_inctrl.models import InCTRL, InCTRLModel, InCTRLv2, InCTRLv2Model
    from anomalib_inctrl.predictor import Detector, Prediction, Predictions
    from anomalib_inctrl.registration import register

__all__ = [
    "Detector",
    "GeneralistDataModule",
    "InCTRL",
    "InCTRLDemo",
    "InCTRLModel",
    "InCTRLv2",
    "InCTRLv2Model",
    "Prediction",
    "Predictions",
    "__version__",
    "register",
]

# Imported when first used: anomalib, which they build on, takes seconds. All other names are of the models.
_MODULES = {"GeneralistDataModule": "data", "InCTRLDemo": "demo", "register": "registration"}
_MODULES |= dict.fromkeys(("Detector", "Prediction", "Predictions"), "predictor")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    globals()[name] = getattr(import_module(f"{__name__}.{_MODULES.get(name, 'models')}"), name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _register() -> None:
    """Register now if anomalib's models are imported, else as soon as they are."""
    if "anomalib.models" not in sys.modules:
        try:
            from _anomalib_inctrl_autoload import attach
        except ImportError:  # a copy without the start-up file
            import_module(f"{__name__}.console").quiet()
        else:
            attach()
            return
    import_module(f"{__name__}.registration").register()


_register()
