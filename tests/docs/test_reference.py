# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The generated reference: every argument with its default and meaning, every command with its help."""

import inspect
import sys
from pathlib import Path

import pytest

from anomalib_inctrl import Detector, GeneralistDataModule, InCTRL, InCTRLv2
from anomalib_inctrl.cli import _COMMANDS
from anomalib_inctrl.data import DataSource

DOCS = Path(__file__).parents[2] / "docs"
errors = pytest.importorskip("sphinx.errors")
sys.path.insert(0, str(DOCS / "_ext"))
import arguments  # noqa: E402


@pytest.mark.parametrize(
    ("cls", "name", "default", "meaning"),
    [
        (InCTRL, "k_shot", "``4``", "Number of prompts per class"),
        (InCTRLv2, "beta", "``0.75``", "Weight of the one-class branch in the anomaly map"),
        (GeneralistDataModule, "train_batch_size", "``48``", "Balanced queries a training batch and process"),
        (Detector, "resize_mode", "``'squash'``", '``"squash"`` keeps the whole image'),
        (DataSource, "datamodule", "", "Name of an anomalib datamodule class"),
    ],
)
def test_every_argument_has_its_default_and_meaning(cls, name, default, meaning):
    rows = {row[0]: row[1:] for row in arguments.arguments_of(cls)}
    assert list(rows) == list(inspect.signature(cls).parameters)
    assert all(len(text) > 5 and ":param" not in text for _, text in rows.values())
    assert rows[name][0] == default
    assert rows[name][1].startswith(meaning)
    assert f".{cls.__name__}\n" in (DOCS / "configuration.md").read_text(encoding="utf-8")


def test_a_docstring_that_differs_from_the_signature_is_an_error():
    class Undescribed:
        """A class.

        Args:
            one: Described.
            three: Does not exist.
        """

        def __init__(self, one, two=2):
            pass

    with pytest.raises(errors.SphinxError, match=r"Undescribed.*\['three', 'two'\]"):
        arguments.arguments_of(Undescribed)


@pytest.mark.parametrize("name", _COMMANDS)
def test_help_of_every_command(name):
    title, text = (node.astext() for node in arguments._help_blocks(name, _COMMANDS[name].module))
    assert title == f"anomalib-inctrl {name}"
    assert text.startswith(f"usage: anomalib-inctrl {name} ")
    assert max(map(len, text.splitlines())) < 130
