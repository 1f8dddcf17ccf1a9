# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""InCTRLv2 for anomalib: a few-shot generalist that detects and segments. A reconstruction.

Example:
    >>> from anomalib.data import MVTecAD
    >>> from anomalib.engine import Engine
    >>> from anomalib_inctrl import InCTRLv2
    >>> model = InCTRLv2(k_shot=4, weights="inctrl_v2.ckpt")  # doctest: +SKIP
    >>> Engine().test(model, datamodule=MVTecAD(category="bottle"))  # doctest: +SKIP

Paper:
    InCTRLv2, 2026, https://arxiv.org/abs/2604.04632. Its authors published no code.

See Also:
    :class:`anomalib_inctrl.models.inctrl_v2.torch_model.InCTRLv2Model`: the model in plain PyTorch.
"""

from typing import Any, Literal

import torch
from anomalib.models import AnomalibModule
from torch import Tensor
from torch.nn import functional as F

from anomalib_inctrl.arguments import check_arguments, check_positive
from anomalib_inctrl.errors import DatasetError
from anomalib_inctrl.models.components.few_shot_module import FewShotModule
from anomalib_inctrl.models.components.losses import DiceLoss
from anomalib_inctrl.models.inctrl_v2.torch_model import InCTRLv2Model


class InCTRLv2(FewShotModule, AnomalibModule):
    """InCTRLv2: InCTRL's residuals with two branches guided by text prompts, trained with masks. A reconstruction.

    The authors published no code, and the paper leaves some choices open; each is an argument here, marked *open*.
    How the model runs depends on what it is given, as for :class:`anomalib_inctrl.InCTRL`.

    Training minimises ``w_image L_I + w_pixel L_P + w_one_class L_O`` with

    - ``L_I``: focal loss of the score, on all queries;
    - ``L_P``: focal and Dice loss of S_a and Dice loss of M_p against the mask, on queries whose mask is known;
    - ``L_O``: the same of S'_a and M_n against an empty mask, on the normal-only queries drawn for this branch.

    Args:
        backbone: Name of an OpenCLIP vision transformer, or ``timm/`` and the name of a timm one.
        pretrained: Pretrained tag or path of a weights file; ``True`` for the backbone's default weights, ``None`` for
            random ones.
        use_dasl: Whether there is a discriminative branch.
        use_oasl: Whether there is a one-class branch.
        pixel_losses: Whether masks are learned from; without, neither branch is trained and neither takes part.
        alpha: Weight of the patch score in the score, in [0, 1].
        beta: Weight of the one-class branch in the anomaly map, in [0, 1].
        score_map: *Open*: the map whose maximum is the patch score: ``"residual"``, ``"dasl"`` or ``"fused"``.
        temperature_image: Divides the cosines of the text score.
        temperature_patch: *Open*: divides the cosines of the branches.
        adapter_per_block: *Open*: one branch adapter for each block in place of one for all.
        prototypes: What the branches compare patches with: ``"text"``, or, *ours*, ``"learned"`` prototypes; by default
            text where the backbone has a text encoder.
        empty_mask: *Ours*: how Dice treats an empty mask, ``"complement"`` or ``"literal"``.
        image_weight: Weight of L_I.
        pixel_weight: Weight of L_P.
        one_class_weight: Weight of L_O.
        shared: Further arguments of :class:`~anomalib_inctrl.models.components.few_shot_module.FewShotModule`.
    """

    model: InCTRLv2Model
    model_class = InCTRLv2Model

    def __init__(
        self,
        backbone: str = "ViT-B-16-plus-240",
        pretrained: bool | str | None = True,
        *,
        use_dasl: bool = True,
        use_oasl: bool = True,
        pixel_losses: bool = True,
        alpha: float = 0.5,
        beta: float = 0.75,
        score_map: Literal["residual", "dasl", "fused"] = "residual",
        temperature_image: float = 0.01,
        temperature_patch: float = 0.07,
        adapter_per_block: bool = False,
        prototypes: Literal["text", "learned"] | None = None,
        empty_mask: Literal["complement", "literal"] = "complement",
        image_weight: float = 1.0,
        pixel_weight: float = 1.0,
        one_class_weight: float = 1.0,
        **shared: Any,
    ) -> None:
        not_negative = dict.fromkeys(("alpha", "beta", "image_weight", "pixel_weight", "one_class_weight"), 0)
        check_arguments(InCTRLv2.__init__, locals(), not_negative, {"alpha": 1, "beta": 1})
        check_positive("temperature_image", temperature_image)
        check_positive("temperature_patch", temperature_patch)
        super().__init__(backbone, pretrained, **shared)
        self.dice = DiceLoss(empty_mask)
        self.loss_weights = {"image": image_weight, "pixel": pixel_weight, "one_class": one_class_weight}

    @classmethod
    def model_arguments(cls) -> tuple[str, ...]:
        """Arguments that shape the PyTorch model, and whether its branches are trained."""
        return (*super().model_arguments(), "pixel_losses")

    def build_model(self) -> InCTRLv2Model:
        """Create the PyTorch model from the arguments; a branch that is not trained would add noise to the map."""
        arguments = {name: self.hparams[name] for name in (*self.model_arguments(), "prompt_shifts")}
        trains_branches = arguments.pop("pixel_losses")
        arguments |= {name: arguments[name] and trains_branches for name in ("use_dasl", "use_oasl")}
        return InCTRLv2Model(**arguments)

    @property
    def needs_one_class_queries(self) -> bool:
        """Whether the datamodule is to draw normal-only queries for the one-class branch."""
        return bool(self.hparams["use_oasl"] and self.hparams["pixel_losses"])

    def on_fit_start(self) -> None:
        """Collect prompts; refuse to learn from masks where there are none."""
        super().on_fit_start()
        train_data = getattr(self._datamodule, "train_data", None)
        samples = getattr(train_data, "samples", None)
        if self._trains_heads and self.hparams["pixel_losses"] and samples is not None and not samples.has_mask.any():
            msg = (
                "None of the auxiliary images has a mask. Add a source with masks, or train at image level only: "
                "pixel_losses=False (--model.pixel_losses false)."
            )
            raise DatasetError(msg)

    def training_losses(self, batch: Any) -> dict[str, Tensor]:
        """Loss components of a batch, weighted; see the class for their sum.

        Args:
            batch: Prompted batch; rows marked ``one_class`` are the one-class branch's own.

        Returns:
            ``image_focal`` of L_I; ``pixel_focal``, ``pixel_dice`` and ``pixel_fused_dice`` of L_P;
            ``one_class_focal``, ``one_class_dice`` and ``one_class_fused_dice`` of L_O. L_P is 0 if no mask is known.
            With a learned metric also ``metric_loss``, its own; the others do not train it.
        """
        query, context = self.encode_batch(batch)
        one_class = batch.one_class if batch.one_class is not None else torch.zeros(len(batch), dtype=torch.bool)
        main = ~one_class.to(query.embedding.device)
        label = batch.gt_label[main]
        known = batch.mask_valid if batch.gt_mask is not None else torch.zeros_like(main)
        known = known[main] if known is not None else torch.ones_like(label, dtype=torch.bool)
        mask = batch.gt_mask[main][known] if batch.gt_mask is not None else None
        own_query, own_context = query.rows(main), context.rows(main)
        masks = (known, mask) if self.hparams["pixel_losses"] and mask is not None and len(mask) else None
        metric_losses, own_context = self.model.metric_losses(own_query, own_context, label, masks)
        components = self.model.score_features(own_query, own_context)
        losses = metric_losses | {"image_focal": self.loss_weights["image"] * self.loss(components.score, label)}
        if components.dasl_map is not None:
            fused_map = self.model.dasl_mean(components)
            losses |= self._map_losses("pixel", components.dasl_map[known], fused_map[known], mask, components.grid)
        if self.model.oasl_branch is not None and not bool(main.all()):
            query, context = query.rows(~main), context.rows(~main)
            components = self.model.map_components(query, self.model.compared(query, context))
            empty = torch.zeros(len(components.score), *self.model.backbone.image_size, device=components.score.device)
            fused_map = self.model.oasl_mean(components)
            losses |= self._map_losses("one_class", components.oasl_map, fused_map, empty, components.grid)
        return losses

    def _map_losses(
        self, name: str, branch_map: Tensor | None, fused_map: Tensor, mask: Tensor | None, grid: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Focal and Dice loss of a branch's map, Dice loss of its mean with the residual, at the mask's size."""
        assert branch_map is not None
        if mask is None or not len(mask):
            # Nothing to learn, but every parameter keeps a gradient: distributed training waits for all of them.
            return {f"{name}_{loss}": 0 * branch_map.sum() for loss in ("focal", "dice", "fused_dice")}

        def upsample(values: Tensor) -> Tensor:
            image = values.unflatten(-1, grid).unsqueeze(1)
            return F.interpolate(image, size=mask.shape[-2:], mode="bilinear", align_corners=False).squeeze(1)

        branch_map, weight = upsample(branch_map), self.loss_weights[name]
        return {
            f"{name}_focal": weight * self.loss(branch_map, mask),
            f"{name}_dice": weight * self.dice(branch_map, mask),
            f"{name}_fused_dice": weight * self.dice(upsample(fused_map), mask),
        }
