# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The metrics of the generalist protocol, on raw scores and maps.

anomalib's evaluator runs after its post-processor, which shifts, scales and clamps scores around a threshold; AUROC and
average precision taken then are not those of the model. The models here keep their raw output in the batch.
"""

from __future__ import annotations

from typing import Any

import torch
from anomalib import metrics
from anomalib.metrics import Evaluator
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

_IMAGE = ("raw_score", "gt_label")
_PIXEL = ("raw_map", "gt_mask")


class _RanksTwoClasses:
    """NaN in place of a number where there are only normal or only abnormal images or pixels; then it has no value."""

    target: Any

    def compute(self) -> Tensor | None:
        """Compute the metric."""
        # A list of batches, or a tensor once the processes have exchanged them.
        if len(self.target) and len(dim_zero_cat(self.target).unique()) < 2:
            return torch.tensor(torch.nan)
        return super().compute()  # type: ignore[misc,no-any-return]


# The names of the classes are those of the results.
class AUROC(_RanksTwoClasses, metrics.AUROC):
    """anomalib's AUROC; NaN where there is one class only."""


class AUPR(_RanksTwoClasses, metrics.AUPR):
    """anomalib's average precision; NaN where there is one class only."""


class AUPRO(_RanksTwoClasses, metrics.AUPRO):
    """anomalib's AUPRO; NaN where there is one class only."""


class F1Score(metrics.F1Score):
    """anomalib's F1; NaN where nothing is abnormal."""

    def compute(self) -> Tensor | None:
        """Compute the metric."""
        value: Tensor | None = super().compute()
        return torch.full_like(value, torch.nan) if value is not None and not self.tp + self.fn else value


def generalist_evaluator() -> Evaluator:
    """Make the default evaluator of both models.

    Image AUROC and AP and pixel AUROC, AP and AUPRO (false-positive rate up to 0.3) are taken on raw scores in [0, 1];
    F1 on the predicted label, so at the threshold in use. A metric is left out where its input is not known: F1 without
    a threshold, pixel metrics without masks. It is NaN where its input has only one class.

    Returns:
        Evaluator with ``image_AUROC``, ``image_AUPR``, ``image_F1Score``, ``pixel_AUROC``, ``pixel_AUPR`` and
        ``pixel_AUPRO``.
    """
    return Evaluator(
        test_metrics=[
            AUROC(fields=_IMAGE, prefix="image_", strict=False),
            AUPR(fields=_IMAGE, prefix="image_", strict=False),
            F1Score(fields=("pred_label", "gt_label"), prefix="image_", strict=False),
            AUROC(fields=_PIXEL, prefix="pixel_", strict=False),
            AUPR(fields=_PIXEL, prefix="pixel_", strict=False),
            AUPRO(fields=_PIXEL, prefix="pixel_", strict=False),
        ],
    )
