# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""InCTRL in plain PyTorch (Zhu and Pang, CVPR 2024, arXiv 2403.06495)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from anomalib_inctrl.backbones import ImageFeatures
from anomalib_inctrl.models.components.few_shot_model import FewShotModel
from anomalib_inctrl.models.components.heads import ScoreHead
from anomalib_inctrl.models.components.prompt_bank import PromptContext
from anomalib_inctrl.models.components.score_components import ScoreComponents


class InCTRLModel(FewShotModel):
    r"""InCTRL: in-context residual learning with few normal images as prompts.

    .. math::
        M^+ = M_x + s_I + s_q, \qquad s = \tfrac12 (\phi(M^+) + \max_p M_x[p])

    with the patch residual map M_x, the score s_I of the image residual and the text score s_q (section 3 of the
    paper). Without trained heads the training-free baseline ``(s_q + max M_x) / 2`` scores instead. The head phi takes
    one input a patch: heads trained on one patch grid fit no other.

    Args:
        backbone: Name of an OpenCLIP or ``timm/`` vision transformer, or an OpenCLIP module.
        pretrained: Pretrained tag, path of a weights file, ``True`` for the default weights, ``None`` for random ones.
        shared: Further arguments of :class:`~anomalib_inctrl.models.components.few_shot_model.FewShotModel`.

    Raises:
        ValueError: See there.

    Example:
        >>> model = InCTRLModel("ViT-B-16-plus-240", pretrained=None)          # doctest: +SKIP
        >>> model.set_prompts(normal_images, class_name="candle")               # (K, 3, 240, 240) # doctest: +SKIP
        >>> model(images).pred_score                                            # (B,) # doctest: +SKIP
    """

    further_components = ("head_score",)

    def __init__(
        self,
        backbone: str | nn.Module = "ViT-B-16-plus-240",
        pretrained: bool | str | None = True,
        **shared: Any,
    ) -> None:
        super().__init__(backbone, pretrained, **shared)
        self.map_head = ScoreHead(self.backbone.num_patches)
        self.eval()

    def score_features(self, query: ImageFeatures, context: PromptContext) -> ScoreComponents:
        """Score by both heads (InCTRL, eq. 6, 8 and 9); without them, or without image prompts, by the baseline.

        The paper's InCTRL detects at image level only; using its residual map as anomaly map is ours.

        Args:
            query: Features of ``B`` queries.
            context: The prompts they are compared with.

        Returns:
            Scores and their components.
        """
        baseline = self.baseline_components(query, context)
        if not self.use_heads or context.k_shot == 0:
            return baseline
        holistic, image_score = torch.zeros_like(baseline.patch_map), None
        if self.use_patch:
            holistic = baseline.patch_map
        if self.image_scorer is not None:
            image_score = self.image_scorer(query.embedding, context.embeddings)
            holistic = holistic + image_score.unsqueeze(-1)
        if self.use_text and baseline.text_score is not None:
            holistic = holistic + baseline.text_score.unsqueeze(-1)
        head_score = self.map_head(holistic)
        score = (head_score + baseline.patch_score) / 2 if self.use_patch else head_score
        return replace(baseline, score=score, image_score=image_score, head_score=head_score)
