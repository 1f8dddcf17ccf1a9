# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The Markdown pages of the project and their fenced blocks."""

import re
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PATTERNS = ("README.md", "CONTRIBUTING.md", "docs/*.md", "docs/measured/*.md", "anomalib_inctrl/models/*/README.md")
PAGES = sorted(path for pattern in PATTERNS for path in ROOT.glob(pattern))
_FENCE = re.compile(r"^( *)```(\S*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block: its first line in the page, and its text without indentation."""

    line: int
    text: str


def name(path):
    return str(path.relative_to(ROOT))


def blocks(path, language):
    page = path.read_text(encoding="utf-8")
    return [
        Block(page.count("\n", 0, found.start(3)) + 1, dedent(found[3]))
        for found in _FENCE.finditer(page)
        if found[2] == language
    ]


def prose(path):
    """Text without fenced blocks."""
    return _FENCE.sub("", path.read_text(encoding="utf-8"))


def shell_lines(path):
    """Commands of a page, continued lines joined, comments removed."""
    for block in blocks(path, "bash"):
        for line in block.text.replace("\\\n", " ").splitlines():
            if command := re.sub(r"(^|\s)#.*", "", line).strip():
                yield command
