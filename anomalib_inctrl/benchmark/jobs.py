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
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from threading import Thread
from typing import Any

import torch

from anomalib_inctrl.benchmark.comparison import measure_setting
from anomalib_inctrl.benchmark.config import BenchmarkConfig, ModelConfig, RayConfig
from anomalib_inctrl.benchmark.metrics import CategoryResult, Setting
from anomalib_inctrl.benchmark.one_pass import Encode, measure_category
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
        settings: By model the settings to measure: several of this package's models on one backbone, or another model.
        target: Name of the target.
        class_name: Name of the category.
        source: Source of its images, this category alone.
        config: The benchmark; its models' weights are checkpoints.
    """

    settings: Mapping[str, Sequence[Setting]]
    target: str
    class_name: str
    source: DataSource
    config: BenchmarkConfig

    @property
    def where(self) -> str:
        """Name of the category."""
        return f"{self.target}/{self.class_name}"

    @property
    def label(self) -> str:
        """Models, category and, if there is only one, the setting."""
        label, settings = f"{', '.join(self.settings)} on {self.where}", set(chain(*self.settings.values()))
        if len(settings) > 1:
            return label
        ((k_shot, seed),) = settings
        return f"{label}, K={'all' if k_shot is None else k_shot}, seed {seed}"

    def run(self) -> CategoryResult:
        """Measure all settings; an error is one of the result's failures and does not stop other categories."""
        try:
            device = _device(self.config.device)
            with quiet():
                result = self._measure(device)
        except Exception as error:
            return CategoryResult(failures=[f"{type(error).__name__}: {error}"])
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
        config, argument = self.config, f"targets.{self.target}"
        (datamodule,) = build_datamodules([self.source], argument).values()
        prepare(datamodule)
        parts = read_parts(self.class_name, datamodule, argument)
        candidates: list[Path] = []
        if "train" in parts:
            samples = parts["train"].samples
            candidates = sorted(map(Path, samples.image_path[samples.label_index == 0]))

        def choose(k_shot: int, seed: int, encode: Encode) -> list[Path]:
            if config.prompts is not None:
                return _listed(config.prompts / prompt_file(self.target, self.class_name, k_shot, seed), k_shot)
            return create_selector(config.prompt_selection, seed).select(candidates, k_shot, encode)

        options: dict[str, Any] = {"where": self.where, "pixel_metrics": config.pixel_metrics}
        name = next(iter(self.settings))
        if not (model := config.models[name]).ours:
            ((k_shot, seed),) = self.settings[name]
            prompts = choose(k_shot, seed, lambda _: torch.empty(0)) if k_shot else None
            options |= {"class_name": self.class_name, "device": device}
            return measure_setting(name, model, datamodule, (k_shot, seed), prompts, **options)
        models = tuple((name, config.models[name].model_dump_json()) for name in self.settings)
        files = [config.models[name].weights_for(self.target) for name in self.settings]
        # The times of change make a replaced checkpoint be read again.
        changed = tuple(Path(file).stat().st_mtime_ns for file in files if file)
        modules = load_modules(models, self.target, device, changed)
        dataset = GeneralistDataset.merge([(self.class_name, parts["test"])])
        options |= {"batch_size": config.batch_size, "num_workers": config.num_workers}
        return measure_category(modules, dataset, self.class_name, self.settings, choose, **options)


def target_categories(config: BenchmarkConfig) -> dict[tuple[str, str], DataSource]:
    """Prepare the data of all targets: sources of one category each, by target and category, in the config's order.

    A :class:`DatasetError` is raised if a dataset is not in the folder that the config names.
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
    config: BenchmarkConfig, categories: Mapping[tuple[str, str], DataSource], finished: Collection[tuple[Any, ...]]
) -> list[CategoryJob]:
    """Jobs that measure the rows not in `finished` (model, target, category, K and seed), category by category.

    Models that share backbone, preprocessing and prompts share a job; every other model has one for each setting.
    """

    @cache
    def shared(name: str, target: str) -> tuple[str, ...]:
        hparams = build(config.models[name], target).hparams  # the PyTorch model is not built before its first use
        return tuple(str(hparams[item]) for item in _SHARED)

    jobs: list[CategoryJob] = []
    for (target, class_name), source in categories.items():
        groups: dict[Any, dict[str, list[Setting]]] = {}
        for name, model in config.models.items():
            for setting in config.settings(name):
                if (name, target, class_name, *setting) not in finished:
                    key = shared(name, target) if model.ours else (name, setting)
                    groups.setdefault(key, {}).setdefault(name, []).append(setting)
        jobs += [CategoryJob(settings, target, class_name, source, config) for settings in groups.values()]
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


def build(model: ModelConfig, target: str) -> Any:
    """Build one of this package's Lightning models, with its checkpoint for a target."""
    cls: Any = model.load_class()
    weights = model.weights_for(target)
    return cls(**model.init_args, weights=weights, visualizer=False, evaluator=False, post_processor=False)


