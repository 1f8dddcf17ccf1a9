# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The metrics of the generalist protocol, on raw scores and maps.

anomalib's evaluator runs after its post-processor, which shifts, scales and clamps scores around a threshold; AUROC and
average precision taken then are not those of the model. The models here keep their raw output in the batch.
"""

from __future__ import annotations

from anomalib.metrics import AUPR, AUPRO, AUROC, Evaluator, F1Score

_IMAGE = ("raw_score", "gt_label")
_PIXEL = ("raw_map", "gt_mask")


def generalist_evaluator() -> Evaluator:
    """Make the default evaluator of both models.

    Image AUROC and AP and pixel AUROC, AP and AUPRO (false-positive rate up to 0.3) are taken on raw scores in [0, 1];
    F1 on the predicted label, so at the threshold in use. Pixel metrics are left out where there are no masks.

    Returns:
        Evaluator with ``image_AUROC``, ``image_AUPR``, ``image_F1Score``, ``pixel_AUROC``, ``pixel_AUPR`` and
        ``pixel_AUPRO``.
    """
    return Evaluator(
        test_metrics=[
            AUROC(fields=_IMAGE, prefix="image_"),
            AUPR(fields=_IMAGE, prefix="image_"),
            F1Score(fields=("pred_label", "gt_label"), prefix="image_"),
            AUROC(fields=_PIXEL, prefix="pixel_", strict=False),
            AUPR(fields=_PIXEL, prefix="pixel_", strict=False),
            AUPRO(fields=_PIXEL, prefix="pixel_", strict=False),
        ],
    )
