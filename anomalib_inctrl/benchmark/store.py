# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The folder of a benchmark: what is in it is finished, whatever happened to the run that wrote it.

results.csv          a line per model, target, category, K and seed; written anew whenever a category is done
rows/                the same lines, a file per model and category: what a resumed run reads
prompts/             the prompts' paths, a list per category, K and seed
scores/              raw scores of all test images, a file per model and category
examples/            pictures
weights/             checkpoints of training configs
config.yaml          the config as it was run, defaults included
identity.json        what finished rows depend on, to tell a changed config from a resumed one
report.md, report.html
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from anomalib_inctrl.benchmark.config import BenchmarkConfig, changes
from anomalib_inctrl.benchmark.jobs import file_name, prompt_file
from anomalib_inctrl.benchmark.metrics import METRICS
from anomalib_inctrl.benchmark.outcome import Outcome, Setting
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
        """Begin or go on; :meth:`close` ends it, also where this raises.

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
        # What is no longer in the config is remembered: its rows are still there.
        merged = {part: _merge(old.get(part, {}), new[part]) for part in new}
        digest = hashlib.sha256(json.dumps(new, sort_keys=True).encode()).hexdigest()[:16]
        content = {"hash": digest, "identity": merged}
        write_text_atomic(self._identity, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
        write_text_atomic(self.path / "config.yaml", self.config.dump())

    def check(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Compare the config with what gave the rows that are here.

        Returns:
            Identity of what is here, empty if nothing is, and of the config; see :meth:`BenchmarkConfig.identity`.

        Raises:
            BenchmarkError: If another config gave the rows, or the file that says which one did is damaged.
            PretrainedWeightsError: If weights that the config names are not there.
        """
        # In the order in which the file has them: lists of mappings are compared as text.
        new = json.loads(json.dumps(self.config.identity(), sort_keys=True))
        old = {}
        if self._identity.is_file():
            try:
                old = json.loads(self._identity.read_text(encoding="utf-8"))["identity"]
            except (ValueError, KeyError, TypeError) as error:
                msg = f"{self._identity}: damaged ({error}). Give another output folder, or delete this one."
                raise BenchmarkError(msg) from error
        if difference := changes(old, new):
            lines = "\n".join(f"  {line}" for line in difference)
            msg = (
                f"output={self.path}: holds rows of another config, and they would not fit together:\n{lines}\n"
                "Give another output folder, name the changed model or target anew, or delete the folder. "
                "(Models, targets, categories, K and seeds may be added and removed freely.)"
            )
            raise BenchmarkError(msg)
        return old, new

    def close(self) -> None:
        """Let other runs write here; nothing if this one does not hold the folder."""
        self._lock.release()

    def finished(self) -> dict[tuple[str, str, str], set[Setting]]:
        """Settings that are there, by model, target and category."""
        found: dict[tuple[str, str, str], set[Setting]] = {}
        for row in self._all_rows():
            found.setdefault((row["model"], row["target"], row["category"]), set()).add(_setting(row))
        return found

    def add(self, outcome: Outcome, target: str, category: str) -> None:
        """Write down what a job gave; its rows last, so that a row is never without what stands behind it.

        Args:
            outcome: Rows and what stands behind them.
            target: Name of the target.
            category: Name of the category.
        """
        for (k_shot, seed), paths in outcome.prompts.items():
            write_text_atomic(
                self.path / "prompts" / prompt_file(target, category, k_shot, seed), "".join(f"{p}\n" for p in paths)
            )
        place = Path(file_name(target)) / f"{file_name(category)}.csv"
        for model, lines in outcome.scores.items():
            self._extend(self.path / "scores" / file_name(model) / place, lines, ("k_shot", "seed"))
        for model, picture in outcome.examples.items():
            file = self.path / "examples" / file_name(model) / place.with_suffix(".jpg")
            write_bytes_atomic(file, picture)
        for model in dict.fromkeys(row["model"] for row in outcome.rows):
            rows = [_as_text(row) for row in outcome.rows if row["model"] == model]
            self._extend(self.path / "rows" / file_name(model) / place, rows, ("k_shot", "seed"))

    def write_table(self, categories: Iterable[tuple[str, str]]) -> pd.DataFrame:
        """Write ``results.csv`` anew.

        Args:
            categories: Target and category of all that the config asks for, in order.

        Returns:
            Its rows, those of the config alone, in the config's order.
        """
        order = {
            (model, target, category, *setting): None
            for target, category in categories
            for model in self.config.models
            for setting in self.config.settings(model)
        }
        rows = {(row["model"], row["target"], row["category"], *_setting(row)): row for row in self._all_rows()}
        kept = [rows[key] for key in order if key in rows]
        text = _to_csv(kept, COLUMNS)
        write_text_atomic(self.path / "results.csv", text)
        return read_table(io.StringIO(text))

    def examples(self, model: str, target: str, category: str) -> bytes | None:
        """Example pictures of a category, if there are any."""
        file = self.path / "examples" / file_name(model) / file_name(target) / f"{file_name(category)}.jpg"
        return file.read_bytes() if file.is_file() else None

    def _all_rows(self) -> list[dict[str, str]]:
        return [row for file in sorted((self.path / "rows").glob("*/*/*.csv")) for row in _read_csv(file)]

    @staticmethod
    def _extend(file: Path, lines: Sequence[Mapping[str, Any]], key: Sequence[str]) -> None:
        """Add lines to a table, in place of those of the same settings."""
        new = [{name: _text(value) for name, value in line.items()} for line in lines]
        replaced = {tuple(line[name] for name in key) for line in new}
        old = [line for line in _read_csv(file) if tuple(line[name] for name in key) not in replaced]
        everything = sorted([*old, *new], key=lambda line: tuple(int(line[name] or -1) for name in key))
        write_text_atomic(file, _to_csv(everything, list(new[0])))


def read_table(source: Any) -> pd.DataFrame:
    """Read ``results.csv``.

    Args:
        source: Path or open file.

    Returns:
        Its rows; ``k_shot`` is missing where it does not matter.
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


def _as_text(row: Mapping[str, Any]) -> dict[str, str]:
    text = {}
    for name in COLUMNS:
        value = row.get(name)
        text[name] = f"{value:.{_DECIMALS[name]}f}" if name in _DECIMALS and value is not None else _text(value)
    return text


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def _to_csv(lines: Sequence[Mapping[str, str]], columns: Sequence[str]) -> str:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def _read_csv(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    # File names that are no UTF-8 stand there as the bytes they are.
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as lines:
        return list(csv.DictReader(lines))
