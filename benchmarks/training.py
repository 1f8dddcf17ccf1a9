# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Training of the shipped models on encoded images; parts that several rows share are trained once."""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from features import Encoder, TrainingTable
from torch import nn

from anomalib_inctrl import InCTRL, InCTRLv2
from anomalib_inctrl.data.dataset import GeneralistDataset
from anomalib_inctrl.data.sampler import BalancedSampler

MODELS: dict[str, type[InCTRL | InCTRLv2]] = {"InCTRL": InCTRL, "InCTRLv2": InCTRLv2}

# The trained parts of InCTRLv2, the loss that trains each, and options that have no say in it. While the residual map
# is scored, no loss reaches two parts.
_PARTS = {"image_scorer": "image", "dasl_branch": "pixel", "oasl_branch": "one_class"}
_BRANCH_OPTIONS = {"temperature_patch", "adapter_per_block", "empty_mask", "pixel_weight", "one_class_weight"}
_IMAGE_OPTIONS = {"use_text", "use_image", "residual", "residual_scale", "alpha", "temperature_image", "image_weight"}
_SWITCHES = {"use_dasl", "use_oasl", "pixel_losses", "beta", "prompt_shifts"}
_NO_SAY = {
    "image_scorer": _BRANCH_OPTIONS | _SWITCHES,
    "dasl_branch": _IMAGE_OPTIONS | _SWITCHES | {"one_class_weight"},
    "oasl_branch": _IMAGE_OPTIONS | _SWITCHES | {"pixel_weight"},
}


@dataclass(frozen=True)
class Schedule:
    """How long and on what batches is trained.

    Attributes:
        steps: Steps of the optimizer.
        batch_size: Balanced queries a step; half as many normal ones come on top for a one-class branch.
        k_shot: Prompts of each query.
    """

    steps: int
    batch_size: int
    k_shot: int


@dataclass
class Trainer:
    """Trains models and remembers their parts.

    Attributes:
        encoder: Backbone that all models share.
        dataset: Training images, for the sampler.
        table: The same, encoded.
        schedule: How long and on what batches.
    """

    encoder: Encoder
    dataset: GeneralistDataset
    table: TrainingTable
    schedule: Schedule
    _parts: dict[str, tuple[nn.Module, dict[str, list[float]]]] = field(default_factory=dict)

    def build(self, name: str, options: Mapping[str, Any], seed: int) -> Any:
        """Create a Lightning model around the shared backbone.

        Args:
            name: ``InCTRL`` or ``InCTRLv2``.
            options: Arguments of the model.
            seed: Decides the first weights.

        Returns:
            The model, untrained.
        """
        stages = dict.fromkeys(("pre_processor", "post_processor", "evaluator", "visualizer"), False)
        module = MODELS[name](pretrained=None, seed=seed, **stages, **options)
        module.hparams["backbone"] = self.encoder.backbone.network
        module.hparams["layers"] = list(self.encoder.backbone.blocks)
        # One backbone for all of them keeps the text prototypes it has encoded.
        module.model.backbone = self.encoder.backbone
        return module

    def train(self, name: str, options: Mapping[str, Any], seed: int) -> tuple[Any, dict[str, list[float]]]:
        """Build and train a model.

        Args:
            name: ``InCTRL`` or ``InCTRLv2``.
            options: Arguments of the model.
            seed: Decides first weights and batches.

        Returns:
            The trained model, and the course of each loss term over the steps.
        """
        module = self.build(name, options, seed)
        shared = name == "InCTRLv2" and module.hparams["score_map"] == "residual"
        if not shared:
            return module, self._fit(module, seed)
        self._start_branches_alike(module, options, seed)
        parts = {part: getattr(module.model, part) for part in _PARTS if getattr(module.model, part) is not None}
        keys = {part: _key(part, options, seed) for part in parts}
        for part, key in keys.items():
            if key in self._parts:
                setattr(module.model, part, None)
        missing = [part for part, key in keys.items() if key not in self._parts]
        if missing:
            losses = self._fit(module, seed)
            for part in missing:
                own = {term: course for term, course in losses.items() if term.startswith(_PARTS[part])}
                self._parts[keys[part]] = copy.deepcopy(parts[part]), own
        module.model.heads_trained = True
        courses = {}
        for part, key in keys.items():
            trained, course = self._parts[key]
            setattr(module.model, part, trained)
            courses |= course
        return module, courses

    def _start_branches_alike(self, module: Any, options: Mapping[str, Any], seed: int) -> None:
        """Give the branches the first weights they have in the complete model: rows differ in one thing only."""
        everything = {"use_image": True, "residual": "residual", "use_dasl": True, "use_oasl": True}
        complete = self.build("InCTRLv2", {**options, **everything, "pixel_losses": True}, seed).model
        for part in ("dasl_branch", "oasl_branch"):
            if getattr(module.model, part) is not None:
                getattr(module.model, part).load_state_dict(getattr(complete, part).state_dict())

    def _fit(self, module: Any, seed: int) -> dict[str, list[float]]:
        """Train all parts that are in place; see :meth:`train`."""
        model, schedule = module.model.train(), self.schedule
        sampler = BalancedSampler(
            self.dataset,
            schedule.batch_size,
            steps_per_epoch=schedule.steps,
            k_shot=schedule.k_shot,
            one_class_batch_size=schedule.batch_size // 2 if getattr(model, "oasl_branch", None) is not None else 0,
            seed=seed,
        )
        optimizer = module.configure_optimizers()
        courses: dict[str, list[float]] = defaultdict(list)
        draws = iter(sampler)
        with self.table.replace_backbone_of(model):
            for _ in range(schedule.steps):
                losses = module.training_losses(self.table.batch(list(islice(draws, sampler.draws_per_step))))
                optimizer.zero_grad()
                torch.stack(list(losses.values())).sum().backward()
                optimizer.step()
                for term, value in losses.items():
                    courses[term].append(float(value.detach()))
        return dict(courses)


def _key(part: str, options: Mapping[str, Any], seed: int) -> str:
    kept = {name: value for name, value in options.items() if name not in _NO_SAY[part]}
    return json.dumps([part, kept, seed], sort_keys=True)
