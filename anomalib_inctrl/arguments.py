# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of arguments when they are given, not when they are used."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, get_type_hints

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from anomalib_inctrl.errors import ArgumentError


def check_arguments(
    function: Callable[..., Any],
    values: Mapping[str, Any],
    least: Mapping[str, float] | None = None,
    most: Mapping[str, float] | None = None,
) -> None:
    """Check arguments by their annotations: a number is finite and neither text nor bool, text is not blank.

    Args:
        function: The function or ``__init__`` that takes them.
        values: Arguments by name; those without an annotation are left alone.
        least: The least value of numbers, by name.
        most: The largest value of numbers, by name.

    Raises:
        ArgumentError: If a value has another type, is none of the choices, is blank, too small or too large; names the
            argument.
    """
    for name, given in values.items():
        adapter, value = _adapter(function, name), _plain(given)
        if adapter is None:
            continue
        if (error := _fault(adapter, value)) is not None:
            wanted = " or ".join(dict.fromkeys(_wanted(fault) for fault in error.errors()))
            msg = f"{name}={given!r}: expected {wanted}."
            raise ArgumentError(msg)
        if isinstance(value, str) and not value.strip():
            msg = f"{name}={given!r}: is empty."
            raise ArgumentError(msg)
        if isinstance(value, (int, float)):
            if least and value < least.get(name, value):
                msg = f"{name}={given!r}: must be {least[name]} or more."
                raise ArgumentError(msg)
            if most and value > most.get(name, value):
                msg = f"{name}={given!r}: must be {most[name]} or less."
                raise ArgumentError(msg)


def check_positive(name: str, value: float) -> None:
    """Refuse a number that is not positive and finite by an ``ArgumentError``."""
    if not 0 < value < math.inf:
        msg = f"{name}={value}: must be positive."
        raise ArgumentError(msg)


@cache
def _adapter(function: Callable[..., Any], name: str) -> TypeAdapter[Any] | None:
    try:
        hint = get_type_hints(function).get(name, Any)
    except NameError:  # of a user's subclass, imported for type checkers only
        return None
    config = ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)
    return None if hint is Any else TypeAdapter(hint, config=config)


def _fault(adapter: TypeAdapter[Any], value: Any) -> ValidationError | None:
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        # Lists are as good as tuples.
        return error if not isinstance(value, list) or _fault(adapter, tuple(value)) else None
    return None


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's, paths as text, and sequences, OmegaConf's too, as lists."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):  # pairs in it may be lists, as YAML gives them
        inside = {key: _plain(item) for key, item in value.items()}
        return {key: tuple(item) if isinstance(item, list) else item for key, item in inside.items()}
    return value


def _wanted(fault: Any) -> str:
    text = re.sub("^Input should be (a valid |an instance of )?", "", fault["msg"])
    place = "".join(f"[{key}]" for key in fault["loc"] if isinstance(key, int))
    return text + (f" at {place}" if place else "")
