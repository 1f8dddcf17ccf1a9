# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Fusion of the components of a score by weights that the auxiliary data teach; *ours*."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

FusionKind = Literal["paper", "standardized", "logistic"]

_MARGIN = 1e-6  # keeps logits of components finite


class ScoreFusion(nn.Module):
    r"""A score from its components, in place of the papers' fixed weights.

    The papers add probabilities of very different spread, so the component that varies most decides. Here

    .. math:: s = \sigma\Big(b + \sum_c w_c \frac{x_c - \mu_c}{\sigma_c}\Big)

    ``"standardized"`` takes the components ``x_c`` as they are, with their mean and standard deviation on the auxiliary
    data and equal weights. ``"logistic"`` takes their logits and fits ``w >= 0`` and ``b`` by logistic regression. Both
    are to be fitted on categories that the heads were not trained on: on those they were, heads are far too sure.

    Args:
        kind: ``"standardized"`` or ``"logistic"``.
        names: Names of the components, fields of :class:`.ScoreComponents`.

    Attributes:
        fitted: Whether :meth:`fit` was called or a fitted state was loaded.
    """

    mean: Tensor
    deviation: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, kind: FusionKind, names: tuple[str, ...]) -> None:
        super().__init__()
        self.kind = kind
        self.names = names
        self.fitted = False
        for name in ("mean", "deviation", "weight"):
            self.register_buffer(name, torch.zeros(len(names)))
        self.register_buffer("bias", torch.zeros(()))
        self.register_load_state_dict_post_hook(ScoreFusion._find_fitted)  # type: ignore[no-untyped-call]

    def _find_fitted(self, _incompatible: Any) -> None:
        self.fitted = bool(self.deviation.any())

    def fit(self, components: Tensor, label: Tensor) -> None:
        """Fit to components of queries from categories that the heads were not trained on.

        Args:
            components: ``(N, C)`` in [0, 1], in the order of ``names``.
            label: ``(N,)``, 1 for abnormal; both values must occur.
        """
        inputs = self._inputs(components.double().cpu())
        mean, deviation = inputs.mean(dim=0), inputs.std(dim=0)
        deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
        weight, bias = torch.full_like(mean, 1 / len(self.names)), torch.zeros((), dtype=torch.double)
        if self.kind == "logistic":
            weight, bias = _logistic_regression((inputs - mean) / deviation, label.double().cpu())
        for name, value in {"mean": mean, "deviation": deviation, "weight": weight, "bias": bias}.items():
            getattr(self, name).copy_(value)
        self.fitted = True

    def forward(self, components: Tensor) -> Tensor:
        """Fuse.

        Args:
            components: ``(B, C)`` in [0, 1], in the order of ``names``.

        Returns:
            Scores ``(B,)`` in [0, 1].
        """
        standardized = (self._inputs(components) - self.mean) / self.deviation
        return torch.sigmoid((standardized * self.weight).sum(dim=-1) + self.bias)

    def _inputs(self, components: Tensor) -> Tensor:
        return components.clamp(0, 1).logit(_MARGIN) if self.kind == "logistic" else components


def _logistic_regression(inputs: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Weights ``(C,)``, none of them negative, and bias of a logistic regression with an L2 penalty of 1/2 in all.

    A component speaks for "abnormal" the higher it is: a negative weight would be an accident of few categories.
    """
    from scipy.optimize import minimize  # needed once a training

    x, sign = inputs.numpy(), 2 * label.numpy() - 1

    def objective(parameters: Any) -> tuple[float, Any]:
        margin = torch.from_numpy(sign * (x @ parameters[:-1] + parameters[-1]))
        slope = -(sign * torch.sigmoid(-margin).numpy())
        loss = float(torch.nn.functional.softplus(-margin).sum()) + float(parameters[:-1] @ parameters[:-1]) / 2
        return loss, [*(slope @ x + parameters[:-1]), slope.sum()]

    count = x.shape[1]
    found = minimize(
        objective, [1.0] * count + [0.0], jac=True, method="L-BFGS-B", bounds=[(0, None)] * count + [(None, None)]
    )
    return torch.from_numpy(found.x[:-1].copy()), torch.tensor(found.x[-1], dtype=torch.double)
