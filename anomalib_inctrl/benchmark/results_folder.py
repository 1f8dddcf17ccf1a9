# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The folder of a benchmark, from which an interrupted run resumes.

results.csv          a row per model, target, category, K and seed; rewritten whenever a category is finished
rows/                the same rows, a file per model and category: what a resumed run reads
prompts/             the prompts' paths, a list per category, K and seed
scores/              raw scores of all test images, a file per model and category
examples/            example images
weights/             checkpoints of training configs
config.yaml          the config as it was run, defaults included
identity.json        what finished rows depend on, to distinguish a changed config from a resumed one
report.md, report.html
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from anomalib_inctrl.benchmark.config import BenchmarkConfig, changes
from anomalib_inctrl.benchmark.jobs import file_name, prompt_file
from anomalib_inctrl.benchmark.measurement import CategoryResult, Setting
from anomalib_inctrl.benchmark.metrics import METRICS
from anomalib_inctrl.errors import BenchmarkError
from anomalib_inctrl.io.files import write_bytes_atomic, write_text_atomic

KEY = ("model", "target", "category", "k_shot", "seed")
TIMING = ("pass_seconds", "setting_seconds")
PROVENANCE = ("device", "version", "commit", "anomalib", "torch", "python")
COLUMNS = (*KEY, *METRICS, "normal", "abnormal", "masks", *TIMING, *PROVENANCE)
_DECIMALS = {**dict.fromkeys(METRICS, 6), **dict.fromkeys(TIMING, 3)}


class ResultsFolder:
    """Reads and writes the results of one config.

    Args:
        config: The benchmark.
    """

    def __init__(self, config: BenchmarkConfig) -> None:
        self.config = config
        self.path = config.output
        self._lock = FileLock(self.path / ".lock")
        self._identity = self.path / "identity.json"

    def open(self) -> None:
        """Lock the folder and compare its rows with the config; :meth:`close` is needed also where this raises.

        Raises:
            BenchmarkError: If another run writes here, or see :meth:`check`.
            PretrainedWeightsError: See :meth:`check`.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            msg = f"output={self.path}: another run is writing here. Wait for it, or give another folder."
            raise BenchmarkError(msg) from error
        old, new = self.check()
        # Entries that left the config are kept, since their rows are.
        merged = {part: _merge(old.get(part, {}), new[part]) for part in new}
        write_text_atomic(self._identity, json.dumps(merged, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
        write_text_atomic(self.path / "config.yaml", self.config.dump())

    def check(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Compare the config with that of the rows in the folder.

        Returns:
            Identity of the rows, empty if there are none, and of the config; see :meth:`BenchmarkConfig.identity`.

        Raises:
            BenchmarkError: If the rows are of another config, or ``identity.json`` is damaged.
            PretrainedWeightsError: If weights that the config names do not exist.
        """
        # With sorted keys, as in the file: lists of mappings are compared as text.
        new = json.loads(json.dumps(self.config.identity(), sort_keys=True))
        old = {}
        if self._identity.is_file():
            try:
                old = json.loads(self._identity.read_text(encoding="utf-8"))
            except ValueError as error:
                msg = f"{self._identity}: damaged ({error}). Give another output folder, or delete this one."
                raise BenchmarkError(msg) from error
        if difference := changes(old, new):
            lines = "\n".join(f"  {line}" for line in difference)
            msg = (
                f"output={self.path}: holds rows of another config, which cannot share a table:\n{lines}\n"
                "Give another output folder, rename the changed model or target, or delete the folder. "
                "(Models, targets, categories, K and seeds may be added and removed freely.)"
            )
            raise BenchmarkError(msg)
        return old, new

    def close(self) -> None:
        """Unlock the folder, if this run holds the lock."""
        self._lock.release()

    def finished(self) -> dict[tuple[str, str, str], set[Setting]]:
        """Finished settings by model, target and category."""
        found: dict[tuple[str, str, str], set[Setting]] = {}
        for row in self._all_rows():
            found.setdefault((row["model"], row["target"], row["category"]), set()).add(_setting(row))
        return found

    def add(self, result: CategoryResult, target: str, category: str) -> None:
        """Write the result of a job; its rows last, so that a finished row always has its prompts and scores.

        Args:
            result: Rows with their details.
            target: Name of the target.
            category: Name of the category.
        """
        for (k_shot, seed), paths in result.prompts.items():
            write_text_atomic(
                self.path / "prompts" / prompt_file(target, category, k_shot, seed), "".join(f"{p}\n" for p in paths)
            )
        for model, rows in result.scores.items():
            _add_rows(self._file("scores", model, target, category), rows)
        for model, image in result.examples.items():
            write_bytes_atomic(self._file("examples", model, target, category, ".jpg"), image)
        for model in dict.fromkeys(row["model"] for row in result.rows):
            rows = [{name: row.get(name) for name in COLUMNS} for row in result.rows if row["model"] == model]
            _add_rows(self._file("rows", model, target, category), rows)

    def write_table(self, categories: Iterable[tuple[str, str]]) -> pd.DataFrame:
        """Rewrite ``results.csv``.

        Args:
            categories: Target and category of all that the config asks for, in order.

        Returns:
            Its rows, those of the config alone, in the config's order.
        """
        rows = {(row["model"], row["target"], row["category"], *_setting(row)): row for row in self._all_rows()}
        keys = [
            (model, target, category, *setting)
            for target, category in categories
            for model in self.config.models
            for setting in self.config.settings(model)
        ]
        text = pd.DataFrame([rows[key] for key in keys if key in rows], columns=list(COLUMNS)).to_csv(index=False)
        write_text_atomic(self.path / "results.csv", text)
        return read_table(io.StringIO(text))

    def examples(self, model: str, target: str, category: str) -> bytes | None:
        """Example images of a category as a JPEG file, if there are any."""
        file = self._file("examples", model, target, category, ".jpg")
        return file.read_bytes() if file.is_file() else None

    def _file(self, kind: str, model: str, target: str, category: str, suffix: str = ".csv") -> Path:
        return self.path / kind / file_name(model) / file_name(target) / f"{file_name(category)}{suffix}"

    def _all_rows(self) -> list[dict[str, Any]]:
        files = sorted((self.path / "rows").glob("*/*/*.csv"))
        return [row for file in files for row in _read_text(file).to_dict("records")]


