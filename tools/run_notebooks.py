# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Run the notebooks and save them with their outputs, without progress bars, warnings and paths of this machine.

    python tools/run_notebooks.py [notebooks/1_few_shot_in_five_minutes.ipynb ...]

Results of earlier runs in `results/notebooks` are removed.
"""

from __future__ import annotations

import argparse
import io
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

from anomalib_inctrl.io.files import write_text_atomic

ROOT = Path(__file__).parents[1]
_WIDGET = "application/vnd.jupyter.widget-view+json"


def run(path: Path) -> None:
    """Run one notebook and save it."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(path.parent)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
        if cell.cell_type == "code":
            cell.outputs = [_tidy(output) for output in cell.outputs if output.get("name") != "stderr"]
            cell.outputs = [output for output in cell.outputs if _WIDGET not in output.get("data", {})]
    notebook.metadata["language_info"] = {"name": "python"}
    write_text_atomic(path, nbformat.writes(notebook) + "\n")


def _tidy(output: Any) -> Any:
    if "text" in output:
        output.text = _neutral(output.text)
    data = output.get("data", {})
    data.pop("image/jpeg", None)
    data.update({kind: _neutral(data[kind]) for kind in ("text/plain", "text/html") if kind in data})
    if "image/png" in data:
        buffer = io.BytesIO()
        image = Image.open(io.BytesIO(b64decode(data["image/png"]))).convert("RGB")
        image.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        data["image/png"] = b64encode(buffer.getvalue()).decode()
    return output


def _neutral(text: str) -> str:
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    return text.replace(f"{ROOT}/", "").replace(f"{Path.home()}/", "~/")


def main(argv: Sequence[str] | None = None) -> None:
    """Run notebooks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted((ROOT / "notebooks").glob("*.ipynb")))
    shutil.rmtree(ROOT / "results/notebooks", ignore_errors=True)
    for path in parser.parse_args(argv).notebooks:
        start = time.monotonic()
        run(path.resolve())
        print(f"{path.name}: {time.monotonic() - start:.0f} s, {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
