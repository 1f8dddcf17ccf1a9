# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""InCTRL in plain PyTorch (Zhu and Pang, CVPR 2024, arXiv 2403.06495)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from anomalib_inctrl.backbone import ImageFeatures
from anomalib_inctrl.errors import CheckpointError
from anomalib_inctrl.models.components.few_shot import FewShotModel
from anomalib_inctrl.models.components.heads import ScoreHead
from anomalib_inctrl.models.components.terms import ScoreTerms
from anomalib_inctrl.models.inctrl.official import from_official, to_official
from anomalib_inctrl.prompts.bank import PromptContext
from anomalib_inctrl.residuals import ResidualOperation, ResidualScale
from anomalib_inctrl.weights import check_keys


class InCTRLModel(FewShotModel):
    r"""InCTRL: in-context residual learning with few normal images as prompts.

    .. math::
        M^+ = M_x + s_I + s_q, \qquad s = \tfrac12 (\phi(M^+) + \max_p M_x[p])

    with the patch residual map M_x, the score s_I of the image residual and the text score s_q (section 3 of the
    paper). Without trained heads the training-free floor ``(s_q + max M_x) / 2`` scores instead.

    Args:
        backbone: Name of an OpenCLIP vision transformer, or a ready OpenCLIP module.
        pretrained: OpenCLIP pretrained tag, path of a weights file, or ``None`` for random weights.
        layers: Blocks whose patch tokens are compared, counted from 1; by default 7/12, 9/12 and 11/12 of the depth.
        resize_mode: How images are brought to the backbone's size; used by whoever preprocesses for this model.
        use_text: Whether the text score takes part (ablation "T").
        use_patch: Whether the patch residual takes part ("P").
        use_image: Whether the image residual takes part ("I").
        residual: Operation between the adapted embeddings; the paper compares ``"residual"`` with the other two.
        residual_scale: ``"half"`` as in the authors' code, ``"full"`` as in the paper's equation.
        prompt_shifts: *Ours*: offsets along each axis at which the patches of prompts in the bank are seen; 1 sees
            prompts as they are.

    Raises:
        ValueError: If all three parts are switched off, or an argument has a value that it cannot have.

    Example:
        >>> model = InCTRLModel("ViT-B-16-plus-240", pretrained=None)         # doctest: +SKIP
        >>> model.set_prompts(normal_images, class_name="candle")             # (K, 3, 240, 240) # doctest: +SKIP
        >>> model.predict(images).pred_score                                  # (B,) # doctest: +SKIP
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
        residual: ResidualOperation = "residual",
        residual_scale: ResidualScale = "half",
        prompt_shifts: int = 1,
    ) -> None:
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
            prompt_shifts=prompt_shifts,
        )
        self.map_head = ScoreHead(self.backbone.num_patches)
        self.eval()

    def apply_heads(self, query: ImageFeatures, context: PromptContext, terms: ScoreTerms) -> None:
        """Score by both heads (InCTRL, eq. 6, 8 and 9); without image prompts there is nothing to score.

        The paper's InCTRL detects at image level only; giving its residual map as anomaly map is ours.

        Args:
            query: Features of ``B`` queries.
            context: What they are compared with.
            terms: Those of :meth:`training_free_terms`, changed in place.
        """
        if context.k_shot == 0:
            return
        holistic = terms.patch_map if self.use_patch else torch.zeros_like(terms.patch_map)
        if self.image_scorer is not None:
            terms.image_score = self.image_scorer(query.image, context.image)
            holistic = holistic + terms.image_score.unsqueeze(-1)
        if self.use_text:
            holistic = holistic + terms.text_score.unsqueeze(-1)
        head_score = self.map_head(holistic)
        terms.head_score = head_score
        terms.score = (head_score + terms.patch_score) / 2 if self.use_patch else head_score

    def load_official_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load weights under the names of the authors' code, backbone and heads.

        Prompts in the bank were encoded by other weights and are dropped.

        Args:
            state_dict: The authors' ``.pyth`` content.

        Raises:
            CheckpointError: If a key is missing, unknown, or of another shape; nothing is loaded then.
        """
        clip, heads = from_official(state_dict)
        own = self.head_tensors()
        check_keys(heads, own, "official weights of the heads")
        self.backbone.load_weights(clip, "official weights of the backbone")
        for key, value in heads.items():
            own[key].copy_(value)
        self.bank.clear()
        self.heads_trained = True

    def official_state_dict(self) -> dict[str, Tensor]:
        """Give the weights under the names of the authors' code; see :func:`.official.to_official`.

        Raises:
            CheckpointError: If the model has a shape that the authors' code does not know.
        """
        if self.image_scorer is None or self.image_scorer.operation == "concat":
            msg = "The authors' code has no InCTRL without image residual or with residual='concat'."
            raise CheckpointError(msg)
        return to_official(self.backbone.clip.state_dict(), self.head_tensors())
