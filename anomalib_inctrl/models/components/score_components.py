# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The components that an anomaly score is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ScoreComponents:
    """Scores of ``B`` queries with their components; a component that takes no part is None.

    Attributes:
        text_score: Probability of "abnormal" by the text prompts, s_q ``(B,)`` in [0, 1]; None without a text encoder.
        patch_map: Patch residual map, M_x ``(B, P)``, in [0, 1] at half scale and [0, 2] at full.
        patch_score: Pooled value of the map that is scored, s_p ``(B,)``; its maximum by default.
        score: Anomaly score of the image ``(B,)`` in [0, 1].
        anomaly_map: Anomaly map on the patch grid ``(B, P)`` in [0, 1]. Without image prompts the text score, constant.
        grid: Rows and columns of patches; ``patch_map`` reshapes to ``(B, *grid)``.
        image_score: Score of the image residual, s_I ``(B,)`` in [0, 1].
        head_score: InCTRL's score of the head phi over the whole map ``(B,)`` in [0, 1].
        dasl_map: InCTRLv2's discriminative branch, S_a ``(B, P)`` in [0, 1].
        oasl_map: InCTRLv2's one-class branch, S'_a ``(B, P)`` in [0, 1].
    """

    text_score: Tensor | None
    patch_map: Tensor
    patch_score: Tensor
    score: Tensor
    anomaly_map: Tensor
    grid: tuple[int, int]
    image_score: Tensor | None = None
    head_score: Tensor | None = None
    dasl_map: Tensor | None = None
    oasl_map: Tensor | None = None

    def __post_init__(self) -> None:
        # Only residual_scale="full" can leave [0, 1], which losses and metrics rely on.
        object.__setattr__(self, "score", self.score.clamp(0, 1))

    def stack(self, names: Sequence[str]) -> Tensor:
        """Components with one value per query, side by side.

        Args:
            names: Names of ``C`` fields.

        Returns:
            ``(B, C)``.
        """
        return torch.stack([getattr(self, name) for name in names], dim=-1)

    @classmethod
    def merge(cls, parts: Sequence[ScoreComponents], rows: Sequence[Sequence[int]]) -> ScoreComponents:
        """Merge the components of groups of queries.

        Args:
            parts: Components of each group.
            rows: For each group the positions of its queries in the whole batch.

        Returns:
            Components of the whole batch.
        """
        order = torch.tensor([row for group in rows for row in group]).argsort().to(parts[0].score.device)

        def merged(name: str) -> Any:
            values = [getattr(part, name) for part in parts]
            return None if any(value is None for value in values) else torch.cat(values)[order]

        names = [field.name for field in fields(cls) if field.name != "grid"]
        return cls(**{name: merged(name) for name in names}, grid=parts[0].grid)
