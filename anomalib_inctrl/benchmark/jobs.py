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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from anomalib.data import AnomalibDataset
from torch import Tensor

from anomalib_inctrl.benchmark.config import BenchmarkConfig, ModelConfig
from anomalib_inctrl.benchmark.measurement import CategoryResult, Setting, check_both_labels
from anomalib_inctrl.data.dataset import GeneralistDataset
from anomalib_inctrl.data.sources import DataSource, build_datamodules, prepare, read_parts
from anomalib_inctrl.errors import BenchmarkError
from anomalib_inctrl.prompts.selection import create_selector, read_prompt_list
from anomalib_inctrl.version import __version__

# Number of the worker process, which decides its GPU.
WORKER_INDEX = "ANOMALIB_INCTRL_BENCHMARK_WORKER"

# Models for which these arguments are equal share one pass.
_SHARED = ("backbone", "pretrained", "blocks", "image_size", "resize_mode", "prompt_shifts")


@dataclass(frozen=True)
class CategoryJob:
    """Measures a category; holds plain data alone, so that it can go to another process or machine.

    Attributes:
        weights: Checkpoint by model, where there is one.
        settings: By model the settings to measure: several of this package's models on one backbone, or another model.
        target: Name of the target.
        class_name: Name of the category.
        source: Source of its images, this category alone.
        config: The benchmark.
    """

    weights: Mapping[str, str]
    settings: Mapping[str, tuple[Setting, ...]]
    target: str
    class_name: str
    source: DataSource
    config: BenchmarkConfig

    @property
    def where(self) -> str:
        """Name of the category, for messages."""
        return f"{self.target}/{self.class_name}"

    @property
    def label(self) -> str:
        """Models, category and, if there is only one, the setting, for messages."""
        label = f"{', '.join(self.settings)} on {self.where}"
        settings = {setting for some in self.settings.values() for setting in some}
        if len(settings) > 1:
            return label
        ((k_shot, seed),) = settings
        return f"{label}, K={'all' if k_shot is None else k_shot}, seed {seed}"

    def run(self) -> CategoryResult:
        """Measure all settings.

        Returns:
            Complete rows with their details.
        """
        device = _device(self.config.device)
        first = self.config.models[next(iter(self.settings))]
        with quiet():
            result = self._one_pass(device) if first.ours else self._through_engine(first, device)
        cpu = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
        provenance = {
            "device": cpu if device == "cpu" else torch.cuda.get_device_name(device),
            "version": __version__,
            "commit": _commit(),
            "anomalib": version("anomalib"),
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        }
        place = {"target": self.target, "category": self.class_name}
        result.rows = [row | place | provenance for row in result.rows]
        return result

    def _one_pass(self, device: str) -> CategoryResult:
        from anomalib_inctrl.benchmark.one_pass import measure_category

        parts = self._parts()
        dataset = GeneralistDataset.merge([(self.class_name, parts["test"])])
        check_both_labels(torch.tensor(dataset.samples["label_index"].to_numpy(dtype=int)).bool(), self.where)
        models = {name: self.config.models[name] for name in self.settings}
        return measure_category(
            load_modules(models, self.weights, device),
            dataset,
            self.class_name,
            self.settings,
            self._prompt_chooser(parts),
            where=self.where,
            batch_size=self.config.batch_size,
            num_workers=self.config.num_workers,
            pixel_metrics=self.config.pixel_metrics,
            examples=self.config.examples,
        )

    def _through_engine(self, model: ModelConfig, device: str) -> CategoryResult:
        from anomalib_inctrl.benchmark.comparison import measure_setting

        ((name, (setting,)),) = self.settings.items()
        prompts = self._prompt_chooser(self._parts())(*setting, lambda _: torch.empty(0)) if setting[0] else None
        pixel_metrics = self.config.pixel_metrics
        return measure_setting(
            name, model, self.source, setting, prompts, self.where, device=device, pixel_metrics=pixel_metrics
        )

    def _parts(self) -> dict[str, AnomalibDataset]:
        ((_, datamodule),) = build_datamodules([self.source], f"targets.{self.target}").items()
        prepare(datamodule)
        return read_parts(self.class_name, datamodule, f"targets.{self.target}")

    def _prompt_chooser(
        self, parts: Mapping[str, AnomalibDataset]
    ) -> Callable[[int | None, int, Callable[[Sequence[Path]], Tensor]], list[Path]]:
        candidates: list[Path] = []
        if "train" in parts:
            samples = parts["train"].samples
            candidates = sorted(Path(path) for path in samples.image_path[samples.label_index == 0])

        def choose(k_shot: int | None, seed: int, encode: Callable[[Sequence[Path]], Tensor]) -> list[Path]:
            if self.config.prompts is not None:
                return _listed(self.config.prompts / prompt_file(self.target, self.class_name, k_shot, seed), k_shot)
            return create_selector(self.config.prompt_selection, seed).select(candidates, k_shot or 0, encode)

        return choose


