# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Reference pages from the code: `arguments` of a class from its docstring, `command-help` of every command."""

from __future__ import annotations

import inspect
import io
import re
from contextlib import redirect_stdout, suppress
from importlib import import_module
from typing import Any
from unittest.mock import patch

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.errors import SphinxError
from sphinx.ext.napoleon import Config, GoogleDocstring
from sphinx.util import import_object
from sphinx.util.docutils import SphinxDirective

from anomalib_inctrl.cli import _COMMANDS

HEAD = ("argument", "default", "meaning")


def arguments_of(cls: type) -> list[tuple[str, str, str]]:
    """List the arguments of a class.

    Args:
        cls: A class whose docstring describes its arguments, or as a dataclass its attributes, in Google style. Those
            that it takes by ``**name`` for a base class are described by the base class's constructor.

    Returns:
        Name, default (empty where there is none) and description of each, in the order of the signature.

    Raises:
        SphinxError: If the docstring leaves an argument out, or describes one that does not exist.
    """
    constructors = [vars(base)["__init__"] for base in reversed(cls.__mro__) if "__init__" in vars(base)]
    described = {name: text for part in (*constructors, cls) for name, text in _described(part.__doc__ or "").items()}
    taken = {item.name for item in inspect.signature(cls.__init__).parameters.values() if item.kind == item.VAR_KEYWORD}
    parameters = inspect.signature(cls).parameters
    if wrong := parameters.keys() ^ (described.keys() - taken):
        msg = f"{cls.__name__}: the docstring and the signature differ in {sorted(wrong)}."
        raise SphinxError(msg)
    return [(name, _default(parameter), described[name]) for name, parameter in parameters.items()]


def _described(docstring: str) -> dict[str, str]:
    fields = str(GoogleDocstring(inspect.cleandoc(docstring), Config(napoleon_use_ivar=True)))
    found = re.findall(r"^:(?:param|ivar) (\w+): (.*?)(?=^:|^\S|\Z)", fields, re.MULTILINE | re.DOTALL)
    return {name: " ".join(text.split()) for name, text in found}


def _default(parameter: inspect.Parameter) -> str:
    return "" if parameter.default is parameter.empty else f"``{parameter.default!r}``"


class Arguments(SphinxDirective):
    """A table of the arguments of the class that the directive names."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Write the table as reStructuredText, as docstrings are written in it, and read that."""
        cls: Any = import_object(self.arguments[0])
        rows = [HEAD, *((f"``{name}``", default, text) for name, default, text in arguments_of(cls))]
        lines = [".. list-table::", "   :header-rows: 1", "   :widths: 22 18 60", ""]
        for row in rows:
            lines += [f"   {'* -' if not column else '  -'} {text}" for column, text in enumerate(row)]
        node = nodes.Element()
        self.state.nested_parse(StringList(lines, self.arguments[0]), self.content_offset, node)
        return node.children


class CommandHelp(SphinxDirective):
    """What ``anomalib-inctrl COMMAND --help`` prints, for every command of the package."""

    def run(self) -> list[nodes.Node]:
        """Call each command for its help."""
        return [block for name, command in _COMMANDS.items() for block in _help_blocks(name, command.module)]


def _help_blocks(name: str, module: str) -> list[nodes.Node]:
    text = io.StringIO()
    with patch.dict("os.environ", {"COLUMNS": "96"}), redirect_stdout(text), suppress(SystemExit):
        import_module(module).main(["--help"])
    return [nodes.rubric("", f"anomalib-inctrl {name}"), nodes.literal_block("", text.getvalue(), language="text")]


def setup(app: Any) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("arguments", Arguments)
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
