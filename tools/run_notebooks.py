# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Run the notebooks from top to bottom and save them with what they gave.

    python tools/run_notebooks.py [notebooks/1_few_shot_in_five_minutes.ipynb ...]

What earlier runs left in `results/notebooks` is removed. Progress bars, warnings, times and paths of this machine are
left out of what is saved.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import time
from base64 import b64decode, b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
RESULTS = NOTEBOOKS.parent / "results" / "notebooks"
LIMIT = 180  # seconds, on an idle machine


def run(path: Path) -> float:
    """Run one notebook and save it.

    Args:
        path: The notebook.

    Returns:
        Seconds it took.
    """
    notebook = nbformat.read(path, as_version=4)
    start = time.monotonic()
    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(path.parent)}}).execute()
    seconds = time.monotonic() - start
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
        if cell.cell_type == "code":
            cell.outputs = [kept for output in cell.outputs if (kept := _tidy(output)) is not None]
    notebook.metadata["language_info"] = {"name": "python"}
    temporary = path.with_suffix(".tmp")
    nbformat.write(notebook, temporary)
    temporary.replace(path)
    return seconds


def _tidy(output: Any) -> Any:
    """Leave out progress bars and warnings, make pictures small, and keep no paths of this machine."""
    if output.output_type == "stream":
        if output.name == "stderr":
            return None
        output.text = _neutral(output.text)
    data = output.get("data", {})
    data.pop("image/jpeg", None)
    if "application/vnd.jupyter.widget-view+json" in data:
        return None
    if "image/png" in data:
        picture = Image.open(io.BytesIO(b64decode(data["image/png"]))).convert("RGB")
        buffer = io.BytesIO()
        picture.quantize(128, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        data["image/png"] = b64encode(buffer.getvalue()).decode()
    for kind in ("text/plain", "text/html"):
        if kind in data:
            data[kind] = _neutral(data[kind])
    return output


def _neutral(text: str) -> str:
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    return text.replace(str(NOTEBOOKS.parent) + os.sep, "").replace(str(Path.home()) + os.sep, "~/")


def main(argv: Sequence[str] | None = None) -> None:
    """Run notebooks.

    Args:
        argv: Arguments without the program's name; those of the process if None.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted(NOTEBOOKS.glob("*.ipynb")))
    notebooks: Sequence[Path] = parser.parse_args(argv).notebooks
    shutil.rmtree(RESULTS, ignore_errors=True)
    for path in notebooks:
        seconds = run(path.resolve())
        note = f"  more than {LIMIT} s: make it smaller, or wait for the machine to be idle" if seconds > LIMIT else ""
        print(f"{path.name}: {seconds:.0f} s, {path.stat().st_size / 1024:.0f} KiB{note}")


if __name__ == "__main__":
    main()
