# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from anomalib_inctrl.models.components.losses import BinaryFocalLoss


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal_loss_equals_the_formula(gamma):
    probability, label = torch.rand(20, dtype=torch.float64), torch.arange(20) % 2
    likelihood = [float(p) if y else 1 - float(p) for p, y in zip(probability, label, strict=True)]
    expected = sum(-0.5 * (1 - q) ** gamma * math.log(q) for q in likelihood) / 20
    assert float(BinaryFocalLoss(0.5, gamma)(probability, label)) == pytest.approx(expected, rel=1e-5)


def test_focal_loss_is_zero_at_the_truth_and_has_finite_gradients():
    probability = torch.tensor([0.0, 1.0, 0.0, 1.0], requires_grad=True)
    assert float(BinaryFocalLoss()(torch.tensor([0.0, 1.0]), torch.tensor([0, 1]))) == 0
    BinaryFocalLoss()(probability, torch.tensor([1, 0, 0, 1])).backward()
    assert probability.grad.isfinite().all()
