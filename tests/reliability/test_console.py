# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What the package shows in a terminal, and what it keeps from it."""

import logging
import sys
import warnings
from unittest.mock import Mock

import pytest
from anomalib.cli.cli import AnomalibCLI
from rich.logging import RichHandler

from anomalib_inctrl import cli
from anomalib_inctrl.console import quiet, shorten_errors
from anomalib_inctrl.errors import DatasetError


@pytest.mark.parametrize(("terminal", "kept"), [(True, RichHandler), (False, logging.StreamHandler)])
def test_of_anomalibs_two_handlers_one_is_left(terminal, kept, monkeypatch):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [logging.StreamHandler(), RichHandler(), logging.NullHandler()])
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    for _ in range(2):
        quiet()
        assert [type(handler) for handler in root.handlers] == [kept, logging.NullHandler]


def test_other_warnings_are_shown():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quiet()
        warnings.warn("'pin_memory' argument is set as true but no accelerator is found, then", stacklevel=1)
        warnings.warn("Found 12 module(s) in eval mode at the start of training.", stacklevel=1)
        warnings.warn("The data are wrong.", stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["The data are wrong."]


@pytest.mark.parametrize("error", [DatasetError("data: no images.\n"), ValueError("a fault of the program")])
def test_only_the_packages_errors_are_shortened(error, monkeypatch, capsys):
    monkeypatch.setenv("ANOMALIB_INCTRL_DEBUG", "0")
    monkeypatch.setattr(cli, "_run", Mock(side_effect=error))
    if isinstance(error, DatasetError):
        assert cli.main(["demo"]) == 1
        assert capsys.readouterr().err == "error: data: no images.\n(--debug shows the traceback.)\n"
    else:
        with pytest.raises(ValueError, match="a fault"):
            cli.main(["demo"])
    with pytest.raises(type(error)):
        cli.main(["demo", "--debug"])


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("threshold", "7", "threshold=7.0: give a number in [0, 1]"),
        ("backbone", "ViT-B/32", "backbone='ViT-B/32' is not a model"),
        ("prompt_selection", "best", "prompt_selection='best'"),
    ],
)
def test_refused_arguments_are_shown_in_one_line_by_anomalibs_command(argument, value, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setenv("ANOMALIB_INCTRL_DEBUG", "0")
    shorten_errors()
    with pytest.raises(ValueError, match=argument) as found:
        AnomalibCLI(args=["predict", "--model", "InCTRLv2", "--data", "images", f"--model.{argument}", value])
    capsys.readouterr()
    sys.excepthook(found.type, found.value, found.tb)
    first, _ = capsys.readouterr().err.splitlines()
    assert first.startswith("error: ")
    assert message in first
