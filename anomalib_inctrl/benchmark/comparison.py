# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Measures any other anomalib model on a category, setting by setting through anomalib's engine.

The model is trained on the same prompts. Scores and maps are those of the model, before anomalib's post-processor
shifts and clamps them.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from anomalib.engine import Engine
from lightning import seed_everything
from lightning.pytorch import Callback
from torch import Tensor

from anomalib_inctrl.benchmark.measurement import CategoryResult, GroundTruth, Setting
from anomalib_inctrl.data.sources import DataSource, build_datamodules, prepare
from anomalib_inctrl.errors import BenchmarkError

if TYPE_CHECKING:
    from anomalib.data import AnomalibDataModule

    from anomalib_inctrl.benchmark.config import ModelConfig


class RawOutputs(Callback):
    """Collects a model's scores and maps of the test images with their labels and masks.

    Attributes:
        paths: Image files.
        scores: By batch scores ``(B,)``.
        maps: By batch maps ``(B, H, W)``; empty if the model makes none.
        labels: By batch ``(B,)`` bool, whether abnormal.
        masks: By batch masks ``(B, H, W)`` bool; empty if there are none.
    """

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.scores: list[Tensor] = []
        self.maps: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.masks: list[Tensor] = []

    def on_test_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Collect a batch."""
        del trainer, pl_module, batch_idx, dataloader_idx
        found = batch if outputs is None else outputs
        anomaly_map = None if found.anomaly_map is None else _plain(found.anomaly_map).flatten(0, -3)
        # As anomalib's post-processor does where a model gives a map alone.
        by_map = found.pred_score is None and anomaly_map is not None
        score = anomaly_map.flatten(1).amax(dim=1) if by_map else _plain(found.pred_score).flatten()  # type: ignore[union-attr]
        self.paths += found.image_path
        self.scores.append(score)
        self.labels.append(_plain(found.gt_label).bool().flatten())
        if anomaly_map is not None:
            self.maps.append(anomaly_map)
        if found.gt_mask is not None:
            self.masks.append(_plain(found.gt_mask).bool().flatten(0, -3))


def _plain(values: Tensor) -> Tensor:
    return values.detach().as_subclass(Tensor).cpu()


def measure_setting(
    name: str,
    model: ModelConfig,
    source: DataSource,
    setting: Setting,
    prompts: Sequence[Path] | None,
    where: str,
    *,
    device: str = "cpu",
    pixel_metrics: bool = True,
) -> CategoryResult:
    """Train and test a model on one category.

    Args:
        name: Name of the model.
        model: Class and arguments.
        source: The category, alone.
        setting: K and seed.
        prompts: Images to train on; None for the whole train split.
        where: Name of the category, for errors.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        pixel_metrics: Whether maps are measured.

    Returns:
        One row, its scores and its prompts.

    Raises:
        BenchmarkError: If a prompt is not in the train split, or a score is not finite.
        DatasetError: If the test images all have one label.
    """
    k_shot, seed = setting
    start = time.perf_counter()
    ((class_name, datamodule),) = build_datamodules([source], where).items()
    prepare(datamodule)
    if prompts:
        _train_only_on(datamodule, prompts)
    seed_everything(seed, verbose=False)
    module = _build(model, k_shot, class_name)
    raw = RawOutputs()
    accelerator, _, number = device.partition(":")
    with TemporaryDirectory() as folder:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "callbacks": [raw]}
        engine = Engine(
            default_root_dir=folder,
            accelerator=accelerator,
            devices=[int(number)] if number else 1,
            **quiet | model.trainer,  # type: ignore[arg-type]
        )
        engine.fit(module, datamodule=datamodule)
        trained = time.perf_counter()
        engine.test(module, datamodule=datamodule, verbose=False)
    scores, labels = torch.cat(raw.scores), torch.cat(raw.labels)
    maps = torch.cat(raw.maps) if raw.maps and raw.masks and pixel_metrics else None
    known = torch.full((len(scores),), fill_value=maps is not None)
    truth = GroundTruth(raw.paths, labels, torch.cat(raw.masks) if maps is not None else None, known, where)
    row = {"model": name, "k_shot": k_shot, "seed": seed} | truth.measure(scores, maps) | truth.counts()
    row |= {"pass_seconds": trained - start, "setting_seconds": time.perf_counter() - trained}
    lists = {} if k_shot is None else {setting: [str(path) for path in prompts or []]}
    return CategoryResult([row], {name: truth.score_rows(setting, scores)}, lists)


def _build(model: ModelConfig, k_shot: int | None, class_name: str) -> Any:
    cls: Any = model.load_class()
    known = inspect.signature(cls).parameters
    offered = {"k_shot": k_shot, "class_name": class_name}
    module = cls(**model.init_args, **{name: value for name, value in offered.items() if name in known})
    # Set here because not every model takes them as arguments.
    module.post_processor = module.evaluator = module.visualizer = None
    return module


def _train_only_on(datamodule: AnomalibDataModule, images: Sequence[Path]) -> None:
    chosen = {str(path) for path in images}
    full_setup = datamodule._setup

    def setup(_stage: str | None = None) -> None:
        full_setup(_stage)
        paths = [str(path) for path in datamodule.train_data.samples["image_path"]]
        if missing := sorted(chosen.difference(paths)):
            msg = f"{missing[0]}: this prompt is not in the train split, which the model is trained on."
            raise BenchmarkError(msg)
        datamodule.train_data.subsample([row for row, path in enumerate(paths) if path in chosen], inplace=True)

    datamodule._setup = setup  # type: ignore[method-assign]
