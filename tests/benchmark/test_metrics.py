# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The fast metrics against scikit-learn and anomalib."""

from types import SimpleNamespace

import pytest
import torch
from anomalib.metrics import AUPRO
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from anomalib_inctrl.benchmark.metrics import rank_metrics, region_weights


@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 30), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_image_metrics_are_scikit_learns(seed, normal, abnormal, levels):
    generator = torch.Generator().manual_seed(seed)
    # Few levels: many ties.
    scores = torch.randint(0, levels, (normal + abnormal,), generator=generator) / levels
    truth = torch.arange(normal + abnormal) < abnormal
    expected = {"AUROC": roc_auc_score(truth, scores), "AUPR": average_precision_score(truth, scores)}
    assert rank_metrics(scores, truth) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("levels", [None, 7, 2, 1])
@pytest.mark.parametrize("seed", range(4))
def test_pixel_metrics_are_scikit_learns_and_anomalibs(levels, seed):
    masks = torch.zeros(5, 32, 40, dtype=torch.bool)
    masks[0, 3:9, 4:20] = masks[0, 20:30, 30:32] = masks[1, 0:2, 0:2] = True
    masks[1, 2:5, 2:5] = True  # touches the other by a corner: one region
    masks[2, 10, 10] = True
    masks[4, 5:20, 5:20] = True
    torch.manual_seed(seed)
    maps = torch.rand(masks.shape) * 0.4 + masks * torch.rand(5, 1, 1) * 0.3
    if levels is not None:
        maps = (maps * levels).floor() / levels
    found = rank_metrics(maps, masks, region_weights(masks))
    truth, score = masks.numpy().ravel(), maps.numpy().ravel()
    assert found["AUROC"] == pytest.approx(roc_auc_score(truth, score), abs=1e-9)
    assert found["AUPR"] == pytest.approx(average_precision_score(truth, score), abs=1e-9)
    aupro = AUPRO(fields=("maps", "masks"))
    aupro.update(SimpleNamespace(maps=maps, masks=masks.int()))
    assert found["AUPRO"] == pytest.approx(float(aupro.compute()), abs=1e-6)
    # Maps do not have to lie in [0, 1].
    assert rank_metrics(8 * maps.double() - 100, masks, region_weights(masks)) == pytest.approx(found, abs=1e-12)


@pytest.mark.parametrize("fill", [False, True])
def test_masks_that_are_all_alike_have_no_pixel_metrics(fill):
    masks = torch.full((2, 8, 8), fill)
    assert rank_metrics(torch.rand(2, 8, 8), masks, region_weights(masks)) == {}
