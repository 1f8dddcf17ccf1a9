# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Units of work: a category, for models that share a pass, or for one setting of another model."""

from __future__ import annotations

import inspect
import logging
import os
import platform
import subprocess
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from anomalib.data import AnomalibDataset
from anomalib.pipelines.components.base import Job, JobGenerator
from torch import Tensor

from anomalib_inctrl.benchmark.config import BenchmarkConfig, ModelConfig
from anomalib_inctrl.benchmark.outcome import Outcome, Setting, check_both_kinds
from anomalib_inctrl.data.dataset import GeneralistDataset
from anomalib_inctrl.data.sources import DataSource, build_datamodules, prepare, read_parts
from anomalib_inctrl.errors import BenchmarkError
from anomalib_inctrl.prompts.selection import create_selector, read_prompt_list
from anomalib_inctrl.version import __version__

Settings = Mapping[str, tuple[Setting, ...]]

# Which of this machine's GPUs the process works on; set for each worker.
WORKER_INDEX = "ANOMALIB_INCTRL_BENCHMARK_WORKER"

# Models that have these in common share one pass.
_SHARED = ("backbone", "pretrained", "blocks", "resize_mode", "prompt_shifts")


@dataclass(frozen=True)
class CategoryJob(Job):
    """Measures a category; holds plain data alone, so that it can go to another process or machine.

    Attributes:
        models: What to measure: several of this package's models on one backbone, or another model alone.
        weights: Checkpoint by model, where there is one.
        settings: By model the settings to measure.
        target: Name of the target.
        class_name: Name of the category.
        source: Where its images come from, this category alone.
        options: What else the config says.
    """

    models: Mapping[str, ModelConfig]
    weights: Mapping[str, str]
    settings: Settings
    target: str
    class_name: str
    source: DataSource
    options: BenchmarkConfig
    progress: Callable[[int], None] | None = field(default=None, compare=False)

    name = "generalist"

    @property
    def where(self) -> str:
        """Name of the category, for messages."""
        return f"{self.target}/{self.class_name}"

    @property
    def label(self) -> str:
        """Models and category, for messages."""
        label = f"{', '.join(self.models)} on {self.where}"
        settings = {setting for some in self.settings.values() for setting in some}
        if len(settings) > 1:
            return label
        ((k_shot, seed),) = settings
        return f"{label}, K={'all' if k_shot is None else k_shot}, seed {seed}"

    def run(self, task_id: int | None = None) -> Outcome:
        """Measure.

        Args:
            task_id: Number of the worker; unused, workers know theirs.

        Returns:
            Rows, complete but for the config's name.
        """
        del task_id
        device = _device(self.options.device)
        first = next(iter(self.models.values()))
        with quiet():
            outcome = self._one_pass(device) if first.ours else self._through_engine(first, device)
        provenance = {
            "device": _device_name(device),
            "version": __version__,
            "commit": _commit(),
            "anomalib": version("anomalib"),
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        }
        outcome.rows = [
            {"model": row.pop("model"), "target": self.target, "category": self.class_name} | row | provenance
            for row in outcome.rows
        ]
        return outcome

    def _one_pass(self, device: str) -> Outcome:
        from anomalib_inctrl.benchmark.one_pass import Category, measure_category

        parts = self._parts()
        dataset = GeneralistDataset.merge([(self.class_name, parts["test"])])
        labels = dataset.samples["label_index"]
        check_both_kinds(int((labels == 0).sum()), int((labels == 1).sum()), self.where)
        return measure_category(
            load_modules(self.models, self.weights, device),
            Category(dataset, self.class_name, self.where),
            self.settings,
            self._chooser(_candidates(parts)),
            batch_size=self.options.batch_size,
            num_workers=self.options.num_workers,
            pixel_metrics=self.options.pixel_metrics,
            examples=self.options.examples,
            **({} if self.progress is None else {"progress": self.progress}),
        )

    def _through_engine(self, model: ModelConfig, device: str) -> Outcome:
        from anomalib_inctrl.benchmark.comparison import measure_setting

        ((name, (setting,)),) = self.settings.items()
        prompts = None
        if setting[0]:
            prompts = self._chooser(_candidates(self._parts()))(*setting, lambda _: torch.empty(0))
        return measure_setting(
            name,
            model,
            self.source,
            setting,
            prompts,
            self.where,
            device=device,
            pixel_metrics=self.options.pixel_metrics,
        )

    def _parts(self) -> dict[str, AnomalibDataset]:
        ((_, datamodule),) = build_datamodules([self.source], f"targets.{self.target}").items()
        prepare(datamodule)
        return read_parts(self.class_name, datamodule, f"targets.{self.target}")

    def _chooser(self, candidates: Sequence[Path]) -> Callable[[int | None, int, Any], list[Path]]:
        options = self.options

        def choose(k_shot: int | None, seed: int, encode: Callable[[Sequence[Path]], Tensor]) -> list[Path]:
            if options.prompts is not None:
                return _given(options.prompts / prompt_file(self.target, self.class_name, k_shot, seed), k_shot)
            return create_selector(options.prompt_selection, seed).select(candidates, k_shot or 0, encode)

        return choose

    @staticmethod
    def collect(results: list[Outcome]) -> list[dict[str, Any]]:
        """All rows of several outcomes."""
        return [row for outcome in results for row in outcome.rows]

    @staticmethod
    def save(results: Any) -> None:
        """Nothing: every category is written down when it is done."""


