# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The generated reference: every argument with its default and meaning, every command with its help."""

import inspect
import sys

import pytest

from anomalib_inctrl import Detector, GeneralistDataModule, InCTRL, InCTRLv2
from anomalib_inctrl.cli import _COMMANDS
from anomalib_inctrl.data import DataSource

from .pages import ROOT

errors = pytest.importorskip("sphinx.errors")
sys.path.insert(0, str(ROOT / "docs/_ext"))
import arguments  # noqa: E402


@pytest.mark.parametrize("cls", [InCTRL, InCTRLv2, GeneralistDataModule, Detector, DataSource])
def test_every_argument_is_described(cls):
    rows = arguments.arguments_of(cls)
    assert [name for name, _, _ in rows] == list(inspect.signature(cls).parameters)
    assert all(len(meaning) > 5 and ":param" not in meaning for _, _, meaning in rows)
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert f".{cls.__name__}\n" in page


@pytest.mark.parametrize(
    ("cls", "name", "default", "meaning"),
    [
        (InCTRLv2, "beta", "``0.75``", "Weight of the one-class branch in the anomaly map, in [0, 1]."),
        (InCTRLv2, "k_shot", "``4``", "Number of prompts per class"),
        (GeneralistDataModule, "train_batch_size", "``48``", "Balanced queries a training batch and process"),
        (Detector, "resize_mode", "``'squash'``", '``"squash"`` keeps the whole image'),
        (DataSource, "datamodule", "", "Name of an anomalib datamodule class"),
    ],
)
def test_defaults_and_meanings_are_those_of_the_code(cls, name, default, meaning):
    found = {row[0]: row[1:] for row in arguments.arguments_of(cls)}[name]
    assert found[0] == default
    assert found[1].startswith(meaning)


class Undescribed:
    """A class.

    Args:
        one: Described.
        three: Does not exist.
    """

    def __init__(self, one, two=2):
        pass


def test_a_docstring_that_differs_from_the_signature_is_an_error():
    with pytest.raises(errors.SphinxError, match=r"Undescribed.*\['three', 'two'\]"):
        arguments.arguments_of(Undescribed)


@pytest.mark.parametrize("name", _COMMANDS)
def test_help_of_every_command(name):
    title, text = arguments._help_blocks(name, _COMMANDS[name].module)
    assert title.astext() == f"anomalib-inctrl {name}"
    assert text.astext().startswith(f"usage: anomalib-inctrl {name} ")
    assert max(map(len, text.astext().splitlines())) < 130
