# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The protocol's metrics of one category: exact, in double precision, and cheap enough to take for every setting.

They are those of scikit-learn (AUROC, average precision) and of anomalib (AUPRO), with which the tests compare them.
They stand here because the libraries take 6.5 s of a core for the 115 maps of a mean category of MVTec AD where these
take 0.2 s: for twelve settings that is more than encoding the images takes. Only the normal pixels, nearly all there
are, get sorted, and what depends on the masks alone is computed once for all settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from anomalib.metrics.pro import connected_components_cpu
from torch import Tensor

from anomalib_inctrl.errors import BenchmarkError, DatasetError

# Named as anomalib's evaluator names them.
METRICS = {
    "image_AUROC": "image AUROC",
    "image_AUPR": "image AP",
    "pixel_AUROC": "pixel AUROC",
    "pixel_AUPR": "pixel AP",
    "pixel_AUPRO": "AUPRO",
}
"""Columns of the results with their titles."""
FPR_LIMIT = 0.3

Setting = tuple[int | None, int]
"""K and seed; K is None for a model that saw all normal images."""


@dataclass
class CategoryResult:
    """Table rows of a category with their details: plain data that travel between processes.

    Attributes:
        rows: Rows of the results table.
        scores: By model the rows of its score table: ``k_shot``, ``seed``, ``image_path``, ``abnormal``, ``score``.
        prompts: By setting the prompts' paths.
        failures: One message for each setting that could not be measured.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    prompts: dict[Setting, list[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


class GroundTruth:
    """Labels and masks of the test images of a category.

    Args:
        paths: ``N`` image files.
        abnormal: ``(N,)`` bool.
        masks: ``(M, H, W)`` bool of the images whose mask is known; None to measure no maps.
        mask_known: ``(N,)`` bool, ``M`` of them true.
        where: Name of the category, for errors.

    Raises:
        DatasetError: If the images are all normal or all abnormal, so that no metric exists.
    """

    def __init__(
        self, paths: Sequence[str], abnormal: Tensor, masks: Tensor | None, mask_known: Tensor, where: str
    ) -> None:
        self.paths, self.abnormal, self.mask_known, self.where = paths, abnormal.bool(), mask_known, where
        self.masks = masks if masks is not None and len(masks) else None
        self.weights = None if self.masks is None else region_weights(self.masks)
        normal, count = int((~self.abnormal).sum()), int(self.abnormal.sum())
        if not normal or not count:
            msg = (
                f"{where}: the test images all have one label ({normal} normal, {count} abnormal), so no metric "
                "exists. Complete the category, or leave it out."
            )
            raise DatasetError(msg)
        self.counts = {"normal": normal, "abnormal": count, "masks": 0 if self.masks is None else len(self.masks)}

    def add(
        self,
        result: CategoryResult,
        model: str,
        setting: Setting,
        scores: Tensor,
        maps: Tensor | None,
        **seconds: float,
    ) -> None:
        """Measure the raw scores and maps of one setting, and add its row and scores to a result.

        Args:
            result: Gets the row and the scores.
            model: Name of the model.
            setting: K and seed.
            scores: ``(N,)``.
            maps: ``(N, H, W)`` of the masks' size; None to leave the pixel metrics out.
            seconds: Further columns of the row.

        Raises:
            BenchmarkError: If a score or map is not finite.
        """
        for name, values in (("score", scores), ("anomaly map", maps)):
            if values is not None and not bool((finite := values.isfinite().reshape(len(values), -1).all(dim=1)).all()):
                path = self.paths[int((~finite).nonzero()[0])]
                msg = f"{self.where}: the {name} of {path} is not finite. Check the model's weights."
                raise BenchmarkError(msg)
        metrics = {f"image_{key}": value for key, value in rank_metrics(scores.cpu(), self.abnormal).items()}
        if maps is not None and self.masks is not None:
            pixels = rank_metrics(maps[self.mask_known.to(maps.device)], self.masks.to(maps.device), self.weights)
            metrics |= {f"pixel_{key}": value for key, value in pixels.items()}
        key = {"k_shot": setting[0], "seed": setting[1]}
        result.rows.append({"model": model} | key | metrics | self.counts | seconds)
        result.scores.setdefault(model, []).extend(
            key | {"image_path": path, "abnormal": int(abnormal), "score": score}
            for path, abnormal, score in zip(self.paths, self.abnormal.tolist(), scores.double().tolist(), strict=True)
        )


def region_weights(masks: Tensor) -> Tensor:
    """Weight of every abnormal pixel in AUPRO, which counts all connected regions equally.

    Args:
        masks: ``(N, H, W)`` bool.

    Returns:
        ``(M,)`` for the ``M`` abnormal pixels in the masks' order, with sum 1.
    """
    regions = connected_components_cpu(masks[:, None].float().cpu()).flatten(1).long()
    # Components are counted within each image.
    numbers = regions + (regions.amax(dim=1).cumsum(0) - regions.amax(dim=1)).unsqueeze(1)
    labels = numbers[regions > 0]
    sizes = labels.bincount().double()
    return 1 / sizes[labels] / (sizes > 0).sum()


def rank_metrics(values: Tensor, abnormal: Tensor, weights: Tensor | None = None) -> dict[str, float]:
    """Measure how far abnormal values stand above normal ones.

    Args:
        values: Raw scores or maps of any shape and range.
        abnormal: Truth of the same shape, bool.
        weights: Weights ``(M,)`` of the abnormal values, with sum 1; None to leave AUPRO out.

    Returns:
        ``AUROC``, ``AUPR`` and ``AUPRO`` in [0, 1]; nothing if the values are all normal or all abnormal.
    """
    ordered, found = _sort(values[~abnormal]), values[abnormal]
    count = len(ordered)
    if not count or not len(found):
        return {}
    below = torch.searchsorted(ordered, found).double()
    not_above = torch.searchsorted(ordered, found, right=True).double()
    # Precision at the threshold that just finds each of the abnormal values.
    hits = len(found) - torch.searchsorted(_sort(found), found).double()
    metrics = {
        "AUROC": float((below + not_above).mean() / 2 / count),
        "AUPR": float((hits / (hits + count - below)).mean()),
    }
    if weights is not None:
        # Between thresholds the curve over the false-positive rate is a straight line, so a value that ties with
        # normal ones counts as a ramp from the rate above it to the rate at it.
        start, end = 1 - not_above / count, 1 - below / count
        whole = FPR_LIMIT - (start + end) / 2
        ramp = (end - start).clamp(min=torch.finfo(torch.double).tiny)
        part = (FPR_LIMIT - start).clamp(min=0).square() / (2 * ramp)
        area = torch.where(end <= FPR_LIMIT, whole, part)
        metrics["AUPRO"] = float((weights.to(area.device) * area).sum() / FPR_LIMIT)
    return metrics


def _sort(values: Tensor) -> Tensor:
    # NumPy sorts floats several times faster than PyTorch on a CPU.
    return values.sort().values if values.is_cuda else torch.from_numpy(np.sort(values.numpy()))
