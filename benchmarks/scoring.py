# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Scores of unseen categories and their metrics, on raw scores."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from features import EncodedDataset, Encoder
from torch import Tensor
from torch.nn import functional as F

from anomalib_inctrl.backbones import ImageFeatures
from anomalib_inctrl.benchmark.metrics import PixelTruth, image_metrics
from anomalib_inctrl.models.components.prompt_bank import PromptContext
from anomalib_inctrl.models.components.residuals import nearest_prompt_similarity, unit
from anomalib_inctrl.models.components.score_components import ScoreComponents
from anomalib_inctrl.prompts.selection import create_selector

# By the names of this table those of the benchmark.
_SOURCES = {
    "image_AUROC": "image_AUROC",
    "image_AP": "image_AUPR",
    "pixel_AUROC": "pixel_AUROC",
    "pixel_AP": "pixel_AUPR",
    "AUPRO": "pixel_AUPRO",
}
METRICS = tuple(_SOURCES)


class UnseenCategories:
    """Test images of categories that were not trained on, with the prompts of each seed.

    Args:
        encoder: The backbone.
        encoded: The test images.
        candidates: By class name the images that prompts may be chosen from.
        k_shot: Prompts of each class.
        pixel_stride: Pixel metrics are taken on every such row and column of maps and masks at full size.
    """

    def __init__(
        self,
        encoder: Encoder,
        encoded: EncodedDataset,
        candidates: Mapping[str, Sequence[Path]],
        k_shot: int,
        pixel_stride: int = 1,
    ) -> None:
        self.encoder = encoder
        self.encoded = encoded
        self.candidates = candidates
        self.k_shot = k_shot
        self.stride = pixel_stride
        self._contexts: dict[tuple[str, int, int], PromptContext] = {}
        self._truths: dict[str, PixelTruth] = {}
        self._pixel_metrics: dict[tuple[str, str], dict[str, float]] = {}

    @property
    def class_names(self) -> list[str]:
        """The categories, sorted."""
        return sorted(self.candidates)

    def score(self, model: Any, class_name: str, seed: int) -> ScoreComponents:
        """Score the test images of a category by a model in evaluation mode.

        Args:
            model: PyTorch model on the encoder's backbone.
            class_name: The category.
            seed: Decides the prompts, as it does in the Lightning model.

        Returns:
            Scores and their components.
        """
        query = self.encoded.features.rows(self.encoded.rows_of(class_name))
        with torch.no_grad():
            context = self._context(class_name, seed, model.prompt_shifts, query)
            components: ScoreComponents = model.eval().score_features(query, context)
        return components

    def measure(self, class_name: str, score: Tensor, anomaly_map: Tensor) -> dict[str, float]:
        """Take the metrics of a category.

        Args:
            class_name: The category.
            score: Scores of its images ``(B,)``.
            anomaly_map: Maps on the patch grid ``(B, P)``.

        Returns:
            Values by the names in :data:`METRICS`.
        """
        rows = self.encoded.rows_of(class_name)
        found = image_metrics(score, self.encoded.labels[rows].bool())
        # Many rows differ in the image score alone.
        key = (class_name, hashlib.sha256(anomaly_map.numpy().tobytes()).hexdigest())
        if key not in self._pixel_metrics:
            size = self.encoder.backbone.image_size
            grid = anomaly_map.unflatten(-1, self.encoder.backbone.grid).unsqueeze(1)
            maps = F.interpolate(grid, size=size, mode="bilinear", align_corners=False).squeeze(1)
            self._pixel_metrics[key] = self._truth(class_name).measure(maps[:, :: self.stride, :: self.stride])
        found |= self._pixel_metrics[key]
        return {name: found[_SOURCES[name]] for name in METRICS}

    def _truth(self, class_name: str) -> PixelTruth:
        if class_name not in self._truths:
            masks = self.encoded.masks[self.encoded.rows_of(class_name)]
            self._truths[class_name] = PixelTruth(masks[:, :: self.stride, :: self.stride])
        return self._truths[class_name]

    def _context(self, class_name: str, seed: int, shifts: int, query: ImageFeatures) -> PromptContext:
        key = class_name, seed, shifts
        if key not in self._contexts:
            paths = create_selector("random", seed).select(
                self.candidates[class_name], self.k_shot, lambda files: self.encoder.encode_files(files).image
            )
            prompts = self.encoder.encode_files(paths, shifts)
            cosines = nearest_prompt_similarity(unit(query.patches), unit(prompts.patches))
            self._contexts[key] = PromptContext(
                prompts.patches[:0], prompts.embedding, self.encoder.backbone.text_prototypes(class_name), cosines
            )
        return self._contexts[key]
