# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The optimiser Muon with matrices of one shape taken together.

PyTorch's own goes through them one by one, and on a GPU that takes a third of a step of so small a model, all of it
spent on starting kernels. What is computed is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_A, _B, _C = 3.4445, -4.7750, 2.0315  # of the quintic that draws singular values to about 1


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (Jordan et al., 2024), with steps as large as those of AdamW (Liu et al., 2025).

    Args:
        params: Groups of matrices.
        lr: Learning rate; a tensor may be changed under way.
        weight_decay: Share of the weights, times the learning rate, that decays in a step.
        momentum: Share of the earlier gradients, of Nesterov's kind.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take a step; there is no closure."""
        del closure
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[Tensor]] = {}
            for matrix in group["params"]:
                shapes.setdefault(tuple(matrix.shape), []).append(matrix)
            for shape, matrices in shapes.items():
                gradient = torch.stack([matrix.grad for matrix in matrices])  # type: ignore[misc]
                state = self.state[matrices[0]]  # of all of the shape
                if not state:
                    state["momentum"] = torch.zeros_like(gradient)
                buffer = state["momentum"]
                buffer.lerp_(gradient, 1 - group["momentum"])
                update = orthogonalised(gradient.lerp(buffer, group["momentum"]))
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                size = group["lr"] * 0.2 * max(shape) ** 0.5
                torch._foreach_sub_(matrices, list((update.to(gradient.dtype) * size).unbind()))


def orthogonalised(matrices: Tensor, steps: int = 5) -> Tensor:
    """Draw the singular values of matrices `(B, M, N)` to about 1, by Newton and Schulz's iteration in bfloat16."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return x.mT if tall else x