@lru_cache(maxsize=1)
def load_modules(
    models: tuple[tuple[str, str], ...], target: str, device: str, _changed: tuple[int, ...] = ()
) -> dict[str, Any]:
    """Build models of this package that share a backbone, in eval mode; they are kept for the next category.

    Args:
        models: Names, and their :class:`ModelConfig` as JSON.
        target: The target whose checkpoints they have.
        device: PyTorch device.
    """
    modules: dict[str, Any] = {}
    for name, config in models:
        module = build(ModelConfig.model_validate_json(config), target).to(device).eval()
        if modules:
            module.model.backbone = next(iter(modules.values())).model.backbone
        # The maps of InCTRLv2's branches do not depend on prompts: settings share the last one.
        for branch in (getattr(module.model, part, None) for part in ("dasl_branch", "oasl_branch")):
            if branch is not None:
                branch.forward = lru_cache(maxsize=1)(branch.forward)
        modules[name] = module
    return modules


def prompt_file(target: str, class_name: str, k_shot: int | None, seed: int) -> Path:
    """Path of the list of prompts of a setting, relative to a folder ``prompts``."""
    return Path(file_name(target)) / file_name(class_name) / f"k{k_shot}_seed{seed}.txt"


def file_name(name: str) -> str:
    """A name as one part of a path; characters that are special in paths are percent-encoded."""
    text = "".join(char if char.isalnum() or char in " -_." else f"%{ord(char):02X}" for char in name)
    return f"%2E{text[1:]}" if text.startswith(".") else text


def _listed(path: Path, k_shot: int) -> list[Path]:
    prompts = read_prompt_list(path)[None] if path.is_file() else []
    if len(prompts) != k_shot:
        found = f"names {len(prompts)} prompts" if path.is_file() else "no such list"
        msg = (
            f"prompts={path}: {found}, K is {k_shot}. Give the folder prompts of a benchmark with this category and K, "
            "complete the list, or leave prompts out."
        )
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
    folder, name = os.path.split(__file__)
    # The first fails if the environment lies in another repository.
    commands = ("ls-files", "--error-unmatch", name), ("describe", "--always", "--dirty", "--exclude=*")
    try:
        for command in commands:
            git = ["git", "-C", folder, *command]
            found = subprocess.run(git, capture_output=True, text=True, check=True, timeout=20)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()


JobResults = Iterator[tuple[CategoryJob, CategoryResult]]


def run_jobs(jobs: Sequence[CategoryJob], workers: int = 1, ray: RayConfig | None = None) -> JobResults:
    """Run jobs, in as many processes of this machine as `workers` or by Ray; give each with its result when it ends.

    A job that fails does not stop the others. A :class:`BenchmarkError` is raised if a process dies, or Ray is not
    installed.
    """
    if ray is not None:
        return _run_on_ray(jobs, ray)
    if workers > 1 and len(jobs) > 1:
        return _run_in_processes(jobs, min(workers, len(jobs)))
    return ((job, job.run()) for job in jobs)


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
                yield futures.pop(future), future.result()
        except BrokenProcessPool as error:
            msg = (
                "A worker process died, perhaps for lack of memory. Finished results are kept: start again, with fewer "
                "workers if it was memory."
            )
            raise BenchmarkError(msg) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start_worker(threads: int) -> None:
    def exit_with_parent() -> None:
        # A worker would wait for work forever if its parent was killed.
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
            os._exit(1)

    torch.set_num_threads(threads)
    Thread(target=exit_with_parent, daemon=True).start()


def _run_on_ray(jobs: Sequence[CategoryJob], options: RayConfig) -> JobResults:
    try:
        import ray
    except ImportError as error:
        msg = "ray: Ray is not installed. Install it with `pip install anomalib-inctrl[ray]`, or leave ray out."
        raise BenchmarkError(msg) from error
    started = not ray.is_initialized()
    if started:
        ray.init(address=options.address, include_dashboard=False, log_to_driver=False)
    # Ray tries a job again after the death of its worker.
    remote = ray.remote(num_cpus=options.cpus, num_gpus=options.gpus, max_retries=options.retries)
    task = remote(lambda job: job.run())
    try:
        waiting = {task.remote(job): job for job in jobs}
        while waiting:
            (done, *_), _ = ray.wait(list(waiting), num_returns=1)
            try:
                result = ray.get(done)
            except ray.exceptions.RayError as error:
                result = CategoryResult(failures=[f"{type(error).__name__}: {error}"])
            yield waiting.pop(done), result
    finally:
        if started:
            ray.shutdown()
