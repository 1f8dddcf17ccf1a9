# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Units of work, and what runs them: this process, several of this machine, or machines by Ray.

A unit is a category, for models that share a pass, or for one setting of another model.
"""

from __future__ import annotations

import inspect
import logging
import multiprocessing
import os
import platform
import subprocess
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from anomalib.data import AnomalibDataset
from torch import Tensor

from anomalib_inctrl.benchmark.comparison import measure_setting
from anomalib_inctrl.benchmark.config import BenchmarkConfig, ModelConfig, RayConfig
from anomalib_inctrl.benchmark.measurement import CategoryResult, Setting
from anomalib_inctrl.benchmark.one_pass import measure_category
from anomalib_inctrl.data.dataset import GeneralistDataset
from anomalib_inctrl.data.sources import DataSource, build_datamodules, prepare, read_parts
from anomalib_inctrl.errors import BenchmarkError
from anomalib_inctrl.prompts.selection import create_selector, read_prompt_list
from anomalib_inctrl.version import __version__

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
        for k_shot, seed in settings if len(settings) == 1 else ():
            label += f", K={'all' if k_shot is None else k_shot}, seed {seed}"
        return label

    def run(self) -> CategoryResult:
        """Measure all settings.

        Returns:
            Complete rows with their details.
        """
        device = _device(self.config.device)
        with quiet():
            result = self._measure(device)
        cpu = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
        place = {
            "target": self.target,
            "category": self.class_name,
            "device": cpu if device == "cpu" else torch.cuda.get_device_name(device),
            "version": __version__,
            "commit": _commit(),
            "anomalib": version("anomalib"),
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        }
        result.rows = [row | place for row in result.rows]
        return result

    def _measure(self, device: str) -> CategoryResult:
        config = self.config
        ((_, datamodule),) = build_datamodules([self.source], f"targets.{self.target}").items()
        prepare(datamodule)
        parts = read_parts(self.class_name, datamodule, f"targets.{self.target}")
        options: dict[str, Any] = {"where": self.where, "pixel_metrics": config.pixel_metrics}
        name = next(iter(self.settings))
        if not config.models[name].ours:
            (setting,) = self.settings[name]
            prompts = self._choose(parts, *setting, lambda _: torch.empty(0)) if setting[0] else None
            return measure_setting(name, config.models[name], self.source, setting, prompts, device=device, **options)
        # The times of change make a replaced checkpoint be read again.
        files = {model: (file, Path(file).stat().st_mtime_ns) for model, file in self.weights.items()}
        models = tuple((model, config.models[model].model_dump_json(), files.get(model)) for model in self.settings)
        return measure_category(
            load_modules(models, device),
            GeneralistDataset.merge([(self.class_name, parts["test"])]),
            self.class_name,
            self.settings,
            partial(self._choose, parts),
            batch_size=config.batch_size,
            num_workers=config.num_workers,
            **options,
        )

    def _choose(
        self,
        parts: Mapping[str, AnomalibDataset],
        k_shot: int | None,
        seed: int,
        encode: Callable[[Sequence[Path]], Tensor],
    ) -> list[Path]:
        if self.config.prompts is not None:
            return _listed(self.config.prompts / prompt_file(self.target, self.class_name, k_shot, seed), k_shot)
        candidates: list[Path] = []
        if "train" in parts:
            samples = parts["train"].samples
            candidates = sorted(Path(path) for path in samples.image_path[samples.label_index == 0])
        return create_selector(self.config.prompt_selection, seed).select(candidates, k_shot or 0, encode)


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
            categories = [datamodule.category] if has_categories else None
            found[target, class_name] = replace(source, categories=categories, class_name=class_name)
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
    shared: dict[tuple[str, str], Any] = {}
    for name, model in config.models.items():
        for target in config.targets if model.ours else ():
            # Only the hyperparameters are needed: the PyTorch model is built on first use.
            hparams = build(model, weights.get((name, target))).hparams
            shared[name, target] = tuple(str(hparams[item]) for item in _SHARED)
    jobs = []
    for (target, class_name), source in categories.items():
        groups: dict[Any, dict[str, tuple[Setting, ...]]] = {}
        given = {name: weights[name, target] for name in config.models if (name, target) in weights}
        for name, model in config.models.items():
            done = finished.get((name, target, class_name), set())
            missing = tuple(setting for setting in config.settings(name) if setting not in done)
            if missing and model.ours:
                groups.setdefault(shared[name, target], {})[name] = missing
            else:
                groups |= {(name, setting): {name: (setting,)} for setting in missing}
        for part in groups.values():
            used = {name: file for name, file in given.items() if name in part}
            jobs.append(CategoryJob(used, part, target, class_name, source, config))
    return jobs


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


@lru_cache(maxsize=1)
def load_modules(models: tuple[tuple[str, str, tuple[str, int] | None], ...], device: str) -> dict[str, Any]:
    """Build models of this package that share a backbone; they are kept for the next category.

    Args:
        models: Names, their :class:`ModelConfig` as JSON, and checkpoints with their time of change.
        device: PyTorch device.

    Returns:
        Lightning models by name, in eval mode.
    """
    modules: dict[str, Any] = {}
    for name, config, weights in models:
        module = build(ModelConfig.model_validate_json(config), weights and weights[0]).to(device).eval()
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
    # Worker processes are numbered one after the other, so that they take GPUs in turn.
    number = multiprocessing.current_process().name.rpartition("-")[2]
    return f"cuda:{(int(number) if number.isdigit() else 0) % torch.cuda.device_count()}"


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


JobResults = Iterator[tuple[CategoryJob, CategoryResult | Exception]]


def run_jobs(jobs: Sequence[CategoryJob], workers: int = 1, ray: RayConfig | None = None) -> JobResults:
    """Run jobs; one that fails does not stop the others.

    Args:
        jobs: Jobs to run.
        workers: Processes of this machine, which share its cores and GPUs.
        ray: Spread jobs over machines by Ray instead.

    Yields:
        Each job with its result or error as soon as that is there.

    Raises:
        BenchmarkError: If a process dies, or Ray is not installed.
    """
    if ray is not None:
        yield from _run_on_ray(jobs, ray)
    elif workers > 1 and len(jobs) > 1:
        yield from _run_in_processes(jobs, min(workers, len(jobs)))
    else:
        for job in jobs:
            try:
                result: CategoryResult | Exception = job.run()
            except Exception as error:  # a category that fails does not stop the others
                result = error
            yield job, result


def _run_in_processes(jobs: Sequence[CategoryJob], workers: int) -> JobResults:
    # A server that has imported everything starts workers fast. A plain fork would copy threads and a GPU in use.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context: Any = multiprocessing.get_context(method)
    context.set_forkserver_preload([__name__])
    threads = max(1, torch.get_num_threads() // workers)
    with ProcessPoolExecutor(workers, context, _start_worker, (threads,)) as pool:
        futures = {pool.submit(job.run): job for job in jobs}
        try:
            for future in as_completed(futures):
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    msg = (
                        "A worker process died, perhaps for lack of memory. Finished results are kept: start again, "
                        "with fewer workers if it was memory."
                    )
                    raise BenchmarkError(msg) from error
                yield futures.pop(future), error if isinstance(error, Exception) else future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start_worker(threads: int) -> None:
    torch.set_num_threads(threads)
    Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    # A worker would wait for work forever if its parent was killed.
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _run_on_ray(jobs: Sequence[CategoryJob], options: RayConfig) -> JobResults:
    try:
        import ray
    except ImportError as error:
        msg = "ray: Ray is not installed. Install it with `pip install anomalib-inctrl[ray]`, or leave ray out."
        raise BenchmarkError(msg) from error
    started = not ray.is_initialized()
    if started:
        ray.init(address=options.address, include_dashboard=False, log_to_driver=False)
    # Ray retries only after the death of a worker: an error in a job would occur again.
    remote = ray.remote(num_cpus=options.cpus, num_gpus=options.gpus, max_retries=options.retries)
    task = remote(_run_job)
    try:
        waiting = {task.remote(job): job for job in jobs}
        while waiting:
            (done, *_), _ = ray.wait(list(waiting), num_returns=1)
            job = waiting.pop(done)
            try:
                yield job, ray.get(done)
            except ray.exceptions.RayTaskError as error:
                yield job, error.cause if isinstance(error.cause, Exception) else error
            except ray.exceptions.RayError as error:
                yield job, error
    finally:
        if started:
            ray.shutdown()


def _run_job(job: CategoryJob) -> CategoryResult:
    return job.run()