class JobPlanner(JobGenerator):
    """Says what there is to measure.

    Args:
        config: The benchmark.
        weights: Checkpoint by model and target, where there is one.
        finished: Settings that are there already, by model, target and category.
    """

    def __init__(
        self,
        config: BenchmarkConfig,
        weights: Mapping[tuple[str, str], str],
        finished: Mapping[tuple[str, str, str], set[Setting]],
    ) -> None:
        self.config = config
        self.weights = weights
        self.finished = finished

    @property
    def job_class(self) -> type[Job]:
        """Class of the jobs."""
        return CategoryJob

    def categories(self) -> dict[tuple[str, str], DataSource]:
        """Sources of one category each, by target and category, in the config's order; what they need is prepared.

        Raises:
            DatasetError: If a dataset does not lie where the config says.
        """
        found = {}
        for target, source in self.config.targets.items():
            for class_name, datamodule in build_datamodules([source], f"targets.{target}").items():
                prepare(datamodule)
                has_categories = "category" in inspect.signature(type(datamodule)).parameters
                found[target, class_name] = DataSource(
                    datamodule=source.datamodule,
                    root=source.root,
                    categories=[datamodule.category] if has_categories else None,
                    options=source.options,
                    class_name=class_name,
                )
        return found

    def generate_jobs(
        self, args: dict[str, Any] | None = None, prev_stage_result: Any = None
    ) -> Generator[Job, None, None]:
        """Yield what has not been measured, category by category.

        Args:
            args: Unused; the config is known.
            prev_stage_result: Unused.
        """
        del args, prev_stage_result
        categories = self.categories()
        groups = self._groups()
        for (target, class_name), source in categories.items():
            for names in groups[target]:
                missing = {
                    name: tuple(
                        setting
                        for setting in self.config.settings(name)
                        if setting not in self.finished.get((name, target, class_name), set())
                    )
                    for name in names
                }
                missing = {name: settings for name, settings in missing.items() if settings}
                if not missing:
                    continue
                if self.config.models[names[0]].ours:
                    yield self._job(missing, target, class_name, source)
                else:
                    for setting in missing[names[0]]:
                        yield self._job({names[0]: (setting,)}, target, class_name, source)

    def _job(self, settings: Settings, target: str, class_name: str, source: DataSource) -> CategoryJob:
        names = list(settings)
        return CategoryJob(
            models={name: self.config.models[name] for name in names},
            weights={name: self.weights[name, target] for name in names if (name, target) in self.weights},
            settings=settings,
            target=target,
            class_name=class_name,
            source=source,
            options=self.config,
        )

    def _groups(self) -> dict[str, list[list[str]]]:
        """By target the models that share backbone, preprocessing and prompts; every other model alone."""
        groups: dict[str, list[list[str]]] = {}
        for target in self.config.targets:
            shared: dict[Any, list[str]] = {}
            for name, model in self.config.models.items():
                key: Any = name
                if model.ours:
                    # Without its PyTorch part, which is made when first used.
                    settings = build(model, self.weights.get((name, target))).hparams
                    key = tuple(str(settings[item]) for item in _SHARED)
                shared.setdefault(key, []).append(name)
            groups[target] = list(shared.values())
        return groups


