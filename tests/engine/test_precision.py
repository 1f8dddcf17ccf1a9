# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""A model scores the same in double precision and on a GPU."""

import copy

import pytest
import torch
from torch.testing import assert_close


def images_of(count, height, width):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model(kind, trained):
    model = kind(weights=trained, visualizer=False).eval()
    model.model.set_prompts(images_of(3, 64, 64), "gear")
    return model


@torch.no_grad()
def predict(model, images):
    result = model(images)
    return result.pred_score, result.anomaly_map


def test_double_precision_scores_the_same_and_takes_prompts(model):
    images = images_of(3, 64, 64)
    double = copy.deepcopy(model).double()
    for one, pixels in ((model, images), (double, images.double())):
        one.model.set_prompts(pixels[:2], "gear")
    expected = predict(model, images)
    for found, value in zip(predict(double, images.double()), expected, strict=True):
        assert found.dtype == torch.float64
        assert_close(found, value.double(), atol=1e-5, rtol=0)
    assert_close(predict(double.float(), images), expected, atol=1e-5, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_scores_the_same(model):
    images = images_of(3, 110, 130)
    expected = predict(model, images)
    moved = copy.deepcopy(model).to("cuda")
    for found, value in zip(predict(moved, images.cuda()), expected, strict=True):
        assert_close(found.cpu(), value, atol=1e-3, rtol=0)
    assert all(map(torch.equal, predict(moved.to("cpu"), images), expected))
