# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark's config: YAML, checked before anything runs."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import anomalib.models
import yaml
from anomalib.models import AnomalibModule
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    BaseModel,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from anomalib_inctrl.backbones.openclip import weights_file
from anomalib_inctrl.data.sources import DataSource
from anomalib_inctrl.errors import BenchmarkError, PretrainedWeightsError
from anomalib_inctrl.io.weights import file_sha256
from anomalib_inctrl.models.components.few_shot_module import FewShotModule
from anomalib_inctrl.prompts.selection import SELECTORS

TRAINING_CONFIGS = frozenset({".yaml", ".yml"})
# Arguments that the benchmark itself sets.
_SET_BY_BENCHMARK = {"k_shot", "seed", "class_name", "prompts", "prompt_selection", "weights"}


class ModelConfig(BaseModel, extra="forbid"):
    """One line of the table.

    Attributes:
        class_path: ``InCTRL``, ``InCTRLv2``, or any anomalib model: its name, or with its module.
        init_args: Arguments of the class.
        weights: For InCTRL and InCTRLv2: a checkpoint, or a training config (``.yaml``) that is run first; or one of
            them by target. Without weights the training-free baseline is measured.
        train_on: For other models: ``"prompts"`` trains on the same K normal images, ``"all"`` the whole train
            split, whatever K is.
        trainer: For other models: arguments of anomalib's engine, such as ``max_epochs``.
    """

    class_path: str
    init_args: dict[str, Any] = {}
    weights: str | dict[str, str] | None = None
    train_on: Literal["prompts", "all"] = "prompts"
    trainer: dict[str, Any] = {}

    @property
    def ours(self) -> bool:
        """Whether it is one of this package's models, which share one pass over the images."""
        return issubclass(self.load_class(), FewShotModule)

    def load_class(self) -> type[AnomalibModule]:
        """The class; a ValueError if there is none of that name."""
        module, _, name = self.class_path.rpartition(".")
        try:
            found: Any = getattr(importlib.import_module(module or "anomalib.models"), name, None)
        except ImportError as error:
            msg = f"class_path={self.class_path!r}: {error}"
            raise ValueError(msg) from error
        if not (inspect.isclass(found) and issubclass(found, AnomalibModule)):
            known = [item for item in anomalib.models.__all__ if inspect.isclass(getattr(anomalib.models, item, None))]
            msg = f"class_path={self.class_path!r}: no such model. anomalib has {', '.join(sorted(known))}."
            raise ValueError(msg)
        return found

    def weights_for(self, target: str) -> str | None:
        """Weights for a target."""
        return self.weights.get(target) if isinstance(self.weights, Mapping) else self.weights

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        name, takes = self.class_path, inspect.signature(self.load_class()).parameters
        if unknown := ", ".join(sorted(self.init_args.keys() - takes)):
            msg = f"init_args: {name} takes no {unknown}. It takes {', '.join(takes)}."
            raise ValueError(msg)
        set_by_benchmark = _SET_BY_BENCHMARK if self.ours else {"k_shot", "class_name"}
        if taken := ", ".join(sorted(self.init_args.keys() & set_by_benchmark)):
            msg = f"init_args: {taken} cannot be given here; the benchmark sets them."
            raise ValueError(msg)
        if self.ours and (self.trainer or self.train_on != "prompts"):
            msg = f"trainer and train_on are for other models; {name} is trained by a config in weights."
            raise ValueError(msg)
        if not self.ours and self.weights is not None:
            msg = f"weights are for InCTRL and InCTRLv2; {name} is trained on each target."
            raise ValueError(msg)
        return self


class RayConfig(BaseModel, extra="forbid"):
    """How categories are spread over machines by Ray.

    Attributes:
        address: Of a running cluster, ``"auto"`` for the one this machine belongs to; None starts one on this machine.
        cpus: CPU cores of a category.
        gpus: GPUs of a category; a fraction shares one.
        retries: How often a category is tried again whose worker died.
    """

    address: str | None = None
    cpus: PositiveFloat = 1
    gpus: NonNegativeFloat = 0
    retries: NonNegativeInt = 3


