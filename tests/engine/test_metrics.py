# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Default metrics are taken on raw scores and equal scikit-learn's."""

import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUPRO
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from anomalib_inctrl.models.components.evaluator import generalist_evaluator


@pytest.mark.parametrize("sizes", [[12], [5, 5, 2]])
def test_metrics_equal_scikit_learns(sizes):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(12) % 2 == 1
    scores = (0.3 * labels + 0.7 * torch.rand(12, generator=generator)).clamp(0, 1)
    masks = torch.zeros(12, 8, 8, dtype=torch.bool)
    masks[labels, 2:5, 3:6] = True
    maps = (0.3 * masks + 0.7 * torch.rand(12, 8, 8, generator=generator)).clamp(0, 1)
    images = torch.zeros(12, 3, 8, 8)
    evaluator = generalist_evaluator()
    for rows in torch.arange(12).split(sizes):
        batch = ImageBatch(
            image=images[rows], gt_label=labels[rows], gt_mask=masks[rows], pred_label=scores[rows] > 0.4
        )
        batch.raw_score, batch.raw_map = scores[rows], maps[rows]
        # What the post-processor leaves of the scores: clamped, and another order.
        batch.pred_score, batch.anomaly_map = ((raw[rows].flip(0) * 3).clamp(0, 1) for raw in (scores, maps))
        for metric in evaluator.test_metrics:
            metric.update(batch)
    aupro = AUPRO(fields=("anomaly_map", "gt_mask"))
    aupro.update(ImageBatch(image=images, anomaly_map=maps, gt_mask=masks))
    expected = {
        "image_AUROC": roc_auc_score(labels, scores),
        "image_AUPR": average_precision_score(labels, scores),
        "image_F1Score": f1_score(labels, scores > 0.4),
        "pixel_AUROC": roc_auc_score(masks.flatten(), maps.flatten()),
        "pixel_AUPR": average_precision_score(masks.flatten(), maps.flatten()),
        "pixel_AUPRO": float(aupro.compute()),
    }
    found = {metric.name: float(metric.compute()) for metric in evaluator.test_metrics}
    assert found == pytest.approx(expected, abs=1e-6)
