# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What both models share: a frozen backbone, a prompt bank, the score of the image residual, scores per class name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, get_args

import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_inctrl.backbone import FrozenCLIP, ImageFeatures
from anomalib_inctrl.errors import PromptError
from anomalib_inctrl.models.components.heads import ImageResidualScorer
from anomalib_inctrl.models.components.terms import ScoreTerms
from anomalib_inctrl.prompts.bank import PromptBank, PromptContext
from anomalib_inctrl.prompts.shifts import check_prompt_shifts, encode_prompts
from anomalib_inctrl.residuals import (
    ResidualOperation,
    ResidualScale,
    nearest_prompt_similarity,
    residual_of,
    text_score,
    unit,
)


class FewShotModel(nn.Module, ABC):
    """A frozen CLIP with a prompt bank. Show it prompts once, then score any number of queries.

    It is made for inference and begins in eval mode; call ``train()`` before training the heads.

    Args:
        backbone: Name of an OpenCLIP vision transformer, or a ready OpenCLIP module.
        pretrained: OpenCLIP pretrained tag, path of a weights file, or ``None`` for random weights.
        layers: Blocks whose patch tokens are compared, counted from 1.
        resize_mode: How images are brought to the backbone's size; used by whoever preprocesses for this model.
        use_text: Whether the text score takes part.
        use_patch: Whether the patch residual takes part.
        use_image: Whether the image residual takes part.
        residual: Operation between the adapted class embeddings.
        residual_scale: ``"half"`` as in the authors' code, ``"full"`` as in the paper's equation.
        temperature_image: Divides the cosines of the text score.
        prompt_shifts: Offsets along each axis at which prompts are seen; see :mod:`anomalib_inctrl.prompts.shifts`.

    Raises:
        ValueError: If all three parts are switched off, or an argument has a value that it cannot have.

    Attributes:
        heads_trained: Whether the heads have been trained or loaded. If not, the training-free floor scores.
    """

    def __init__(
        self,
        backbone: str | nn.Module,
        pretrained: str | None,
        layers: Sequence[int] | None,
        resize_mode: str,
        use_text: bool,
        use_patch: bool,
        use_image: bool,
        residual: ResidualOperation,
        residual_scale: ResidualScale,
        temperature_image: float = 0.01,
        prompt_shifts: int = 1,
    ) -> None:
        super().__init__()
        if not (use_text or use_patch or use_image):
            msg = "use_text, use_patch and use_image are all off: nothing is left to score with. Switch one on."
            raise ValueError(msg)
        if residual not in get_args(ResidualOperation):
            msg = f"residual={residual!r}: choose 'residual', or the paper's comparisons 'concat' and 'average'."
            raise ValueError(msg)
        if residual_scale not in get_args(ResidualScale):
            msg = f"residual_scale={residual_scale!r}: choose 'half' (as the authors' code) or 'full' (as the paper)."
            raise ValueError(msg)
        check_prompt_shifts(prompt_shifts)
        self.backbone = FrozenCLIP(backbone, pretrained, layers)
        self.resize_mode = resize_mode
        self.use_text = use_text
        self.use_patch = use_patch
        self.residual_scale = residual_scale
        self.temperature_image = temperature_image
        self.prompt_shifts = prompt_shifts
        self.bank = PromptBank()
        self.heads_trained = False
        self.image_scorer = ImageResidualScorer(self.backbone.embed_dim, residual) if use_image else None

    def set_prompts(self, images: Tensor, class_name: str, files: Sequence[str] = ()) -> None:
        """Encode the prompts of a class and keep them; replaces earlier ones of the same name.

        Args:
            images: Preprocessed normal images ``(K, 3, H, W)``. ``K = 0`` leaves the text prompts alone (zero-shot).
            class_name: Name of the thing in the pictures; the text prompts are made with it.
            files: Where the images came from, kept with them.

        Raises:
            PromptError: If the images do not have this shape or hold values that are not finite.
            BackboneError: If they do not have the backbone's size.
        """
        if images.ndim != 4:
            msg = f"images: expected prompts (K, 3, H, W), found {tuple(images.shape)}."
            raise PromptError(msg)
        if not images.isfinite().all():
            msg = f"images: the prompts of class_name={class_name!r} hold NaN or infinite values."
            raise PromptError(msg)
        with torch.inference_mode(mode=False), torch.no_grad():
            prompts = encode_prompts(self.backbone, images, self.prompt_shifts)
            prototypes = self.backbone.text_prototypes(class_name)
            context = PromptContext(unit(prompts.patches), prompts.image, prototypes)
        self.bank.put(class_name, context, list(files))

    def score_terms(self, images: Tensor, class_name: str | Sequence[str] | None = None) -> ScoreTerms:
        """Score queries against the prompts in the bank.

        Args:
            images: Preprocessed queries ``(B, 3, H, W)``.
            class_name: Class of all queries, or one per query. May be left out if the bank holds one class.

        Returns:
            Scores and their terms. A query meets only its own class's prompts, so its scores do not depend on the
            batch it comes in.

        Raises:
            PromptError: If no prompts are set for a class name, or the number of names is not ``B``.
        """
        if class_name is None or isinstance(class_name, str):
            # Without a word about the batch's length, so that an export leaves it open.
            context = self.bank.select(class_name)
            return self.score_features(self.backbone.encode_image(images), context)
        names = list(class_name)
        if len(names) != len(images):
            msg = f"class_name: {len(names)} names for {len(images)} images; give one name, or one per image."
            raise PromptError(msg)
        groups = list(dict.fromkeys(names))
        contexts = [self.bank.select(name) for name in groups] or [self.bank.select()]
        query = self.backbone.encode_image(images)
        if len(contexts) == 1:
            return self.score_features(query, contexts[0])
        rows = [[row for row, name in enumerate(names) if name == group] for group in groups]
        parts = [self.score_features(query.rows(index), context) for index, context in zip(rows, contexts, strict=True)]
        return ScoreTerms.merge(parts, rows)

    def score_pairs(self, images: Tensor, prompt_images: Tensor, class_name: Sequence[str]) -> ScoreTerms:
        """Score queries each against prompts of its own, as in training; the bank is neither used nor changed.

        Args:
            images: Preprocessed queries ``(B, 3, H, W)``.
            prompt_images: Preprocessed prompts of each query ``(B, K, 3, H, W)``.
            class_name: Class of each query.

        Returns:
            Scores and their terms, with gradient to the heads.
        """
        return self.score_features(*self.encode_pairs(images, prompt_images, class_name))

    def encode_pairs(
        self, images: Tensor, prompt_images: Tensor, class_name: Sequence[str]
    ) -> tuple[ImageFeatures, PromptContext]:
        """Encode queries and the prompts of each; see :meth:`score_pairs` for arguments.

        Args:
            images: Preprocessed queries ``(B, 3, H, W)``.
            prompt_images: Preprocessed prompts of each query ``(B, K, 3, H, W)``.
            class_name: Class of each query.

        Returns:
            Features of the queries, and a context for each of them.
        """
        # One pass for queries and prompts together.
        features = self.backbone.encode_image(torch.cat([images, prompt_images.flatten(0, 1)]))
        return self.pair_features(features, class_name)

    def pair_features(self, features: ImageFeatures, class_name: Sequence[str]) -> tuple[ImageFeatures, PromptContext]:
        """Sort out encoded queries and prompts; what follows :meth:`encode_pairs`' pass of the backbone.

        In training mode the heads count as trained from here on.

        Args:
            features: Of ``B`` queries, then of the ``K`` prompts of the first, of the second, and so on.
            class_name: Class of each query.

        Returns:
            Features of the queries, and a context for each of them.
        """
        self.heads_trained |= self.training
        batch = len(class_name)
        k_shot = len(features.image) // batch - 1
        context = PromptContext(
            patches=unit(features.patches[batch:]).unflatten(0, (batch, k_shot)),
            image=features.image[batch:].unflatten(0, (batch, k_shot)),
            prototypes=torch.stack([self.backbone.text_prototypes(name) for name in class_name]),
        )
        return features.rows(slice(batch)), context

    def score_features(self, query: ImageFeatures, context: PromptContext) -> ScoreTerms:
        """Score encoded queries in a context, by the heads where they are trained or being trained.

        Args:
            query: Features of ``B`` queries.
            context: What they are compared with.

        Returns:
            Scores and their terms.
        """
        terms = self.training_free_terms(query, context)
        if self.training or self.heads_trained:
            self.apply_heads(query, context, terms)
        # Only residual_scale="full" can leave [0, 1], which losses and metrics take for granted.
        terms.score = terms.score.clamp(0, 1)
        return terms

    def training_free_terms(self, query: ImageFeatures, context: PromptContext) -> ScoreTerms:
        """Score without heads: ``(s_q + s_p) / 2`` and the patch residual map, or the text score alone.

        Args:
            query: Features of ``B`` queries.
            context: What they are compared with; without image prompts (K = 0) the text score is the score, and the
                anomaly map spreads it evenly.

        Returns:
            Scores and their terms.
        """
        by_text = text_score(query.image, context.prototypes, self.temperature_image)
        if context.k_shot == 0:
            nothing = torch.zeros_like(by_text)
            even = by_text.unsqueeze(-1).expand(-1, self.backbone.num_patches)
            return ScoreTerms(by_text, torch.zeros_like(even), nothing, by_text, even, self.backbone.grid)
        similarity = context.similarity
        if similarity is None:
            # The context's patch tokens are of unit length already.
            similarity = nearest_prompt_similarity(query.patches, context.patches)
        patch_map, anomaly_map = residual_of(similarity, self.residual_scale), residual_of(similarity)
        patch_score = patch_map.amax(dim=-1)
        return ScoreTerms(by_text, patch_map, patch_score, (by_text + patch_score) / 2, anomaly_map, self.backbone.grid)

    @abstractmethod
    def apply_heads(self, query: ImageFeatures, context: PromptContext, terms: ScoreTerms) -> None:
        """Put what the trained heads say into the terms; the model's own maths.

        Args:
            query: Features of ``B`` queries.
            context: What they are compared with.
            terms: Those of :meth:`training_free_terms`, changed in place.
        """

    def inference_batch(self, terms: ScoreTerms) -> InferenceBatch:
        """Turn terms into anomalib's result.

        Args:
            terms: Scores and their terms.

        Returns:
            ``pred_score (B,)`` and ``anomaly_map (B, 1, H, W)``, bilinear from the patch grid; both in [0, 1].
        """
        grid = terms.anomaly_map.unflatten(-1, terms.grid).unsqueeze(1)
        anomaly_map = F.interpolate(grid, size=self.backbone.image_size, mode="bilinear", align_corners=False)
        # What is interpolated lies between the patches; rounding beyond would rank the pixels of an even map by chance.
        least, largest = (find(grid, dim=(2, 3), keepdim=True) for find in (torch.amin, torch.amax))
        anomaly_map = anomaly_map.clamp(least, largest)
        return InferenceBatch(pred_score=terms.score, anomaly_map=anomaly_map)

    def forward(self, images: Tensor, class_name: str | Sequence[str] | None = None) -> InferenceBatch:
        """Score queries and map where they are abnormal; see :meth:`score_terms` for arguments and errors."""
        return self.inference_batch(self.score_terms(images, class_name))

    predict = forward

    def head_tensors(self) -> dict[str, Tensor]:
        """What training changes, adapters and heads, by name; neither backbone nor prompts."""
        state = self.state_dict()
        return {name: value for name, value in state.items() if not name.startswith(("backbone.", "bank.", "_extra"))}

    def get_extra_state(self) -> dict[str, Any]:
        """Whether the heads are trained, for state dicts."""
        return {"heads_trained": self.heads_trained}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_extra_state` gave."""
        self.heads_trained = bool(state["heads_trained"])