class BenchmarkConfig(BaseModel, extra="forbid"):
    """A benchmark: every model on every category of every target, for every K and seed.

    Attributes:
        output: Folder of the results.
        title: Heading of the report.
        paths: Names for folders, to be used as ``${paths.NAME}``.
        models: Lines of the table by name.
        targets: Datasets to test on by name; all categories where none are named.
        k_shots: Numbers of prompts; 0 leaves the text prompts alone.
        seeds: Each decides one draw of prompts, and the training of other models.
        prompt_selection: How prompts are chosen: ``"random"``, ``"first"`` or ``"representative"``.
        prompts: Folder ``prompts`` of an earlier benchmark whose lists are used instead.
        pixel_metrics: Whether maps are measured, where there are masks.
        batch_size: Images encoded at a time.
        num_workers: Processes that read images, for each worker.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        workers: Processes on this machine that categories are spread over, and over its GPUs.
        ray: Spread categories over machines by Ray instead.
    """

    output: Path
    title: str = "Generalist benchmark"
    paths: dict[str, str] = {}
    models: Annotated[dict[str, ModelConfig], Field(min_length=1)]
    targets: Annotated[dict[str, DataSource], Field(min_length=1)]
    k_shots: Annotated[list[NonNegativeInt], Field(min_length=1)] = [1, 2, 4, 8]
    seeds: Annotated[list[int], Field(min_length=1)] = [0, 1, 2]
    prompt_selection: str = "random"
    prompts: Path | None = None
    pixel_metrics: bool = True
    batch_size: PositiveInt = 16
    num_workers: NonNegativeInt = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: PositiveInt = 1
    ray: RayConfig | None = None

    @model_validator(mode="after")
    def _check(self) -> BenchmarkConfig:
        for name, values in (("k_shots", self.k_shots), ("seeds", self.seeds)):
            if len(set(values)) != len(values):
                msg = f"{name}={values}: a value is given twice."
                raise ValueError(msg)
        if self.prompt_selection not in SELECTORS:
            msg = f"prompt_selection={self.prompt_selection!r}: choose one of {sorted(SELECTORS)}."
            raise ValueError(msg)
        if self.prompt_selection == "representative" and not all(model.ours for model in self.models.values()):
            msg = "prompt_selection='representative' needs InCTRL's backbone; give other models lists by prompts."
            raise ValueError(msg)
        for name, model in self.models.items():
            if isinstance(model.weights, Mapping) and (absent := sorted(set(self.targets) - set(model.weights))):
                msg = f"models.{name}.weights: none for the targets {', '.join(absent)}. Give one for each."
                raise ValueError(msg)
        return self

    def settings(self, model: str) -> list[tuple[int | None, int]]:
        """K and seed of every row that a category has of a model; K is None where it does not matter."""
        entry = self.models[model]
        if not entry.ours and entry.train_on == "all":
            return [(None, seed) for seed in self.seeds]
        zero_shot = "k_shot" in inspect.signature(entry.load_class()).parameters
        return [(k, seed) for k in sorted(self.k_shots) if k or zero_shot for seed in sorted(self.seeds)]

    def identity(self) -> dict[str, dict[str, Any]]:
        """What the values of finished rows depend on: by model, weights of a model and target, the values by key.

        They are plain data, as JSON gives them back. A :class:`PretrainedWeightsError` is raised if a file of weights
        does not exist.
        """
        content = cache(weights_content)
        found: dict[str, Any] = {"rules": self.model_dump(include={"prompt_selection", "pixel_metrics", "prompts"})}
        for name, target in self.targets.items():
            found[f"targets.{name}"] = dataclasses.asdict(target) | {"categories": None}
        for name, model in self.models.items():
            found[f"models.{name}"] = entry = model.model_dump(exclude={"weights"})
            tag = model.init_args.get("pretrained")
            if isinstance(tag, str) and (file := weights_file(str(model.init_args.get("backbone")), tag)):
                entry["init_args"]["pretrained"] = content(str(file))
            for target_name in self.targets:
                found[f"models.{name}.weights.{target_name}"] = content(model.weights_for(target_name))
        leaves = {entry: _leaves(values) for entry, values in found.items()}
        # With sorted keys, since lists of mappings are compared as text.
        return dict(json.loads(json.dumps(leaves, sort_keys=True, default=str)))


def read_config(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> BenchmarkConfig:
    """Read and check a config.

    Args:
        source: YAML file, or its content.
        overrides: Settings to replace, such as ``workers=4`` or ``paths.data=/data``.

    Returns:
        The config.

    Raises:
        BenchmarkError: If the file cannot be read, or does not hold; the message names the key.
    """
    where = str(source) if isinstance(source, (str, Path)) else "The config"
    try:
        loaded = OmegaConf.load(source) if isinstance(source, (str, Path)) else OmegaConf.create(dict(source))
        merged = OmegaConf.merge(loaded, OmegaConf.from_dotlist(list(overrides)))
        content = OmegaConf.to_container(merged, resolve=True)
    # OmegaConf's own errors, and those it does not catch for a file of one word, a list, or endless nesting.
    except (OmegaConfBaseException, yaml.YAMLError, OSError, RecursionError, TypeError, ValueError) as error:
        msg = f"{where} cannot be read as a config: {error}"
        raise BenchmarkError(msg) from error
    try:
        return BenchmarkConfig.model_validate(content)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, item['loc'])) or 'config'}: {item['msg']}" for item in error.errors()]
        msg = "\n".join([f"{where} does not fit:", *lines])
        raise BenchmarkError(msg) from error


def changes(old: Mapping[str, Mapping[str, Any]], new: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each difference between two :meth:`BenchmarkConfig.identity`; added and removed entries are none."""
    lines = []
    for entry in sorted(old.keys() & new.keys()):
        for key in sorted(old[entry].keys() | new[entry].keys()):
            # None differs from a value left to its default.
            was, now = (repr(leaves[entry][key]) if key in leaves[entry] else "not given" for leaves in (old, new))
            if was != now:
                lines.append(f"{entry}.{key}: was {was}, is {now}" if key else f"{entry}: was {was}, is {now}")
    return lines


def weights_content(path: str | None) -> Any:
    """Identify weights: a training config by its content, another file by its hash; None for none."""
    if path is None:
        return None
    if not Path(path).is_file():
        msg = f"weights={path}: no such file. Give a checkpoint, or a training config that makes one."
        raise PretrainedWeightsError(msg)
    if Path(path).suffix in TRAINING_CONFIGS:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    return f"sha256:{file_sha256(path)[:16]}"


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {path: value}
    found: dict[str, Any] = {}
    for name, inner in value.items():
        found |= _leaves(inner, f"{path}.{name}" if path else str(name))
    return found
