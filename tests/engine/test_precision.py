# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""A model scores the same in double precision and on a GPU."""

import copy

import pytest
import torch
from torch.testing import assert_close

IMAGES = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model(make_model, trained):
    model = make_model(weights=trained).eval()
    model.model.set_prompts(IMAGES, "gear")
    return model


@torch.no_grad()
def predict(model, images):
    result = model(images)
    return result.pred_score, result.anomaly_map


def test_double_precision_scores_the_same_and_takes_prompts(model):
    double = copy.deepcopy(model).double()
    for one, pixels in ((model, IMAGES), (double, IMAGES.double())):
        one.model.set_prompts(pixels[:2], "gear")
    expected = predict(model, IMAGES)
    for found, value in zip(predict(double, IMAGES.double()), expected, strict=True):
        assert found.dtype == torch.float64
        assert_close(found, value.double(), atol=1e-5, rtol=0)
    assert_close(predict(double.float(), IMAGES), expected, atol=1e-5, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_scores_the_same(model):
    images = torch.rand(3, 3, 110, 130)
    expected = predict(model, images)
    moved = copy.deepcopy(model).to("cuda")
    for found, value in zip(predict(moved, images.cuda()), expected, strict=True):
        assert_close(found.cpu(), value, atol=1e-3, rtol=0)
    assert all(map(torch.equal, predict(moved.to("cpu"), images), expected))
