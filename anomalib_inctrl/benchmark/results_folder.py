# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The folder of a benchmark, from which an interrupted run resumes.

results.csv          a row per model, target, category, K and seed; rewritten whenever a category is finished
rows.csv             the same and those of models, targets and settings that left the config: what a resumed run reads
prompts/             the prompts' paths, a list per category, K and seed
scores/              raw scores of all test images, a file per model and category
weights/             checkpoints of training configs
config.yaml          the config as it was run, defaults included
identity.json        what finished rows depend on, to distinguish a changed config from a resumed one
report.md, report.html
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from filelock import FileLock, Timeout

from anomalib_inctrl.benchmark.config import BenchmarkConfig, changes
from anomalib_inctrl.benchmark.jobs import file_name, prompt_file
from anomalib_inctrl.benchmark.metrics import METRICS, CategoryResult
from anomalib_inctrl.errors import BenchmarkError
from anomalib_inctrl.io.files import write_text_atomic

KEY = ("model", "target", "category", "k_shot", "seed")
TIMING = ("pass_seconds", "setting_seconds")
PROVENANCE = ("device", "version", "commit", "anomalib", "torch", "python")
COLUMNS = (*KEY, *METRICS, "normal", "abnormal", "masks", *TIMING, *PROVENANCE)


class ResultsFolder:
    """Reads and writes the results of one config.

    Args:
        config: The benchmark.
    """

    def __init__(self, config: BenchmarkConfig) -> None:
        self.config = config
        self.path = config.output

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder, and compare its rows with the config.

        Raises:
            BenchmarkError: If another run writes here, the rows are of another config, or ``identity.json`` is damaged.
            PretrainedWeightsError: If weights that the config names do not exist.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(self.path / ".lock").acquire(timeout=0)
        except Timeout as error:
            msg = f"output={self.path}: another run is writing here. Wait for it, or give another folder."
            raise BenchmarkError(msg) from error
        with lock:
            self._check()
            yield

    def _check(self) -> None:
        file = self.path / "identity.json"
        old: dict[str, Any] = {}
        if file.is_file():
            try:
                old = json.loads(file.read_text(encoding="utf-8"))
            except ValueError as error:
                msg = f"{file}: damaged ({error}). Give another output folder, or delete this one."
                raise BenchmarkError(msg) from error
        new = self.config.identity()
        if difference := changes(old, new):
            lines = "\n".join(f"  {line}" for line in difference)
            msg = (
                f"output={self.path}: holds rows of another config, which cannot share a table:\n{lines}\n"
                "Give another output folder, rename the changed model or target, or delete the folder. "
                "(Models, targets, categories, K and seeds may be added and removed freely.)"
            )
            raise BenchmarkError(msg)
        # Entries that left the config are kept, since their rows are.
        content = yaml.safe_dump(json.loads(self.config.model_dump_json()), sort_keys=False, allow_unicode=True)
        write_text_atomic(self.path / "config.yaml", content)
        write_text_atomic(file, json.dumps(old | new, indent=2, sort_keys=True, ensure_ascii=False) + "\n")

    def finished(self) -> set[tuple[Any, ...]]:
        """Model, target, category, K (None for all images) and seed of the finished rows."""
        keys = self._rows()[list(KEY)].to_numpy()
        return {(*names, None if pd.isna(k) else int(k), int(seed)) for *names, k, seed in keys}

    def add(self, result: CategoryResult, target: str, category: str) -> None:
        """Write the result of a job; its rows last, so that a finished row always has its prompts and scores.

        Args:
            result: Rows with their details.
            target: Name of the target.
            category: Name of the category.
        """
        for (k_shot, seed), paths in result.prompts.items():
            file = self.path / "prompts" / prompt_file(target, category, k_shot, seed)
            write_text_atomic(file, "".join(f"{path}\n" for path in paths))
        for model, scores in result.scores.items():
            file = self.path / "scores" / file_name(model) / file_name(target) / f"{file_name(category)}.csv"
            new = pd.DataFrame(scores)
            if file.is_file():
                # File names that are not UTF-8 are kept as their bytes.
                old = pd.read_csv(
                    file, keep_default_na=False, na_values={"k_shot": [""]}, encoding_errors="surrogateescape"
                )
                new = pd.concat([old, new])
            new["k_shot"] = new["k_shot"].astype("Int64")
            new = new.drop_duplicates(["k_shot", "seed", "image_path"], keep="last")
            new = new.sort_values(["k_shot", "seed"], kind="stable")
            write_text_atomic(file, new.to_csv(index=False, float_format="%.9g"))
        rows = pd.concat([self._rows(), pd.DataFrame(result.rows).reindex(columns=list(COLUMNS))])
        rows = rows.drop_duplicates(list(KEY), keep="last")
        write_text_atomic(self.path / "rows.csv", rows.to_csv(index=False, float_format="%.6f"))

    def write_table(self, categories: Iterable[tuple[str, str]]) -> pd.DataFrame:
        """Rewrite ``results.csv``.

        Args:
            categories: Target and category of all that the config asks for, in order.

        Returns:
            Its rows, those of the config alone, in the config's order.
        """
        wanted = [
            (model, target, category, *setting)
            for target, category in categories
            for model in self.config.models
            for setting in self.config.settings(model)
        ]
        table = pd.DataFrame(wanted, columns=list(KEY)).astype({"k_shot": "Int64"}).merge(self._rows(), on=list(KEY))
        write_text_atomic(self.path / "results.csv", table.to_csv(index=False, float_format="%.6f"))
        return table

    def _rows(self) -> pd.DataFrame:
        file = self.path / "rows.csv"
        empty = pd.DataFrame(columns=list(COLUMNS)).astype({"k_shot": "Int64", "seed": int})
        return read_table(file) if file.is_file() else empty


def read_table(file: Path) -> pd.DataFrame:
    """Read ``results.csv``; ``k_shot`` is missing for models that saw all normal images."""
    names = ("model", "target", "category", *PROVENANCE)
    table = pd.read_csv(file, dtype=dict.fromkeys(names, str), keep_default_na=False, na_values=[""])
    table[list(names)] = table[list(names)].fillna("")
    return table.astype({"k_shot": "Int64"})
