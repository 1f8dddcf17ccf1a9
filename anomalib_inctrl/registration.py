# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Registers the models and datamodules with anomalib; the only module that touches anomalib's registries."""

from __future__ import annotations

from typing import TYPE_CHECKING

# Not `import anomalib.models`: this runs while that module's import ends, before it is an attribute of `anomalib`.
from anomalib import data, models
from anomalib.data.utils import path as data_paths

# From the modules that define them: the package of the models may be the one whose import is under way.
from anomalib_inctrl.data import DATASETS, GeneralistDataModule
from anomalib_inctrl.demo import InCTRLDemo, ScikitDigits
from anomalib_inctrl.models.inctrl.lightning_model import InCTRL
from anomalib_inctrl.models.inctrl_v2.lightning_model import InCTRLv2

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import ModuleType

MODELS = (InCTRL, InCTRLv2)
DATAMODULES: tuple[type, ...] = (GeneralistDataModule, InCTRLDemo, ScikitDigits, *DATASETS.values())


def register() -> None:
    """Make the models and datamodules known to anomalib by their short names; doing it twice changes nothing.

    ``get_model``, ``get_datamodule`` and ``anomalib benchmark`` look names up in ``anomalib.models`` and
    ``anomalib.data``, and take dotted names only from the modules in ``anomalib.models.ALLOWED_MODULES``. The command
    line finds every imported subclass by itself. A name that anomalib has of its own is left as it is.

    anomalib's check of paths is corrected as well: printable characters of every script are accepted.
    """
    _publish(models, MODELS)
    _publish(data, DATAMODULES)
    models.ALLOWED_MODULES.add(__name__.rpartition(".")[0])
    # It takes every character beyond ASCII for a non-printable one and refuses folders such as größe/ or 测试/.
    data_paths.contains_non_printable_characters = _contains_non_printable_characters


def _contains_non_printable_characters(path: str | Path) -> bool:
    return not str(path).isprintable()


def _publish(module: ModuleType, classes: Iterable[type]) -> None:
    for cls in classes:
        name = cls.__name__
        if hasattr(module, name):
            continue
        setattr(module, name, cls)
        module.__all__.append(name)


def register_pipelines(cli_pipelines: ModuleType) -> None:
    """Add the pipelines to those that anomalib's command line offers; a name of its own is left as it is.

    Args:
        cli_pipelines: The module ``anomalib.cli.pipelines``, imported.
    """
    # Inside: anomalib's pipelines must not be imported while anomalib.models is.
    from anomalib_inctrl.benchmark import GeneralistBenchmark

    if cli_pipelines.PIPELINE_REGISTRY is not None:
        cli_pipelines.PIPELINE_REGISTRY.setdefault("generalist", GeneralistBenchmark)