@contextmanager
def quiet() -> Iterator[None]:
    """Without the notices of Lightning and anomalib, which would bury the rows."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def build(model: ModelConfig, weights: str | None) -> Any:
    """Make one of this package's models."""
    cls: Any = model.load_class()
    return cls(**model.init_args, weights=weights, visualizer=False, evaluator=False, post_processor=False)


def load_modules(models: Mapping[str, ModelConfig], weights: Mapping[str, str], device: str) -> dict[str, Any]:
    """Make models of this package that share a backbone; they are kept for the next category.

    Args:
        models: Models by name.
        weights: Checkpoint by model, where there is one.
        device: Where they are to work.

    Returns:
        Lightning models by name, in eval mode.
    """
    return _load(
        tuple((name, model.model_dump_json(), weights.get(name)) for name, model in models.items()),
        device,
        tuple(Path(file).stat().st_mtime_ns for file in weights.values()),
    )


# The stamps tell a changed checkpoint apart.
@lru_cache(maxsize=1)
def _load(models: tuple[tuple[str, str, str | None], ...], device: str, _stamps: tuple[int, ...]) -> dict[str, Any]:
    modules: dict[str, Any] = {}
    for name, config, weights in models:
        module = build(ModelConfig.model_validate_json(config), weights).to(device).eval()
        if modules:
            module.model.backbone = next(iter(modules.values())).model.backbone
        _ = module.model
        modules[name] = module
    return modules


def prompt_file(target: str, class_name: str, k_shot: int | None, seed: int) -> Path:
    """Where the list of prompts of a setting lies, in a folder ``prompts``."""
    return Path(file_name(target)) / file_name(class_name) / f"k{k_shot}_seed{seed}.txt"


def file_name(name: str) -> str:
    """A name as one part of a path: whatever could be read as something else is written as its code."""
    text = "".join(char if char.isalnum() or char in " -_." else f"%{ord(char):02X}" for char in name)
    return f"%2E{text[1:]}" if text.startswith(".") else text


def _given(path: Path, k_shot: int | None) -> list[Path]:
    if not path.is_file():
        msg = f"prompts={path}: there is no such list. Give the folder prompts of a benchmark with this category."
        raise BenchmarkError(msg)
    prompts = read_prompt_list(path)[None]
    if len(prompts) != k_shot:
        msg = f"prompts={path}: names {len(prompts)} prompts, K is {k_shot}. Complete the list, or leave prompts out."
        raise BenchmarkError(msg)
    return prompts


def _candidates(parts: Mapping[str, AnomalibDataset]) -> list[Path]:
    if "train" not in parts:
        return []
    samples = parts["train"].samples
    return sorted(Path(path) for path in samples.image_path[samples.label_index == 0])


def _device(wanted: str) -> str:
    if wanted == "cpu" or not torch.cuda.is_available():
        if wanted == "cuda":
            msg = "device='cuda': PyTorch finds no GPU here. Say device: cpu, or auto."
            raise BenchmarkError(msg)
        return "cpu"
    return f"cuda:{int(os.environ.get(WORKER_INDEX, '0')) % torch.cuda.device_count()}"


def _device_name(device: str) -> str:
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text(encoding="utf-8").splitlines() if cpu_info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


@lru_cache(maxsize=1)
def _commit() -> str:
    """Commit of the package where it runs from a checkout, with a plus if files were changed since; else empty."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(  # noqa: S603
            ["git", "-C", str(folder), *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != folder.parents[1]:
            return ""  # some other repository that the environment lies in
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return ""
