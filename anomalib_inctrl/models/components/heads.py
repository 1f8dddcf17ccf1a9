# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The trained parts: adapters and score heads."""

from __future__ import annotations

from torch import Tensor, nn

from anomalib_inctrl.models.components.residuals import ResidualOperation, image_residual


class ImageAdapter(nn.Module):
    """Adapter psi of the class embedding: a bottleneck without skip connection (InCTRL, section 3.3).

    Args:
        width: Embedding width ``D``.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(width, width // 4, bias=False),
            nn.ReLU(),
            nn.Linear(width // 4, width, bias=False),
            nn.ReLU(),
        )

    def forward(self, embedding: Tensor) -> Tensor:
        """Adapt class embeddings.

        Args:
            embedding: ``(..., D)``.

        Returns:
            ``(..., D)``, not negative.
        """
        return self.fc(embedding)  # type: ignore[no-any-return]


class ScoreHead(nn.Module):
    """Head eta or phi: from a residual to an anomaly probability (InCTRL, section 3.3).

    Batch normalisation sits after the ReLU, as in the released weights.

    Args:
        width: Number of inputs, ``D`` for eta and ``P`` for phi.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, 128),
            nn.ReLU(),
            nn.BatchNorm1d(128),
            nn.Linear(128, 64),
            nn.ReLU(),
            nn.BatchNorm1d(64),
            nn.Linear(64, 1),
            nn.Sigmoid(),
        )

    def forward(self, residual: Tensor) -> Tensor:
        """Score residuals.

        Args:
            residual: ``(B, width)``.

        Returns:
            Probabilities ``(B,)`` in [0, 1].
        """
        return self.layers(residual).squeeze(-1)  # type: ignore[no-any-return]


class ImageResidualScorer(nn.Module):
    """Adapter psi and head eta: the score s_I of the image residual (InCTRL, eq. 5 and 6).

    Args:
        width: Embedding width ``D``.
        operation: Operation between the adapted embeddings of prompts and query.
    """

    def __init__(self, width: int, operation: ResidualOperation = "residual") -> None:
        super().__init__()
        self.operation: ResidualOperation = operation
        self.adapter = ImageAdapter(width)
        self.head = ScoreHead(2 * width if operation == "concat" else width)

    def forward(self, query: Tensor, prompts: Tensor) -> Tensor:
        """Score queries against prompts.

        Args:
            query: Class embeddings of the queries ``(B, D)``.
            prompts: Class embeddings of the prompts, ``(K, D)`` shared by all queries or ``(B, K, D)``.

        Returns:
            Scores ``(B,)`` in [0, 1].
        """
        return self.head(image_residual(self.adapter(query), self.adapter(prompts), self.operation))  # type: ignore[no-any-return]
