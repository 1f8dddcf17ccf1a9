# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What measuring a category gives: plain data that travel between processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from anomalib_inctrl.benchmark.metrics import PixelTruth, image_metrics
from anomalib_inctrl.errors import BenchmarkError, DatasetError

Setting = tuple[int | None, int]
"""K and seed; K is None for a model that saw all normal images."""


@dataclass
class Outcome:
    """Rows of a category and what stands behind them.

    Attributes:
        rows: Lines of the table.
        scores: By model the lines of its score table: ``k_shot``, ``seed``, ``image_path``, ``abnormal``, ``score``.
        prompts: By setting the prompts' paths.
        examples: By model a JPEG of example pictures.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    prompts: dict[Setting, list[str]] = field(default_factory=dict)
    examples: dict[str, bytes] = field(default_factory=dict)


class Truth:
    """What is true of the test images of a category, and how scores and maps compare with it.

    Args:
        paths: ``N`` image files.
        abnormal: ``(N,)`` bool.
        masks: ``(N, H, W)`` bool, or None where there are none.
        mask_known: ``(N,)`` bool, whose masks count.
        where: Name of the category, for errors.

    Raises:
        DatasetError: If the images are all normal or all abnormal: then there is nothing to tell apart.
    """

    def __init__(
        self, paths: Sequence[str], abnormal: Tensor, masks: Tensor | None, mask_known: Tensor, where: str
    ) -> None:
        self.paths = list(paths)
        self.abnormal = abnormal.bool()
        self.where = where
        self.mask_known = mask_known
        check_both_kinds(int((~self.abnormal).sum()), int(self.abnormal.sum()), where)
        self._pixels = PixelTruth(masks[mask_known]) if masks is not None and bool(mask_known.any()) else None

    def measure(self, scores: Tensor, maps: Tensor | None) -> dict[str, float]:
        """Take all metrics of raw scores and maps.

        Args:
            scores: ``(N,)``.
            maps: ``(N, H, W)`` of the masks' size; None where there are none or they are not wanted.

        Returns:
            Values by the names in :data:`anomalib_inctrl.benchmark.metrics.METRICS`, as far as there are any.

        Raises:
            BenchmarkError: If a score or map is not finite.
        """
        for name, values in (("score", scores), ("anomaly map", maps)):
            if values is not None and not bool((finite := values.isfinite().reshape(len(values), -1).all(dim=1)).all()):
                path = self.paths[int((~finite).nonzero()[0])]
                msg = f"{self.where}: the {name} of {path} is not finite. Look at the model's weights."
                raise BenchmarkError(msg)
        found = image_metrics(scores.cpu(), self.abnormal)
        if maps is not None and self._pixels is not None:
            found |= self._pixels.measure(maps[self.mask_known.to(maps.device)])
        return found

    def counts(self) -> dict[str, int]:
        """Columns that say what was measured on."""
        return {
            "normal": int((~self.abnormal).sum()),
            "abnormal": int(self.abnormal.sum()),
            "masks": int(self.mask_known.sum()) if self._pixels is not None else 0,
        }

    def score_lines(self, setting: Setting, scores: Tensor) -> list[dict[str, Any]]:
        """Lines of the score table."""
        numbers, kinds = scores.double().tolist(), self.abnormal.tolist()
        return [
            {"k_shot": setting[0], "seed": setting[1], "image_path": path, "abnormal": int(kind), "score": number}
            for path, kind, number in zip(self.paths, kinds, numbers, strict=True)
        ]


def check_both_kinds(normal: int, abnormal: int, where: str) -> None:
    """Refuse test images of one kind.

    Raises:
        DatasetError: If there are no normal or no abnormal ones.
    """
    if not normal or not abnormal:
        missing, found = ("normal", f"{abnormal} abnormal") if not normal else ("abnormal", f"{normal} normal")
        msg = (
            f"{where}: the test images are all of one kind, {found} and no {missing} ones, so no metric exists. "
            "Complete the category, or leave it out."
        )
        raise DatasetError(msg)


def stack_masks(masks: Sequence[Tensor], size: tuple[int, int]) -> Tensor | None:
    """Put the masks of batches together; batches without masks get empty ones.

    Args:
        masks: By batch masks ``(B, H, W)``, or a tensor ``(B, 0)`` for a batch that has none.
        size: Height and width.

    Returns:
        ``(N, H, W)`` bool; None if no batch has any.
    """
    if not any(part.ndim == 3 for part in masks):
        return None
    parts = [part if part.ndim == 3 else torch.zeros(len(part), *size) for part in masks]
    return torch.cat([part.bool().cpu() for part in parts])
