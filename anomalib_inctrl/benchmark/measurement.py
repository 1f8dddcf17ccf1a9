# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The result of measuring a category, and the ground truth that it is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from anomalib_inctrl.benchmark.metrics import PixelTruth, image_metrics
from anomalib_inctrl.errors import BenchmarkError, DatasetError

Setting = tuple[int | None, int]
"""K and seed; K is None for a model that saw all normal images."""


@dataclass
class CategoryResult:
    """Table rows of a category with their details: plain data that travel between processes.

    Attributes:
        rows: Rows of the results table.
        scores: By model the rows of its score table: ``k_shot``, ``seed``, ``image_path``, ``abnormal``, ``score``.
        prompts: By setting the prompts' paths.
        examples: By model a JPEG of example images.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    prompts: dict[Setting, list[str]] = field(default_factory=dict)
    examples: dict[str, bytes] = field(default_factory=dict)


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
        self.paths = list(paths)
        self.abnormal = abnormal.bool()
        self.where = where
        self.mask_known = mask_known
        check_both_labels(self.abnormal, where)
        self._pixels = PixelTruth(masks) if masks is not None and len(masks) else None

    def measure(self, scores: Tensor, maps: Tensor | None) -> dict[str, float]:
        """Compute all metrics of raw scores and maps.

        Args:
            scores: ``(N,)``.
            maps: ``(N, H, W)`` of the masks' size; None to leave the pixel metrics out.

        Returns:
            Values in [0, 1] by the names in :data:`anomalib_inctrl.benchmark.metrics.METRICS`, those that exist.

        Raises:
            BenchmarkError: If a score or map is not finite.
        """
        for name, values in (("score", scores), ("anomaly map", maps)):
            if values is not None and not bool((finite := values.isfinite().reshape(len(values), -1).all(dim=1)).all()):
                path = self.paths[int((~finite).nonzero()[0])]
                msg = f"{self.where}: the {name} of {path} is not finite. Check the model's weights."
                raise BenchmarkError(msg)
        found = image_metrics(scores.cpu(), self.abnormal)
        if maps is not None and self._pixels is not None:
            found |= self._pixels.measure(maps[self.mask_known.to(maps.device)])
        return found

    def counts(self) -> dict[str, int]:
        """Numbers of ``normal`` and ``abnormal`` images and of ``masks``."""
        return {
            "normal": int((~self.abnormal).sum()),
            "abnormal": int(self.abnormal.sum()),
            "masks": int(self.mask_known.sum()) if self._pixels is not None else 0,
        }

    def score_rows(self, setting: Setting, scores: Tensor) -> list[dict[str, Any]]:
        """Rows of the score table."""
        return [
            {"k_shot": setting[0], "seed": setting[1], "image_path": path, "abnormal": int(abnormal), "score": score}
            for path, abnormal, score in zip(self.paths, self.abnormal.tolist(), scores.double().tolist(), strict=True)
        ]


def check_both_labels(abnormal: Tensor, where: str) -> None:
    """Refuse test images of one label.

    Args:
        abnormal: ``(N,)`` bool.
        where: Name of the category, for the error.

    Raises:
        DatasetError: If there are no normal or no abnormal ones.
    """
    abnormal_count = int(abnormal.sum())
    normal_count = len(abnormal) - abnormal_count
    if not normal_count or not abnormal_count:
        msg = (
            f"{where}: the test images all have one label ({normal_count} normal, {abnormal_count} abnormal), so no "
            "metric exists. Complete the category, or leave it out."
        )
        raise DatasetError(msg)
