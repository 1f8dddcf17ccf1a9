# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``anomalib-inctrl``: everything ``anomalib`` does, with the plugin loaded, and a few commands of its own.

It needs no start-up file, so it also works where Python processes none (``pip install --target``, ``PYTHONPATH``).
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple

from anomalib_inctrl.console import DEBUG, one_line, shorten_errors, wants_traceback
from anomalib_inctrl.errors import InCTRLError
from anomalib_inctrl.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Command(NamedTuple):
    module: str  # imported when the command is called; holds `main(argv) -> exit status or None`
    summary: str


_COMMANDS = {
    "convert-weights": _Command(
        "anomalib_inctrl.models.inctrl.convert", "Convert the InCTRL authors' released weights."
    ),
    "generalist": _Command("anomalib_inctrl.benchmark.pipeline", "Measure models on many datasets and write a report."),
    "demo": _Command("anomalib_inctrl.demo.run", "Render the demo data, train on half of it, test on the other half."),
    "app": _Command("anomalib_inctrl.app.run", "Predict in a browser, offline (needs the extra app)."),
    "convert": _Command(
        "anomalib_inctrl.data.convert", "Convert a dataset to MVTec AD's layout, or check a converted one."
    ),
}


# Of anomalib; its own help takes seconds.
_ANOMALIB_COMMANDS = "train, fit, validate, test, predict, export, benchmark, install"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the package's own commands, or hand over to anomalib's command line.

    An error of this package ends in one line on stderr; with ``--debug`` in its traceback.

    Args:
        argv: Arguments without the program's name; those of the process if None.

    Returns:
        The exit status. Anomalib's command line ends the process itself where it fails.
    """
    # OpenMP's threads wait for each other in a busy loop, which on a machine with other work costs several times the
    # computation itself. Read when PyTorch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--debug" in arguments:
        arguments.remove("--debug")
        os.environ[DEBUG] = "1"
    try:
        return _run(arguments)
    except InCTRLError as error:
        if wants_traceback():
            raise
        print(f"{one_line(error)}\n(--debug shows the traceback.)", file=sys.stderr)
        return 1


def _run(arguments: list[str]) -> int:
    first = arguments[0] if arguments else "--help"
    if first == "--version":
        print(f"anomalib-inctrl {__version__}\nanomalib {version('anomalib')}\ntorch {version('torch')}")
        return 0
    if first in _COMMANDS:
        status: int | None = import_module(_COMMANDS[first].module).main(arguments[1:])
        return status or 0
    if first in {"-h", "--help"}:
        print("Commands of anomalib-inctrl:")
        for name, (_, summary) in _COMMANDS.items():
            print(f"  {name:<17}{summary}")
        print(f"Commands of anomalib, with the models loaded:\n  {_ANOMALIB_COMMANDS}")
        print("COMMAND --help lists a command's arguments; --debug shows the traceback of an error.")
        return 0

    import_module("anomalib_inctrl.registration").register()
    from anomalib.cli.cli import main as anomalib_main

    shorten_errors()
    sys.argv = ["anomalib-inctrl", *arguments]
    anomalib_main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