def target_categories(config: BenchmarkConfig) -> dict[tuple[str, str], DataSource]:
    """Find the categories of all targets, and prepare their data.

    Args:
        config: The benchmark.

    Returns:
        Sources of one category each, by target and category, in the config's order.

    Raises:
        DatasetError: If a dataset is not in the folder that the config names.
    """
    found = {}
    for target, source in config.targets.items():
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


def plan_jobs(
    config: BenchmarkConfig,
    categories: Mapping[tuple[str, str], DataSource],
    weights: Mapping[tuple[str, str], str],
    finished: Mapping[tuple[str, str, str], set[Setting]],
) -> list[CategoryJob]:
    """List the jobs that measure the missing rows.

    Args:
        config: The benchmark.
        categories: See :func:`target_categories`.
        weights: Checkpoint by model and target, where there is one.
        finished: Settings that are measured already, by model, target and category.

    Returns:
        Jobs, category by category. Models that share backbone, preprocessing and prompts share a job; every other
        model has one for each setting.
    """
    groups = {target: _groups(config, target, weights) for target in config.targets}
    jobs = []
    for (target, class_name), source in categories.items():
        for names in groups[target]:
            missing = {}
            for name in names:
                done = finished.get((name, target, class_name), set())
                missing[name] = tuple(setting for setting in config.settings(name) if setting not in done)
            missing = {name: settings for name, settings in missing.items() if settings}
            if missing and config.models[names[0]].ours:
                parts = [missing]
            else:
                parts = [{name: (setting,)} for name, settings in missing.items() for setting in settings]
            given = {name: weights[name, target] for name in names if (name, target) in weights}
            jobs += [CategoryJob(given, part, target, class_name, source, config) for part in parts]
    return jobs


def _groups(config: BenchmarkConfig, target: str, weights: Mapping[tuple[str, str], str]) -> list[list[str]]:
    groups: dict[Any, list[str]] = {}
    for name, model in config.models.items():
        key: Any = name
        if model.ours:
            # Only the hyperparameters are needed: the PyTorch model is built on first use.
            settings = build(model, weights.get((name, target))).hparams
            key = tuple(str(settings[item]) for item in _SHARED)
        groups.setdefault(key, []).append(name)
    return list(groups.values())


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's and anomalib's notices, which would hide the benchmark's own output."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def build(model: ModelConfig, weights: str | None) -> Any:
    """Build one of this package's Lightning models."""
    cls: Any = model.load_class()
    return cls(**model.init_args, weights=weights, visualizer=False, evaluator=False, post_processor=False)


def load_modules(models: Mapping[str, ModelConfig], weights: Mapping[str, str], device: str) -> dict[str, Any]:
    """Build models of this package that share a backbone; they are kept for the next category.

    Args:
        models: Models by name.
        weights: Checkpoint by model, where there is one.
        device: PyTorch device.

    Returns:
        Lightning models by name, in eval mode.
    """
    return _load(
        tuple((name, model.model_dump_json(), weights.get(name)) for name, model in models.items()),
        device,
        tuple(Path(file).stat().st_mtime_ns for file in weights.values()),
    )


# The times of change make a replaced checkpoint be read again.
@lru_cache(maxsize=1)
def _load(models: tuple[tuple[str, str, str | None], ...], device: str, _changed: tuple[int, ...]) -> dict[str, Any]:
    modules: dict[str, Any] = {}
    for name, config, weights in models:
        module = build(ModelConfig.model_validate_json(config), weights).to(device).eval()
        if modules:
            module.model.backbone = next(iter(modules.values())).model.backbone
        _ = module.model
        modules[name] = module
    return modules


def prompt_file(target: str, class_name: str, k_shot: int | None, seed: int) -> Path:
    """Path of the list of prompts of a setting, relative to a folder ``prompts``."""
    return Path(file_name(target)) / file_name(class_name) / f"k{k_shot}_seed{seed}.txt"


def file_name(name: str) -> str:
    """A name as one part of a path; characters that are special in paths are percent-encoded."""
    text = "".join(char if char.isalnum() or char in " -_." else f"%{ord(char):02X}" for char in name)
    return f"%2E{text[1:]}" if text.startswith(".") else text


def _listed(path: Path, k_shot: int | None) -> list[Path]:
    if not path.is_file():
        msg = f"prompts={path}: no such list. Give the folder prompts of a benchmark with this category."
        raise BenchmarkError(msg)
    prompts = read_prompt_list(path)[None]
    if len(prompts) != k_shot:
        msg = f"prompts={path}: names {len(prompts)} prompts, K is {k_shot}. Complete the list, or leave prompts out."
        raise BenchmarkError(msg)
    return prompts


def _device(wanted: str) -> str:
    if wanted == "cpu" or not torch.cuda.is_available():
        if wanted == "cuda":
            msg = "device='cuda': PyTorch finds no GPU here. Set device: cpu, or auto."
            raise BenchmarkError(msg)
        return "cpu"
    return f"cuda:{int(os.environ.get(WORKER_INDEX, '0')) % torch.cuda.device_count()}"


@lru_cache(maxsize=1)
def _commit() -> str:
    """Commit of the package if it runs from a checkout, with ``-dirty`` after changes; else empty."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()  # noqa: S603

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # fails if the environment lies in another repository
        return git("describe", "--always", "--dirty", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return ""
