# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The Markdown of the project, taken apart."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "docs" / "measured").glob("*.md"),
        *(ROOT / "anomalib_inctrl" / "models").glob("*/README.md"),
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
    ]
)


@dataclass
class Block:
    """A fenced block: its language, first line in the page, and text without indentation."""

    language: str
    line: int
    text: str


def name(path):
    return str(path.relative_to(ROOT))


def blocks(path, language):
    found, lines = [], path.read_text(encoding="utf-8").splitlines()
    opened = None
    for number, line in enumerate(lines, start=1):
        fence = re.match(r"^(\s*)```(\S*)", line)
        if opened is None and fence:
            opened = Block(fence[2], number + 1, ""), len(fence[1])
        elif opened is not None and fence:
            found.append(opened[0])
            opened = None
        elif opened is not None:
            opened[0].text += line[opened[1] :] + "\n"
    assert opened is None, f"{name(path)}: a fence is not closed"
    return [block for block in found if block.language == language]


def prose(path):
    """Text without fenced blocks."""
    return re.sub(r"^\s*```.*?^\s*```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def shell_lines(path):
    """Commands of a page, continued lines joined, comments taken off."""
    for block in blocks(path, "bash"):
        text = re.sub(r"\\\n\s*", " ", block.text)
        for line in text.splitlines():
            command = re.sub(r"(^|\s)#.*", "", line).strip()
            if command:
                yield command
