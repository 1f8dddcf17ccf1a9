# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""InCTRLv2 in plain PyTorch: a reconstruction from the paper (arXiv 2604.04632), whose authors published no code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from anomalib_inctrl.backbone import ImageFeatures
from anomalib_inctrl.models.components.branches import SemanticBranch
from anomalib_inctrl.models.components.few_shot import FewShotModel
from anomalib_inctrl.models.components.terms import ScoreTerms
from anomalib_inctrl.prompts.bank import PromptContext
from anomalib_inctrl.residuals import ResidualOperation, ResidualScale

ScoreMap = Literal["residual", "dasl", "fused"]


class InCTRLv2Model(FewShotModel):
    r"""InCTRLv2: in-context residuals with a discriminative (DASL) and a one-class (OASL) branch. A reconstruction.

    .. math::
        s &= (1 - \alpha) \tfrac12 (s_I + s_q) + \alpha \max_p M[p] \\
        M_p &= \tfrac12 (M_x + S_a), \quad M_n = \tfrac12 (M_x + S'_a) \\
        \text{anomaly map} &= (1 - \beta) M_p + \beta M_n

    with the score s_I of the image residual, the text score s_q, the patch residual map M_x, and the maps S_a and S'_a
    of the two branches. The map M in the score is M_x, M_p or the anomaly map, by ``score_map``. A part that is
    switched off leaves the means it stands in. Without trained heads the training-free floor ``(s_q + max M_x) / 2``
    scores, and M_x is the anomaly map. Without image prompts (K = 0) the score is s_q and the map S_a.

    Args:
        backbone: Name of an OpenCLIP vision transformer, or a ready OpenCLIP module.
        pretrained: OpenCLIP pretrained tag, path of a weights file, or ``None`` for random weights.
        layers: Blocks whose patch tokens are used, counted from 1; by default 7/12, 9/12 and 11/12 of the depth.
        resize_mode: How images are brought to the backbone's size; used by whoever preprocesses for this model.
        use_text: Whether the text score takes part in the score (ablation "T").
        use_patch: Whether the patch residual takes part in the score and the maps ("P").
        use_image: Whether the image residual takes part ("I").
        use_dasl: Whether there is a discriminative branch.
        use_oasl: Whether there is a one-class branch.
        residual: Operation between the adapted embeddings.
        residual_scale: ``"half"`` as in the authors' InCTRL code, ``"full"`` as in the equation; concerns s_p.
        alpha: Weight of the patch score in the score.
        beta: Weight of M_n in the anomaly map.
        score_map: The map whose maximum is the patch score; the paper leaves it open.
        temperature_image: Divides the cosines of the text score.
        temperature_patch: Divides the cosines of the branches; the paper leaves it open.
        adapter_per_block: One branch adapter for each block in place of one for all; the paper leaves it open.
        prompt_shifts: *Ours*: offsets along each axis at which the patches of prompts in the bank are seen; 1 sees
            prompts as they are.

    Raises:
        ValueError: If all three parts of the score are switched off, or an argument has a value that it cannot have.
    """

    def __init__(
        self,
        backbone: str | nn.Module = "ViT-B-16-plus-240",
        pretrained: str | None = "laion400m_e32",
        layers: Sequence[int] | None = None,
        resize_mode: str = "squash",
        use_text: bool = True,
        use_patch: bool = True,
        use_image: bool = True,
        use_dasl: bool = True,
        use_oasl: bool = True,
        residual: ResidualOperation = "residual",
        residual_scale: ResidualScale = "half",
        alpha: float = 0.5,
        beta: float = 0.75,
        score_map: ScoreMap = "residual",
        temperature_image: float = 0.01,
        temperature_patch: float = 0.07,
        adapter_per_block: bool = False,
        prompt_shifts: int = 1,
    ) -> None:
        for name, weight in (("alpha", alpha), ("beta", beta)):
            if not 0 <= weight <= 1:
                msg = f"{name}={weight}: must lie in [0, 1]."
                raise ValueError(msg)
        for name, temperature in (("temperature_image", temperature_image), ("temperature_patch", temperature_patch)):
            if not temperature > 0:
                msg = f"{name}={temperature}: must be positive."
                raise ValueError(msg)
        if score_map not in get_args(ScoreMap):
            msg = f"score_map={score_map!r}: choose 'residual', 'dasl' or 'fused'."
            raise ValueError(msg)
        super().__init__(
            backbone,
            pretrained,
            layers,
            resize_mode,
            use_text,
            use_patch,
            use_image,
            residual,
            residual_scale,
            temperature_image,
            prompt_shifts,
        )
        self.alpha = alpha
        self.beta = beta
        self.score_map = score_map

        def branch() -> SemanticBranch:
            return SemanticBranch(
                self.backbone.patch_width,
                self.backbone.embed_dim,
                len(self.backbone.layers),
                temperature_patch,
                adapter_per_block=adapter_per_block,
            )

        self.dasl_branch = branch() if use_dasl else None
        self.oasl_branch = branch() if use_oasl else None
        self.eval()

    def apply_heads(self, query: ImageFeatures, context: PromptContext, terms: ScoreTerms) -> None:
        """Map by both branches, then score; without image prompts only the map is theirs.

        Args:
            query: Features of ``B`` queries.
            context: What they are compared with.
            terms: Those of :meth:`training_free_terms`, changed in place.
        """
        if context.k_shot == 0:
            if self.dasl_branch is not None:
                terms.anomaly_map = terms.dasl_map = self.dasl_branch(query.patches, context.prototypes)
            return
        self.apply_branches(query, context, terms)
        semantic = [terms.text_score] if self.use_text else []
        if self.image_scorer is not None:
            terms.image_score = self.image_scorer(query.image, context.image)
            semantic.append(terms.image_score)
        if self.score_map != "residual":
            terms.patch_score = (self.dasl_mean(terms) if self.score_map == "dasl" else terms.anomaly_map).amax(dim=-1)
        alpha = (self.alpha if semantic else 1.0) if self.use_patch else 0.0
        terms.score = alpha * terms.patch_score
        if semantic:
            terms.score = terms.score + (1 - alpha) * torch.stack(semantic).mean(dim=0)

    def apply_branches(self, query: ImageFeatures, context: PromptContext, terms: ScoreTerms) -> None:
        """Put the branches' maps S_a and S'_a, and the anomaly map fused of them, into the terms.

        Args:
            query: Features of ``B`` queries.
            context: What they are compared with.
            terms: Those of :meth:`training_free_terms`, changed in place.
        """
        if self.dasl_branch is not None:
            terms.dasl_map = self.dasl_branch(query.patches, context.prototypes)
        if self.oasl_branch is not None:
            terms.oasl_map = self.oasl_branch(query.patches, context.prototypes)
        discriminative = self.dasl_mean(terms)
        one_class = self.oasl_mean(terms) if self.oasl_branch is not None else discriminative
        terms.anomaly_map = (1 - self.beta) * discriminative + self.beta * one_class

    def dasl_mean(self, terms: ScoreTerms) -> Tensor:
        """M_p: mean of the patch residual map and S_a ``(B, P)`` in [0, 1]."""
        return self._with_residual(terms, terms.dasl_map)

    def oasl_mean(self, terms: ScoreTerms) -> Tensor:
        """M_n: mean of the patch residual map and S'_a ``(B, P)`` in [0, 1]."""
        return self._with_residual(terms, terms.oasl_map)

    def _with_residual(self, terms: ScoreTerms, branch_map: Tensor | None) -> Tensor:
        residual = terms.patch_map if self.residual_scale == "half" else terms.patch_map / 2
        if branch_map is None:
            return residual
        return (residual + branch_map) / 2 if self.use_patch else branch_map
