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
        self.pixels = PixelTruth(masks) if masks is not None and len(masks) else None
        normal, count = int((~self.abnormal).sum()), int(self.abnormal.sum())
        if not normal or not count:
            msg = (
                f"{where}: the test images all have one label ({normal} normal, {count} abnormal), so no metric "
                "exists. Complete the category, or leave it out."
            )
            raise DatasetError(msg)
        self.counts = {"normal": normal, "abnormal": count, "masks": int(mask_known.sum()) if self.pixels else 0}

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
        metrics = image_metrics(scores.cpu(), self.abnormal)
        if maps is not None and self.pixels is not None:
            metrics |= self.pixels.measure(maps[self.mask_known.to(maps.device)])
        key = {"k_shot": setting[0], "seed": setting[1]}
        result.rows.append({"model": model} | key | metrics | self.counts | seconds)
        result.scores.setdefault(model, []).extend(
            key | {"image_path": path, "abnormal": int(abnormal), "score": score}
            for path, abnormal, score in zip(self.paths, self.abnormal.tolist(), scores.double().tolist(), strict=True)
        )
