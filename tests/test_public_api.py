# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The public interface is a contract, kept in `public_api.txt`, so that changes are visible.

`python tests/test_public_api.py` rewrites the file. A removed or renamed name breaks the code of users: list it
in CHANGELOG.md.
"""

import importlib
import inspect
from pathlib import Path

import pytest

PACKAGES = ("", ".benchmark", ".callbacks", ".data", ".demo", ".prompts", ".visualization")
CONTRACT = Path(__file__).with_name("public_api.txt")


def public(package: str) -> dict[str, object]:
    module = importlib.import_module(f"anomalib_inctrl{package}")
    return {f"anomalib_inctrl{package}.{name}": getattr(module, name) for name in sorted(module.__all__)}


def parameters(function: object) -> str:
    """Names and plain defaults; annotations are the type checker's."""
    shown = []
    for parameter in inspect.signature(function).parameters.values():  # type: ignore[arg-type]
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        plain = isinstance(parameter.default, (str, int, float, bool, tuple, type(None)))
        default = f"={parameter.default!r}" if plain else f"={parameter.default}"
        shown.append(f"{stars}{parameter.name}" + ("" if parameter.default is parameter.empty else default))
    return ", ".join(name for name in shown if name != "self")


def described(name: str, item: object) -> list[str]:
    if not callable(item):
        return [name]
    lines = [f"{name}({parameters(item)})"]
    if inspect.isclass(item):
        for key, member in sorted(vars(item).items()):
            function = inspect.unwrap(getattr(member, "__func__", member))
            if isinstance(member, property):
                lines.append(f"{name}.{key}")
            elif inspect.isfunction(function) and not key.startswith("_"):
                lines.append(f"{name}.{key}({parameters(function)})")
    return lines


def contract() -> str:
    lines = [line for package in PACKAGES for name, item in public(package).items() for line in described(name, item)]
    return "\n".join(lines) + "\n"


def test_the_public_interface_is_the_one_on_file():
    assert contract().splitlines() == CONTRACT.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("package", PACKAGES)
def test_everything_public_has_a_docstring(package):
    for name, item in public(package).items():
        if callable(item):
            assert len(inspect.getdoc(item) or "") > 20, name


if __name__ == "__main__":
    CONTRACT.write_text(contract(), encoding="utf-8")
