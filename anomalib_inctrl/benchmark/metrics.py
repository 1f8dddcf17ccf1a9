# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The protocol's metrics of one category: exact, in double precision, and cheap enough to take for every setting.

They are those of scikit-learn (AUROC, average precision) and of anomalib (AUPRO), with which the tests compare them.
They stand here because the libraries take 6.5 s of a core for the 115 maps of a mean category of MVTec AD where these
take 0.2 s: for twelve settings that is more than encoding the images takes. Only the normal pixels, nearly all there
are, get sorted, and what depends on the masks alone is computed once for all settings.
"""

from __future__ import annotations

import numpy as np
import torch
from anomalib.metrics.pro import connected_components_cpu
from torch import Tensor

IMAGE_METRICS = ("image_AUROC", "image_AUPR")
PIXEL_METRICS = ("pixel_AUROC", "pixel_AUPR", "pixel_AUPRO")
METRICS = (*IMAGE_METRICS, *PIXEL_METRICS)
"""Named as anomalib's evaluator names them."""

TITLES = {
    "image_AUROC": "image AUROC",
    "image_AUPR": "image AP",
    "pixel_AUROC": "pixel AUROC",
    "pixel_AUPR": "pixel AP",
    "pixel_AUPRO": "AUPRO",
}
FPR_LIMIT = 0.3


def image_metrics(scores: Tensor, abnormal: Tensor) -> dict[str, float]:
    """Take the metrics of image scores.

    Args:
        scores: Raw scores ``(N,)`` of any range.
        abnormal: Truth ``(N,)`` bool; both values must occur.

    Returns:
        Values in [0, 1] by the names in :data:`IMAGE_METRICS`.
    """
    ranks = _Ranks(scores[~abnormal], scores[abnormal])
    return {"image_AUROC": ranks.auroc(), "image_AUPR": ranks.average_precision()}


class PixelTruth:
    """The masks of a category, ready to be compared with maps again and again.

    Args:
        masks: ``(N, H, W)`` bool.
    """

    def __init__(self, masks: Tensor) -> None:
        self._abnormal = masks.bool().flatten()
        regions = connected_components_cpu(masks[:, None].float().cpu()).flatten(1).long()
        # Components are counted within each image; AUPRO gives every one of them the same weight.
        numbers = regions + (regions.amax(dim=1).cumsum(0) - regions.amax(dim=1)).unsqueeze(1)
        labels = numbers[regions > 0]
        sizes = labels.bincount().double()
        self._weights = (1 / sizes[labels] / (sizes > 0).sum()).to(masks.device)

    def measure(self, maps: Tensor) -> dict[str, float]:
        """Take the metrics of anomaly maps.

        Args:
            maps: Raw maps ``(N, H, W)`` of any range.

        Returns:
            Values in [0, 1] by the names in :data:`PIXEL_METRICS`; none if the masks are all empty or all full.
        """
        values = maps.flatten()
        if not bool(self._abnormal.any()) or bool(self._abnormal.all()):
            return {}
        ranks = _Ranks(values[~self._abnormal], values[self._abnormal])
        return {
            "pixel_AUROC": ranks.auroc(),
            "pixel_AUPR": ranks.average_precision(),
            "pixel_AUPRO": ranks.area_below_limit(self._weights.to(maps.device), FPR_LIMIT),
        }


class _Ranks:
    """Where abnormal values stand among the normal ones.

    Args:
        normal: Values ``(N,)``.
        abnormal: Values ``(M,)``.
    """

    def __init__(self, normal: Tensor, abnormal: Tensor) -> None:
        ordered = _sort(normal.contiguous())
        self._abnormal = abnormal.contiguous()
        self._count = len(ordered)
        self._below = torch.searchsorted(ordered, self._abnormal).double()
        self._not_above = torch.searchsorted(ordered, self._abnormal, right=True).double()

    def auroc(self) -> float:
        """Share of pairs in the right order; a tie is half of one."""
        return float((self._below + self._not_above).mean() / 2 / self._count)

    def average_precision(self) -> float:
        """Mean, over the abnormal, of the precision at the threshold that just finds them."""
        found = len(self._abnormal) - torch.searchsorted(_sort(self._abnormal), self._abnormal).double()
        return float((found / (found + self._count - self._below)).mean())

    def area_below_limit(self, weights: Tensor, limit: float) -> float:
        """Area under the curve of the found weight over the false-positive rate, as a share of what is possible.

        Between thresholds the curve is a straight line, so a value that ties with normal ones counts as a ramp from
        the rate above it to the rate at it.

        Args:
            weights: Weight of every abnormal value ``(M,)``, with sum 1.
            limit: Largest false-positive rate that counts.
        """
        start, end = 1 - self._not_above / self._count, 1 - self._below / self._count
        whole = limit - (start + end) / 2
        part = (limit - start).clamp(min=0).square() / (2 * (end - start).clamp(min=torch.finfo(torch.double).tiny))
        return float((weights * torch.where(end <= limit, whole, part)).sum() / limit)


def _sort(values: Tensor) -> Tensor:
    # NumPy sorts floats several times faster than PyTorch on a CPU.
    return values.sort().values if values.is_cuda else torch.from_numpy(np.sort(values.numpy()))