def read_table(source: Any) -> pd.DataFrame:
    """Read ``results.csv``.

    Args:
        source: Path or open file.

    Returns:
        Its rows; ``k_shot`` is missing for models that saw all normal images.
    """
    names = ("model", "target", "category", *PROVENANCE)
    table = pd.read_csv(source, dtype=dict.fromkeys(names, str), keep_default_na=False, na_values=[""])
    table[list(names)] = table[list(names)].fillna("")
    table["k_shot"] = table["k_shot"].astype("Int64")
    return table


def _merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(old) | dict(new)
    for name in old.keys() & new.keys():
        before, after = old[name], new[name]
        if isinstance(before, Mapping) and "weights" in before:
            merged[name] = dict(after) | {"weights": dict(before["weights"]) | dict(after["weights"])}
    return merged


def _setting(row: Mapping[str, str]) -> Setting:
    return (int(row["k_shot"]) if row["k_shot"] else None), int(row["seed"])


def _add_rows(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows to a table in place of those of the same K and seed; in the order of K and seed."""
    new = pd.DataFrame([{name: _text(name, value) for name, value in row.items()} for row in rows])
    if file.is_file():
        old = _read_text(file)
        key = ["k_shot", "seed"]
        replaced = pd.MultiIndex.from_frame(old[key]).isin(pd.MultiIndex.from_frame(new[key]))
        new = pd.concat([old[~replaced], new])
    order = new[["k_shot", "seed"]].apply(pd.to_numeric).fillna(-1).reset_index(drop=True)
    rows_in_order = order.sort_values(["k_shot", "seed"], kind="stable").index
    write_text_atomic(file, new.iloc[rows_in_order].to_csv(index=False))


def _text(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name in _DECIMALS:
        return f"{value:.{_DECIMALS[name]}f}"
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def _read_text(file: Path) -> pd.DataFrame:
    # All columns as text. File names that are not UTF-8 are kept as their bytes.
    return pd.read_csv(file, dtype=object, keep_default_na=False, encoding_errors="surrogateescape")
