# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What both models share: a frozen backbone, a prompt bank, the residuals, and scores per class name."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_inctrl.arguments import check_arguments, check_positive
from anomalib_inctrl.backbones import ImageFeatures, create_backbone
from anomalib_inctrl.errors import PromptError
from anomalib_inctrl.models.components.fusion import FusionKind, ScoreFusion
from anomalib_inctrl.models.components.heads import ImageResidualScorer
from anomalib_inctrl.models.components.patch_metric import PatchMetric, PatchMetricKind
from anomalib_inctrl.models.components.prompt_bank import PromptBank, PromptContext
from anomalib_inctrl.models.components.prompt_shifts import encode_prompts
from anomalib_inctrl.models.components.residuals import (
    ResidualOperation,
    ResidualScale,
    nearest_prompt_similarity,
    residual_of,
    text_score,
    unit,
)
from anomalib_inctrl.models.components.score_components import ScoreComponents
from anomalib_inctrl.models.components.text_alignment import (
    TextAlignment,
    TextPrompts,
    automatic_prototypes,
    measure_alignment,
)


class FewShotModel(nn.Module, ABC):
    """A frozen backbone with a prompt bank: set prompts once, then score any number of queries.

    It is created in eval mode; call ``train()`` before training the heads. A subclass adds its heads and
    :meth:`score_features`, the formula of its score.

    Args:
        backbone: Name of an OpenCLIP vision transformer, ``timm/`` and the name of a timm one, or an OpenCLIP module.
        pretrained: Pretrained tag or path of a weights file; ``True`` for the backbone's default weights, ``None`` for
            random ones.
        blocks: Blocks whose patch tokens are compared, counted from 1; None for the backbone's default, in general
            7/12, 9/12 and 11/12 of the depth.
        image_size: Side of the square input in pixels, a multiple of the patch size; None for the backbone's default.
        resize_mode: How images are brought to the backbone's size; used by whoever preprocesses for this model.
        use_text: Whether the text score takes part (ablation "T"); it never does without a text encoder.
        use_patch: Whether the patch residual takes part ("P").
        use_image: Whether the image residual takes part ("I").
        residual: Operation between the adapted class embeddings; the paper compares ``"residual"`` with ``"concat"``
            and ``"average"``.
        residual_scale: ``"half"`` as in the authors' code, ``"full"`` as in the paper's equation.
        patch_pooling: How the patch score is taken from a map: ``"max"`` as in the papers, or, *ours*, the mean of this
            many largest patches.
        patch_metric: What the patch residual is taken in: ``"cosine"`` of the backbone's tokens as in the papers, or,
            *ours*, ``"learned"``, the cosine behind a linear map that is trained with the heads, see
            :class:`.PatchMetric`.
        fusion: How the components give the score: ``"paper"``, the paper's fixed weights, or, *ours*,
            ``"standardized"`` or ``"logistic"`` weights fitted on auxiliary data, see :class:`.ScoreFusion`. Until they
            are fitted, and without image prompts, the paper's count.
        text_prompts: ``"ensemble"``, the mean of all text prompts as in the papers, or, *ours*, ``"automatic"``, those
            weighted by how little they move on the normal images, and none where they do not fit these
            (:func:`.automatic_prototypes`).
        temperature_image: Divides the cosines of the text score.
        prompt_shifts: *Ours*: offsets along each axis at which the patches of prompts in the bank are seen; 1 sees
            prompts as they are.

    Raises:
        ValueError: If all three components are switched off, or an argument has an invalid value.

    Attributes:
        heads_trained: Whether the heads have been trained or loaded. If not, the training-free baseline scores.
        further_components: Components of the score beside those that every model has, for the fusion.
    """

    further_components: tuple[str, ...] = ()

    def __init__(
        self,
        backbone: str | nn.Module = "ViT-B-16-plus-240",
        pretrained: bool | str | None = True,
        blocks: Sequence[int] | None = None,
        image_size: int | None = None,
        resize_mode: str = "squash",
        use_text: bool = True,
        use_patch: bool = True,
        use_image: bool = True,
        residual: ResidualOperation = "residual",
        residual_scale: ResidualScale = "half",
        patch_pooling: int | Literal["max"] = "max",
        patch_metric: PatchMetricKind = "cosine",
        fusion: FusionKind = "paper",
        text_prompts: TextPrompts = "ensemble",
        temperature_image: float = 0.01,
        prompt_shifts: int = 1,
    ) -> None:
        super().__init__()
        if not (use_text or use_patch or use_image):
            msg = "use_text, use_patch and use_image are all off: nothing is left to score with. Switch one on."
            raise ValueError(msg)
        check_arguments(FewShotModel.__init__, locals(), {"patch_pooling": 1, "prompt_shifts": 1})
        check_positive("temperature_image", temperature_image)
        self.backbone = create_backbone(backbone, pretrained, blocks, image_size)
        use_text = use_text and self.backbone.has_text
        if not (use_text or use_patch or use_image):
            msg = f"use_patch and use_image are off, and {self.backbone.name} has no text encoder: switch one on."
            raise ValueError(msg)
        patches = self.backbone.num_patches
        if patch_pooling != "max" and patch_pooling > patches:
            msg = f"patch_pooling={patch_pooling}: {self.backbone.name} has {patches} patches. Give no more."
            raise ValueError(msg)
        self.resize_mode = resize_mode
        self.use_text = use_text
        self.use_patch = use_patch
        self.residual_scale = residual_scale
        self.patch_pooling = patch_pooling
        self.text_prompts = text_prompts
        self.temperature_image = temperature_image
        self.prompt_shifts = prompt_shifts
        self.bank = PromptBank()
        self.heads_trained = False
        self.image_scorer = ImageResidualScorer(self.backbone.embed_dim, residual) if use_image else None
        self.patch_metric = None
        if patch_metric == "learned":
            self.patch_metric = PatchMetric(self.backbone.patch_width, len(self.backbone.blocks))
        in_use = {"text_score": use_text, "patch_score": use_patch, "image_score": use_image}
        names = (*(name for name, used in in_use.items() if used), *self.further_components)
        self.fusion = None if fusion == "paper" else ScoreFusion(fusion, names)

    @classmethod
    def argument_names(cls) -> tuple[str, ...]:
        """Names of the constructor's arguments, those of the base class first."""
        names = [*inspect.signature(FewShotModel).parameters, *inspect.signature(cls).parameters]
        return tuple(dict.fromkeys(name for name in names if name != "shared"))

    # ------------------------------------------------------------------ prompts

    def set_prompts(self, images: Tensor, class_name: str, files: Sequence[str] = ()) -> None:
        """Encode the prompts of a class and keep them; replaces earlier ones of the same name.

        Args:
            images: Preprocessed normal images ``(K, 3, H, W)``. ``K = 0`` sets the text prompts alone (zero-shot).
            class_name: Name of the object in the images; the text prompts are made with it.
            files: Where the images came from, kept with them.

        Raises:
            PromptError: If the images do not have this shape or hold values that are not finite.
            BackboneError: If they do not have the backbone's size.
        """
        if not len(images) and not self.backbone.has_text:
            msg = f"images: {self.backbone.name} has no text encoder; give at least one normal image (found K = 0)."
            raise PromptError(msg)
        if images.ndim != 4:
            msg = f"images: expected prompts (K, 3, H, W), found {tuple(images.shape)}."
            raise PromptError(msg)
        if not images.isfinite().all():
            msg = f"images: the prompts of class_name={class_name!r} hold NaN or infinite values."
            raise PromptError(msg)
        with torch.inference_mode(mode=False), torch.no_grad():
            prompts = encode_prompts(self.backbone, images, self.prompt_shifts)
            prototypes = self.text_prototypes(class_name, prompts.embedding)
            context = PromptContext(unit(prompts.patches), prompts.embedding, prototypes)
        self.bank.put(class_name, context, list(files))

    def held_out(self, images: Tensor, class_name: str, batch_size: int = 16) -> ScoreComponents:
        """Score normal images, each with all the others as its prompts; the bank is neither used nor changed.

        Args:
            images: Preprocessed normal images ``(N, 3, H, W)``, two or more.
            class_name: Name of the object in the images.
            batch_size: Number of images that are encoded at once.

        Returns:
            Scores of the ``N`` images and their components.

        Raises:
            PromptError: If there are fewer than two images.
        """
        if len(images) < 2:
            msg = f"images: {len(images)} image cannot be compared with the others; give two or more."
            raise PromptError(msg)
        with torch.inference_mode(mode=False), torch.no_grad():
            features = encode_prompts(self.backbone, images, self.prompt_shifts, batch_size)
            views = features.patches.unflatten(0, (len(images), -1))  # the first view of an image is the image itself
            unit_views = unit(views)
            parts = []
            for row in range(len(images)):
                others = [other for other in range(len(images)) if other != row]
                embeddings = features.embedding[others]
                prototypes = self.text_prototypes(class_name, embeddings)
                context = PromptContext(unit_views[others].flatten(0, 1), embeddings, prototypes)
                query = ImageFeatures(views[row, :1], features.embedding[row : row + 1])
                parts.append(self.score_query(query, context))
        return ScoreComponents.merge(parts, [[row] for row in range(len(images))])

    def text_prototypes(self, class_name: str, normal: Tensor) -> Tensor:
        """Text prototypes of a class, by ``text_prompts``.

        Args:
            class_name: The class.
            normal: Class embeddings of its prompts ``(K, D)``; ``K = 0`` has the ensemble.

        Returns:
            Unit-length prototypes ``(2, D)``, ``(0, D)`` without a text encoder.
        """
        if self.text_prompts == "ensemble" or not self.backbone.has_text or not len(normal):
            return self.backbone.text_prototypes(class_name)
        return automatic_prototypes(self.backbone.text_states(class_name), normal, self.temperature_image)

    def text_alignment(self, class_name: str | None = None) -> TextAlignment | None:
        """Measure how well the text prompts of a class, all of them, fit its normal images in the bank.

        Args:
            class_name: The class; may be left out if the bank holds one.

        Returns:
            The measurement; None without a text encoder.

        Raises:
            PromptError: If no prompts are set for the class, or several classes have some and none is named.
        """
        context = self.bank.select(class_name)
        if not self.backbone.has_text:
            return None
        name = self.bank.class_names[0] if class_name is None else class_name
        # Automatic prototypes would hide that those of all prompts do not fit.
        automatic = self.text_prompts == "automatic"
        prototypes = self.backbone.text_prototypes(name) if automatic else context.prototypes
        return measure_alignment(self.backbone, name, prototypes, context.embeddings, self.temperature_image)

    # ------------------------------------------------------------------ scores

    def forward(self, images: Tensor, class_name: str | Sequence[str] | None = None) -> InferenceBatch:
        """Score and map queries; see :meth:`score_components` for arguments and errors.

        Returns:
            ``pred_score (B,)`` and ``anomaly_map (B, 1, H, W)``, both in [0, 1].
        """
        return self.to_inference_batch(self.score_components(images, class_name))

    def score_components(self, images: Tensor, class_name: str | Sequence[str] | None = None) -> ScoreComponents:
        """Score queries against the prompts in the bank.

        Args:
            images: Preprocessed queries ``(B, 3, H, W)``.
            class_name: Class of all queries, or one per query. May be left out if the bank holds one class.

        Returns:
            Scores and their components. A query meets only the prompts of its own class, so its score does not depend
            on the batch it comes in.

        Raises:
            PromptError: If no prompts are set for a class name, or the number of names is not ``B``.
        """
        if class_name is None or isinstance(class_name, str):
            # The batch's length is not looked at, so that an export leaves it open.
            context = self.bank.select(class_name)
            return self.score_query(self.backbone.encode_image(images), context)
        names = list(class_name)
        if len(names) != len(images):
            msg = f"class_name: {len(names)} names for {len(images)} images; give one name, or one per image."
            raise PromptError(msg)
        groups = list(dict.fromkeys(names))
        contexts = [self.bank.select(name) for name in groups] or [self.bank.select()]
        query = self.backbone.encode_image(images)
        if len(contexts) == 1:
            return self.score_query(query, contexts[0])
        rows = [[row for row, name in enumerate(names) if name == group] for group in groups]
        parts = [self.score_query(query.rows(index), context) for index, context in zip(rows, contexts, strict=True)]
        return ScoreComponents.merge(parts, rows)

    def score_query(self, query: ImageFeatures, context: PromptContext) -> ScoreComponents:
        """Score encoded queries as :meth:`score_features` does, their components fused by learned weights if there are.

        Args:
            query: Features of ``B`` queries.
            context: The prompts they are compared with.

        Returns:
            Scores and their components.
        """
        components = self.score_features(query, context)
        if self.fusion is None or not self.fusion.fitted or context.k_shot == 0:
            return components
        return replace(components, score=self.fusion(components.stack(self.fusion.names)))

    @abstractmethod
    def score_features(self, query: ImageFeatures, context: PromptContext) -> ScoreComponents:
        """Score encoded queries by the paper's formula: by heads trained or being trained, else by the baseline.

        Args:
            query: Features of ``B`` queries.
            context: The prompts they are compared with.

        Returns:
            Scores and their components.
        """

    def baseline_components(self, query: ImageFeatures, context: PromptContext) -> ScoreComponents:
        """Score without heads: ``(s_q + s_p) / 2`` and the patch residual map, or one of the two scores alone.

        A score that is switched off, or a text score without a text encoder, leaves the mean.

        Args:
            query: Features of ``B`` queries.
            context: The prompts they are compared with; without image prompts (K = 0) the text score is the score, and
                the anomaly map is constant.

        Returns:
            Scores and their components.
        """
        by_text = None
        if self.backbone.has_text:
            by_text = text_score(query.embedding, context.prototypes, self.temperature_image)
        if context.k_shot == 0 and by_text is not None:
            zero = torch.zeros_like(by_text)
            constant = by_text.unsqueeze(-1).expand(-1, self.backbone.num_patches)
            return ScoreComponents(by_text, torch.zeros_like(constant), zero, by_text, constant, self.backbone.grid)
        similarity = context.similarity
        if similarity is None:
            similarity = self.similarity(query.patches, context.patches)
        patch_map, anomaly_map = residual_of(similarity, self.residual_scale), residual_of(similarity)
        patch_score = self.pool_patches(patch_map)
        in_use = [by_text] if by_text is not None and self.use_text else []
        in_use += [patch_score] if self.use_patch or not in_use else []
        score = torch.stack(in_use).mean(dim=0)
        return ScoreComponents(by_text, patch_map, patch_score, score, anomaly_map, self.backbone.grid)

    def similarity(self, query: Tensor, prompts: Tensor) -> Tensor:
        """Cosine of every query patch with its nearest prompt patch, in the learned metric once there is one.

        Args:
            query: Patch tokens of the queries ``(B, L, P, D_v)``.
            prompts: Unit patch tokens of the prompts, ``(K, L, P, D_v)`` shared by all queries or
                ``(B, K, L, P, D_v)``.

        Returns:
            ``(B, L, P)`` in [-1, 1].
        """
        if self.patch_metric is None or not self.use_heads:
            return nearest_prompt_similarity(query, prompts)
        return nearest_prompt_similarity(self.patch_metric(query), unit(self.patch_metric(prompts)))

    def pool_patches(self, patch_map: Tensor) -> Tensor:
        """Patch score of a map: its largest value, or the mean of its ``patch_pooling`` largest.

        Args:
            patch_map: ``(B, P)``.

        Returns:
            ``(B,)``.
        """
        if self.patch_pooling == "max":
            return patch_map.amax(dim=-1)
        return patch_map.topk(self.patch_pooling, dim=-1).values.mean(dim=-1)

    @property
    def use_heads(self) -> bool:
        """Whether the heads score: if they are trained or being trained."""
        return self.training or self.heads_trained

    def to_inference_batch(self, components: ScoreComponents) -> InferenceBatch:
        """Convert to anomalib's result.

        Args:
            components: Scores and their components.

        Returns:
            ``pred_score (B,)`` and ``anomaly_map (B, 1, H, W)``, bilinear from the patch grid; both in [0, 1].
        """
        grid = components.anomaly_map.unflatten(-1, components.grid).unsqueeze(1)
        anomaly_map = F.interpolate(grid, size=self.backbone.image_size, mode="bilinear", align_corners=False)
        # Interpolated values lie between the patches'; rounding beyond them would rank the pixels of a constant map.
        least, largest = (find(grid, dim=(2, 3), keepdim=True) for find in (torch.amin, torch.amax))
        return InferenceBatch(pred_score=components.score, anomaly_map=anomaly_map.clamp(least, largest))

    # ------------------------------------------------------------------ training

    def encode_pairs(
        self, images: Tensor, prompt_images: Tensor, class_name: Sequence[str]
    ) -> tuple[ImageFeatures, PromptContext]:
        """Encode queries with prompts of their own, as in training; the bank is neither used nor changed.

        Args:
            images: Preprocessed queries ``(B, 3, H, W)``.
            prompt_images: Preprocessed prompts of each query ``(B, K, 3, H, W)``.
            class_name: Class of each query.

        Returns:
            Features of the queries, and a context for each of them, for :meth:`score_features`.
        """
        # One pass for queries and prompts together.
        features = self.backbone.encode_image(torch.cat([images, prompt_images.flatten(0, 1)]))
        return self.split_pairs(features, class_name)

    def split_pairs(self, features: ImageFeatures, class_name: Sequence[str]) -> tuple[ImageFeatures, PromptContext]:
        """Split encoded queries from their prompts; the second half of :meth:`encode_pairs`.

        Args:
            features: Of ``B`` queries, then of the ``K`` prompts of the first, of the second, and so on.
            class_name: Class of each query.

        Returns:
            Features of the queries, and a context for each of them.
        """
        batch = len(class_name)
        k_shot = len(features.embedding) // batch - 1
        embeddings = features.embedding[batch:].unflatten(0, (batch, k_shot))
        prototypes = [self.text_prototypes(name, own) for name, own in zip(class_name, embeddings, strict=True)]
        context = PromptContext(
            unit(features.patches[batch:]).unflatten(0, (batch, k_shot)), embeddings, torch.stack(prototypes)
        )
        return features.rows(slice(batch)), context

    def compared(self, query: ImageFeatures, context: PromptContext) -> PromptContext:
        """The context with the similarities of the queries, through which no gradient reaches a learned metric."""
        if self.patch_metric is None:
            return context
        return replace(context, similarity=self.similarity(query.patches, context.patches).detach())

    def metric_losses(
        self,
        query: ImageFeatures,
        context: PromptContext,
        label: Tensor,
        masks: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], PromptContext]:
        """Loss of the learned metric, which is trained by no other.

        Args:
            query: Features of ``B`` queries.
            context: A context for each of them.
            label: ``(B,)``, 1 for abnormal.
            masks: Which queries have a known mask ``(B,)``, one at least, and the masks of those ``(N, H, W)``.

        Returns:
            ``metric_loss``, of the patches of queries with masks, or of all images where there are none; empty without
            a learned metric. And the context for the other losses, see :meth:`compared`.
        """
        if self.patch_metric is None:
            return {}, context
        similarity = self.similarity(query.patches, context.patches)
        known, mask = (slice(None), None) if masks is None else masks
        loss = self.patch_metric.loss(similarity[known], label[known], mask, self.backbone.grid)
        return {"metric_loss": loss}, replace(context, similarity=similarity.detach())

    # ------------------------------------------------------------------ state

    def head_tensors(self) -> dict[str, Tensor]:
        """Adapters and heads by name, all that training changes; neither backbone nor prompts."""
        state = self.state_dict()
        return {name: value for name, value in state.items() if not name.startswith(("backbone.", "bank.", "_extra"))}

    def get_extra_state(self) -> dict[str, Any]:
        """Whether the heads are trained, for state dicts."""
        return {"heads_trained": self.heads_trained}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the value of :meth:`get_extra_state`."""
        self.heads_trained = bool(state["heads_trained"])
