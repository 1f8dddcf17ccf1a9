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


class _RawOutputs(Callback):
    """Collects paths, scores and labels ``(B,)``, maps and masks ``(B, H, W)`` of the test images, by batch."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.parts: dict[str, list[Tensor]] = {"score": [], "label": [], "map": [], "mask": []}

    def on_test_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Collect a batch."""
        del trainer, pl_module, batch_idx, dataloader_idx
        found = batch if outputs is None else outputs
        score = found.pred_score
        if score is None:  # as anomalib's post-processor does where a model gives a map alone
            score = found.anomaly_map.flatten(1).amax(dim=1)
        self.paths += found.image_path
        kinds = {"score": score, "label": found.gt_label, "map": found.anomaly_map, "mask": found.gt_mask}
        for kind, values in kinds.items():
            if values is not None:
                plain = values.detach().as_subclass(Tensor).cpu()
                self.parts[kind].append(plain.flatten() if kind in {"score", "label"} else plain.flatten(0, -3))


def measure_setting(
    name: str,
    model: ModelConfig,
    source: DataSource,
    setting: Setting,
    prompts: Sequence[Path] | None,
    *,
    where: str,
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
    raw = _RawOutputs()
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
    has_maps = bool(pixel_metrics and raw.parts["map"] and raw.parts["mask"])
    scores, labels = (torch.cat(raw.parts[kind]) for kind in ("score", "label"))
    maps, masks = (torch.cat(raw.parts[kind]) if has_maps else None for kind in ("map", "mask"))
    truth = GroundTruth(raw.paths, labels, masks, torch.full((len(scores),), fill_value=has_maps), where)
    result = CategoryResult(prompts={} if k_shot is None else {setting: [str(path) for path in prompts or []]})
    seconds = {"pass_seconds": trained - start, "setting_seconds": time.perf_counter() - trained}
    truth.add(result, name, setting, scores, maps, **seconds)
    return result


def _build(model: ModelConfig, k_shot: int | None, class_name: str) -> Any:
    cls: Any = model.load_class()
    offered = {"k_shot": k_shot, "class_name": class_name}
    taken = offered.keys() & inspect.signature(cls).parameters.keys()
    module = cls(**model.init_args, **{name: offered[name] for name in taken})
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
