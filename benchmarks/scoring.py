# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Scores of unseen categories and their metrics, on raw scores."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from anomalib.metrics import AUPRO
from features import EncodedDataset, Encoder, cosines_in_contexts
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from anomalib_inctrl.backbone import ImageFeatures
from anomalib_inctrl.models.components.terms import ScoreTerms
from anomalib_inctrl.prompts.bank import PromptContext
from anomalib_inctrl.prompts.selection import create_selector
from anomalib_inctrl.residuals import nearest_prompt_similarity, unit

METRICS = ("image_AUROC", "image_AP", "pixel_AUROC", "pixel_AP", "AUPRO")


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
        self._contexts: dict[tuple[str, int], PromptContext] = {}
        self._pixel_metrics: dict[tuple[str, str], dict[str, float]] = {}

    @property
    def class_names(self) -> list[str]:
        """The categories, sorted."""
        return sorted(self.candidates)

    def score(self, model: Any, class_name: str, seed: int) -> ScoreTerms:
        """Score the test images of a category by a model in evaluation mode.

        Args:
            model: PyTorch model on the encoder's backbone.
            class_name: The category.
            seed: Decides the prompts, as it does in the Lightning model.

        Returns:
            Scores and their terms.
        """
        query = self.encoded.features.rows(self.encoded.rows_of(class_name))
        with torch.no_grad(), cosines_in_contexts():
            terms: ScoreTerms = model.eval().score_features(query, self._context(class_name, seed, query))
        return terms

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
        labels = self.encoded.labels[rows].numpy()
        image = {
            "image_AUROC": float(roc_auc_score(labels, score.double().numpy())),
            "image_AP": float(average_precision_score(labels, score.double().numpy())),
        }
        # Many rows differ in the image score alone.
        key = (class_name, hashlib.sha256(anomaly_map.numpy().tobytes()).hexdigest())
        if key not in self._pixel_metrics:
            size = self.encoder.backbone.image_size
            grid = anomaly_map.unflatten(-1, self.encoder.backbone.grid).unsqueeze(1)
            maps = F.interpolate(grid, size=size, mode="bilinear", align_corners=False).squeeze(1)
            masks = self.encoded.masks[rows]
            self._pixel_metrics[key] = pixel_metrics(
                maps[:, :: self.stride, :: self.stride], masks[:, :: self.stride, :: self.stride]
            )
        return image | self._pixel_metrics[key]

    def _context(self, class_name: str, seed: int, query: ImageFeatures) -> PromptContext:
        if (class_name, seed) not in self._contexts:
            paths = create_selector("random", seed).select(
                self.candidates[class_name], self.k_shot, lambda files: self.encoder.encode_files(files).image
            )
            prompts = self.encoder.encode_files(paths)
            cosines = nearest_prompt_similarity(unit(query.patches), unit(prompts.patches))
            self._contexts[class_name, seed] = PromptContext(
                cosines, prompts.image, self.encoder.backbone.text_prototypes(class_name)
            )
        return self._contexts[class_name, seed]


def pixel_metrics(maps: Tensor, masks: Tensor) -> dict[str, float]:
    """Pixel AUROC and average precision, and AUPRO up to a false-positive rate of 0.3.

    AUROC and average precision are scikit-learn's, on values rounded to half precision, of which there are few enough
    to count.

    Args:
        maps: ``(B, H, W)`` in [0, 1].
        masks: ``(B, H, W)`` bool.

    Returns:
        ``pixel_AUROC``, ``pixel_AP`` and ``AUPRO``.
    """
    aupro = AUPRO(fields=("maps", "masks"))
    aupro.update(SimpleNamespace(maps=maps.contiguous(), masks=masks.contiguous().int()))  # type: ignore[arg-type]
    # Half-precision numbers that are not negative are ordered as their bits are.
    bits = maps.numpy().astype(np.float16).view(np.uint16)
    truth = masks.numpy()
    counts = [np.bincount(bits[chosen], minlength=1 << 15) for chosen in (truth, ~truth)]
    levels = np.flatnonzero(counts[0] + counts[1])
    label = np.repeat([1, 0], len(levels))
    score = np.tile(levels, 2)
    weight = np.concatenate([count[levels] for count in counts])
    return {
        "pixel_AUROC": float(roc_auc_score(label, score, sample_weight=weight)),
        "pixel_AP": float(average_precision_score(label, score, sample_weight=weight)),
        "AUPRO": float(aupro.compute()),
    }
