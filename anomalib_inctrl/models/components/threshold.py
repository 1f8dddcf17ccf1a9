# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The threshold of a run that the user gave, as a number or by ``"auto"`` from normal images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from anomalib_inctrl.errors import ArgumentError, PromptError
from anomalib_inctrl.io.inputs import list_inputs
from anomalib_inctrl.models.components.conformal import check_threshold, conformal_threshold, p_value, smallest_rate
from anomalib_inctrl.models.components.few_shot_model import FewShotModel
from anomalib_inctrl.models.components.post_processor import FewShotPostProcessor
from anomalib_inctrl.models.components.prompt_collector import read_images
from anomalib_inctrl.models.components.score_components import ScoreComponents


class GivenThreshold:
    """Gives a model's post-processor the threshold that its arguments ask for.

    Args:
        settings: The model's arguments, of which ``threshold``, ``false_alarm_rate`` and ``calibration`` are used.

    Raises:
        ValueError: If one of them has an invalid value, or no effect.
        ImageFileError: If the calibration images do not exist.

    Attributes:
        normal_components: Scores and maps ``(n, P)`` of the normal images that ``"auto"`` is computed from; None until
            then.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._source: tuple[Any, ...] = ()
        self.normal_components: ScoreComponents | None = None
        threshold, calibration = settings["threshold"], settings["calibration"]
        check_threshold(threshold, settings["false_alarm_rate"])
        if calibration is not None and threshold != "auto":
            msg = f"calibration has no effect with threshold={threshold!r}: give threshold='auto'."
            raise ArgumentError(msg)
        if calibration is not None:
            list_inputs(calibration, "calibration")

    def set(
        self, model: FewShotModel, step: int, transform: Callable[[Tensor], Tensor] | None, post_processor: object
    ) -> None:
        """Set the threshold; with ``"auto"`` normal images are scored, unless prompts and heads are those of before.

        Args:
            model: The model, its prompts set.
            step: Number of training steps that its heads have had.
            transform: Preprocessing of images.
            post_processor: Where the threshold goes.

        Raises:
            ValueError: If the post-processor is not the model's own.
            PromptError: If ``"auto"`` has prompts of several classes, or too few normal images.
        """
        threshold, rate = self._settings["threshold"], self._settings["false_alarm_rate"]
        if threshold is None:
            return
        if not isinstance(post_processor, FewShotPostProcessor):
            msg = (
                f"threshold={threshold!r} needs the model's own post_processor, found {type(post_processor).__name__}."
            )
            raise ValueError(msg)
        if threshold != "auto":
            post_processor.set_thresholds(threshold, None)
            return
        names = model.bank.class_names
        if len(names) != 1:
            msg = (
                f"threshold='auto' is computed for one class, found {names}: run each class by itself, or use Detector."
            )
            raise PromptError(msg)
        source = (step, *model.bank.files[names[0]])
        if self.normal_components is None or self._source != source:
            self.normal_components, self._source = self._score_normal(model, names[0], transform), source
        normal = self.normal_components
        image = conformal_threshold(normal.score.tolist(), rate)
        post_processor.set_thresholds(image, conformal_threshold(normal.anomaly_map.amax(dim=-1).tolist(), rate))
        rank_zero_info(
            f"Threshold {image:.4g} from {len(normal.score)} normal images: at most "
            f"{rate or smallest_rate(len(normal.score)):.0%} of normal images are expected above it."
        )

    def p_values(self, scores: Tensor) -> Tensor | None:
        """P-values ``(B,)`` of scores ``(B,)``; None without ``"auto"``."""
        if self.normal_components is None:
            return None
        normal = self.normal_components.score.tolist()
        return torch.tensor([p_value(score, normal) for score in scores.tolist()])

    def _score_normal(
        self, model: FewShotModel, class_name: str, transform: Callable[[Tensor], Tensor] | None
    ) -> ScoreComponents:
        """Score calibration images against the prompts, or without any each prompt against the others."""
        calibration = self._settings["calibration"]
        files = model.bank.files[class_name]
        if calibration is not None:
            files = [item.name for item in list_inputs(calibration, "calibration")]
        elif len(files) < 2:
            msg = (
                f"threshold='auto' compares each prompt with the others, and {class_name!r} has {len(files)} that are "
                "files. Give two or more prompts, or normal images to calibrate with: --model.calibration FOLDER."
            )
            raise PromptError(msg)
        images = read_images(files, transform).to(model.backbone.device)
        with torch.no_grad():
            if calibration is None:
                return model.held_out(images, class_name)
            parts = [model.score_components(image, class_name) for image in images.split(1)]
            return ScoreComponents.merge(parts, [[row] for row in range(len(parts))])
