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
from torchmetrics.utilities.data import dim_zero_cat

_IMAGE = ("raw_score", "gt_label")
_PIXEL = ("raw_map", "gt_mask")


class _TwoClasses:
    """Leaves a metric of two classes unknown where the labels are all alike."""

    def compute(self: Any) -> Any:
        """Compute the metric; NaN where there is one class only."""
        # A list of batches, or a tensor once the processes have exchanged them.
        one_class = len(self.target) and len(dim_zero_cat(self.target).unique()) < 2
        return torch.tensor(torch.nan) if one_class else super().compute()  # type: ignore[misc]  # of the other base


# The names of the classes are those of the results.
class AUROC(_TwoClasses, metrics.AUROC):  # type: ignore[misc]  # anomalib's bases differ
    """anomalib's AUROC; NaN where there is one class only."""


class AUPR(_TwoClasses, metrics.AUPR):  # type: ignore[misc]  # anomalib's bases differ
    """anomalib's average precision; NaN where there is one class only."""


class AUPRO(_TwoClasses, metrics.AUPRO):  # type: ignore[misc]  # anomalib's bases differ
    """anomalib's AUPRO; NaN where there is one class only."""


class F1Score(metrics.F1Score):
    """anomalib's F1; NaN where nothing is abnormal."""

    def compute(self) -> Any:
        """Compute the metric."""
        value: Any = super().compute()
        positives: Any = self.tp + self.fn  # type: ignore[operator]
        return torch.full_like(value, torch.nan) if value is not None and not positives else value


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
