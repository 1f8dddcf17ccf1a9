# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""InCTRLv2 in plain PyTorch: a reconstruction from the paper (arXiv 2604.04632), whose authors published no code."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from anomalib_inctrl.arguments import check_arguments, check_positive
from anomalib_inctrl.backbones import ImageFeatures
from anomalib_inctrl.models.components.branches import SemanticBranch
from anomalib_inctrl.models.components.few_shot_model import FewShotModel
from anomalib_inctrl.models.components.prompt_bank import PromptContext
from anomalib_inctrl.models.components.score_components import ScoreComponents

ScoreMap = Literal["residual", "dasl", "fused"]
PrototypeKind = Literal["text", "learned"]


class InCTRLv2Model(FewShotModel):
    r"""InCTRLv2: in-context residuals with a discriminative (DASL) and a one-class (OASL) branch. A reconstruction.

    .. math::
        s &= (1 - \alpha) \tfrac12 (s_I + s_q) + \alpha \max_p M[p] \\
        M_p &= \tfrac12 (M_x + S_a), \quad M_n = \tfrac12 (M_x + S'_a) \\
        \text{anomaly map} &= (1 - \beta) M_p + \beta M_n

    with the score s_I of the image residual, the text score s_q, the patch residual map M_x, and the maps S_a and S'_a
    of the two branches. The map M in the score is M_x, M_p or the anomaly map, by ``score_map``. A component that is
    switched off leaves the means it stands in. Without trained heads the training-free baseline ``(s_q + max M_x) / 2``
    scores, and M_x is the anomaly map. Without image prompts (K = 0) the score is s_q and the map S_a.

    Args:
        backbone: Name of an OpenCLIP or ``timm/`` vision transformer, or an OpenCLIP module.
        pretrained: Pretrained tag, path of a weights file, ``True`` for the default weights, ``None`` for random ones.
        use_dasl: Whether there is a discriminative branch.
        use_oasl: Whether there is a one-class branch.
        alpha: Weight of the patch score in the score, in [0, 1].
        beta: Weight of M_n in the anomaly map, in [0, 1].
        score_map: The map whose maximum is the patch score; the paper leaves it open.
        temperature_patch: Divides the cosines of the branches; the paper leaves it open.
        adapter_per_block: One branch adapter for each block in place of one for all; the paper leaves it open.
        prototypes: What the branches compare patches with: ``"text"``, the text prototypes, as in the paper, or,
            *ours*, ``"learned"``, a normal and an abnormal prototype for each block and branch. By default text where
            the backbone has a text encoder.
        shared: Further arguments of :class:`~anomalib_inctrl.models.components.few_shot_model.FewShotModel`.

    Raises:
        ValueError: If all three components of the score are switched off, or an argument has an invalid value.
    """

    def __init__(
        self,
        backbone: str | nn.Module = "ViT-B-16-plus-240",
        pretrained: bool | str | None = True,
        *,
        use_dasl: bool = True,
        use_oasl: bool = True,
        alpha: float = 0.5,
        beta: float = 0.75,
        score_map: ScoreMap = "residual",
        temperature_patch: float = 0.07,
        adapter_per_block: bool = False,
        prototypes: PrototypeKind | None = None,
        **shared: Any,
    ) -> None:
        check_arguments(InCTRLv2Model.__init__, locals(), {"alpha": 0, "beta": 0}, {"alpha": 1, "beta": 1})
        check_positive("temperature_patch", temperature_patch)
        super().__init__(backbone, pretrained, **shared)
        if prototypes == "text" and not self.backbone.has_text:
            msg = f"prototypes='text': {self.backbone.name} has no text encoder. Choose 'learned'."
            raise ValueError(msg)
        learned = prototypes == "learned" or not self.backbone.has_text
        self.alpha = alpha
        self.beta = beta
        self.score_map = score_map

        def branch() -> SemanticBranch:
            return SemanticBranch(
                self.backbone.patch_width,
                self.backbone.embed_dim,
                len(self.backbone.blocks),
                temperature_patch,
                adapter_per_block=adapter_per_block,
                learned_prototypes=learned,
            )

        self.dasl_branch = branch() if use_dasl else None
        self.oasl_branch = branch() if use_oasl else None
        self.eval()

    def score_features(self, query: ImageFeatures, context: PromptContext) -> ScoreComponents:
        """Score by image residual, text and patch residual, and map by both branches; without heads by the baseline.

        Args:
            query: Features of ``B`` queries.
            context: The prompts they are compared with.

        Returns:
            Scores and their components.
        """
        if not self.use_heads:
            return self.baseline_components(query, context)
        components = self.map_components(query, context)
        if context.k_shot == 0:
            return components
        image_score, patch_score = None, components.patch_score
        semantic = [components.text_score] if self.use_text and components.text_score is not None else []
        if self.image_scorer is not None:
            image_score = self.image_scorer(query.embedding, context.embeddings)
            semantic.append(image_score)
        if self.score_map != "residual":
            scored = self.dasl_mean(components) if self.score_map == "dasl" else components.anomaly_map
            patch_score = self.pool_patches(scored)
        alpha = (self.alpha if semantic else 1.0) if self.use_patch else 0.0
        score = alpha * patch_score
        if semantic:
            score = score + (1 - alpha) * torch.stack(semantic).mean(dim=0)
        return replace(components, score=score, image_score=image_score, patch_score=patch_score)

    def map_components(self, query: ImageFeatures, context: PromptContext) -> ScoreComponents:
        """The baseline's components with the maps S_a and S'_a of the branches and the anomaly map fused of them.

        Without image prompts there is no residual: the anomaly map is S_a.

        Args:
            query: Features of ``B`` queries.
            context: The prompts they are compared with.

        Returns:
            The components; their score is the baseline's.
        """
        components = self.baseline_components(query, context)
        if context.k_shot == 0:
            if self.dasl_branch is None:
                return components
            dasl_map = self.dasl_branch(query.patches, context.prototypes)
            return replace(components, dasl_map=dasl_map, anomaly_map=dasl_map)
        if self.dasl_branch is not None:
            components = replace(components, dasl_map=self.dasl_branch(query.patches, context.prototypes))
        if self.oasl_branch is not None:
            components = replace(components, oasl_map=self.oasl_branch(query.patches, context.prototypes))
        discriminative = self.dasl_mean(components)
        one_class = self.oasl_mean(components) if self.oasl_branch is not None else discriminative
        return replace(components, anomaly_map=(1 - self.beta) * discriminative + self.beta * one_class)

    def dasl_mean(self, components: ScoreComponents) -> Tensor:
        """M_p: mean of the patch residual map and S_a ``(B, P)`` in [0, 1]."""
        return self._mean_with_residual(components, components.dasl_map)

    def oasl_mean(self, components: ScoreComponents) -> Tensor:
        """M_n: mean of the patch residual map and S'_a ``(B, P)`` in [0, 1]."""
        return self._mean_with_residual(components, components.oasl_map)

    def _mean_with_residual(self, components: ScoreComponents, branch_map: Tensor | None) -> Tensor:
        residual = components.patch_map if self.residual_scale == "half" else components.patch_map / 2
        if branch_map is None:
            return residual
        return (residual + branch_map) / 2 if self.use_patch else branch_map
