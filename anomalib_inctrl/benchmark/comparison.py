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
from typing import Any

import torch
from anomalib.data import AnomalibDataModule
from anomalib.engine import Engine
from lightning import seed_everything
from lightning.pytorch import Callback
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from anomalib_inctrl.benchmark.config import ModelConfig
from anomalib_inctrl.benchmark.metrics import CategoryResult, GroundTruth, Setting
from anomalib_inctrl.errors import BenchmarkError


class _RawOutputs(Callback):
    """Collects paths, scores and labels ``(B,)``, maps and masks ``(B, H, W)`` of the test images, by batch."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.parts: dict[str, list[Tensor]] = {"pred_score": [], "gt_label": [], "anomaly_map": [], "gt_mask": []}

    def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        """Collect a batch."""
        del trainer, pl_module
        if outputs.pred_score is None:  # as anomalib's post-processor does where a model gives a map alone
            outputs.pred_score = outputs.anomaly_map.flatten(1).amax(dim=1)
        self.paths += outputs.image_path
        for name, found in self.parts.items():
            values = getattr(outputs, name)
            if values is not None:
                plain = values.detach().as_subclass(Tensor).cpu()
                found.append(plain.flatten() if name in {"pred_score", "gt_label"} else plain.flatten(0, -3))


def measure_setting(
    name: str,
    model: ModelConfig,
    datamodule: AnomalibDataModule,
    setting: Setting,
    prompts: Sequence[Path] | None,
    *,
    class_name: str,
    where: str,
    device: str = "cpu",
    pixel_metrics: bool = True,
) -> CategoryResult:
    """Train and test a model on one category.

    Args:
        name: Name of the model.
        model: Class and arguments.
        datamodule: The category, set up; its train split is reduced to the prompts.
        setting: K and seed.
        prompts: Images to train on; None for the whole train split.
        class_name: Name of the object in the images.
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
    if prompts:
        datamodule.setup(TrainerFn.FITTING)  # without a stage it would be set up again, by the trainer
        rows = {str(path): row for row, path in enumerate(datamodule.train_data.samples["image_path"])}
        chosen = sorted(str(path) for path in prompts)
        if missing := [path for path in chosen if path not in rows]:
            msg = f"{missing[0]}: this prompt is not in the train split, which the model is trained on."
            raise BenchmarkError(msg)
        datamodule.train_data.subsample(sorted(rows[path] for path in chosen), inplace=True)
    seed_everything(seed, verbose=False)
    cls: Any = model.load_class()
    offered = {"k_shot": k_shot, "class_name": class_name}
    taken = offered.keys() & inspect.signature(cls).parameters.keys()
    module = cls(**model.init_args, **{argument: offered[argument] for argument in taken})
    # Set here because not every model takes them as arguments.
    module.post_processor = module.evaluator = module.visualizer = None
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
    has_maps = bool(pixel_metrics and raw.parts["anomaly_map"] and raw.parts["gt_mask"])
    scores, labels = (torch.cat(raw.parts[kind]) for kind in ("pred_score", "gt_label"))
    maps, masks = (torch.cat(raw.parts[kind]) if has_maps else None for kind in ("anomaly_map", "gt_mask"))
    truth = GroundTruth(raw.paths, labels, masks, torch.full((len(scores),), fill_value=has_maps), where)
    result = CategoryResult(prompts={} if k_shot is None else {setting: [str(path) for path in prompts or []]})
    seconds = {"pass_seconds": trained - start, "setting_seconds": time.perf_counter() - trained}
    truth.add(result, name, setting, scores, maps, **seconds)
    return result
