# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What people see in a terminal: errors of this package in one line, nothing twice, no warnings nobody can act on."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from typing import TYPE_CHECKING, Any

from anomalib_inctrl.errors import InCTRLError

if TYPE_CHECKING:
    from types import TracebackType

DEBUG = "ANOMALIB_INCTRL_DEBUG"
"""Environment variable; anything but 0 shows the whole traceback of this package's errors."""

# What other packages warn of at every start; none of it depends on what the user does.
_WARNINGS = (
    "Importing from timm.models.layers is deprecated",
    "The anomalib.models.components.dinov2 package is deprecated",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    "'pin_memory' argument is set as true but no accelerator is found",
    r"Found \d+ module\(s\) in eval mode at the start of training",
    "You have overridden `on_(before|after)_batch_transfer`",
)


def quiet() -> None:
    """Ignore warnings that come with every run; let anomalib's command line show each message once.

    It has one handler for plain text and one for boxes of text in colours; the second is for terminals.
    """
    for message in _WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    handlers = logging.getLogger().handlers
    rich = [handler for handler in handlers if type(handler).__module__ == "rich.logging"]
    plain = [handler for handler in handlers if type(handler) is logging.StreamHandler]
    if rich and plain:
        for handler in plain if sys.stdout.isatty() else rich:
            logging.getLogger().removeHandler(handler)


def wants_traceback() -> bool:
    """Whether the user requests the whole traceback of this package's errors."""
    return os.environ.get(DEBUG, "0").strip().lower() not in {"", "0", "false", "no", "off"}


def one_line(error: BaseException) -> str:
    """An error as one line, without the traceback that a worker process puts into its message."""
    text = str(error).strip()
    if "\nOriginal Traceback" in text:
        text = text.splitlines()[-1].partition(": ")[2] or text.splitlines()[-1]
    return f"error: {text}"


def _refused_arguments(error: BaseException) -> InCTRLError | None:
    """The errors that a class of this package reports of its arguments, out of all that jsonargparse lists."""
    _, _, listed = str(error).partition("\nErrors:\n")
    errors, given, arguments = listed.partition("\nGiven value type:")
    if not given or "class_path='anomalib_inctrl." not in arguments:
        return None
    parts = [" ".join(part.split()) for part in re.split(r"^\s*- ", errors, flags=re.MULTILINE)]
    reported = [part for part in parts if part and not part.startswith("Expected a <class 'NoneType'>")]
    return InCTRLError(" ".join(reported)) if reported else None


def shorten_errors() -> None:
    """Let this package's errors end the process with one line on stderr in place of a traceback."""
    show = sys.excepthook
    if getattr(show, "shortens", False):
        return

    def excepthook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> Any:
        ours = error if isinstance(error, InCTRLError) else _refused_arguments(error)
        if ours is None or wants_traceback():
            return show(kind, error, traceback)
        return print(f"{one_line(ours)}\n({DEBUG}=1 shows the traceback.)", file=sys.stderr)

    excepthook.shortens = True  # type: ignore[attr-defined]
    sys.excepthook = excepthook
