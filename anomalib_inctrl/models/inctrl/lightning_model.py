# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""InCTRL for anomalib: few-shot generalist anomaly detection by in-context residuals.

Example:
    >>> from anomalib.data import MVTecAD
    >>> from anomalib.engine import Engine
    >>> from anomalib_inctrl import InCTRL
    >>> model = InCTRL(k_shot=4, weights="inctrl.ckpt")  # doctest: +SKIP
    >>> Engine().test(model, datamodule=MVTecAD(category="bottle"))  # doctest: +SKIP

Paper:
    Zhu and Pang, "Toward Generalist Anomaly Detection via In-context Residual Learning with Few-shot Sample Prompts",
    CVPR 2024, https://arxiv.org/abs/2403.06495

See Also:
    :class:`anomalib_inctrl.models.inctrl.torch_model.InCTRLModel`: the model in plain PyTorch.
"""

from typing import Any, Literal

from anomalib.metrics import Evaluator
from anomalib.models import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.visualization import Visualizer
from torch import Tensor, nn

from anomalib_inctrl.models.components.few_shot_module import FewShotModule
from anomalib_inctrl.models.components.losses import BinaryFocalLoss
from anomalib_inctrl.models.inctrl.torch_model import InCTRLModel


class InCTRL(FewShotModule, AnomalibModule):
    """InCTRL: trained once on an auxiliary dataset, then given a few normal images of any object.

    How it runs depends on the arguments. With ``GeneralistDataModule`` its heads are trained. With ``weights`` they
    are taken as they are, and prompts and thresholds set anew on the target. With a checkpoint everything is as saved.
    Without either it scores by the training-free baseline. A stock datamodule adapts prompts and thresholds only.

    Args:
        backbone: Name of an OpenCLIP vision transformer, or ``timm/`` and the name of a timm one. A checkpoint's own is
            used where one is given.
        pretrained: Pretrained tag or path of a weights file; ``True`` for the backbone's default weights, ``None`` for
            random ones.
        blocks: Blocks whose patch tokens are compared, counted from 1; by default 7/12, 9/12 and 11/12 of the depth.
        image_size: Side of the square input in pixels, a multiple of the patch size; None for the backbone's default.
        resize_mode: ``"squash"`` sees the whole image, ``"center_crop"`` is the authors' protocol.
        k_shot: Number of prompts per class; 0 leaves the text prompts alone.
        class_name: Name of the object in the images, for the text prompts; by default the datamodule's category.
        prompts: Normal images to use as prompts: a folder, one or several files, a text file with one path a line, or a
            written ``prompts.json``.
        prompt_selection: How prompts are chosen among the train split's normal images: ``"random"``, ``"first"`` or
            ``"representative"``.
        prompt_shifts: *Ours*: offsets along each axis at which the patches of every prompt in use are seen, not those
            of a training batch; 1 sees prompts as they are. More help where objects do not lie as in the prompts.
        weights: Checkpoint whose trained heads are used.
        threshold: Raw score above which an image is labelled anomalous, in [0, 1]; ``"auto"`` computes it, and that of
            the map, from normal images. None leaves it to labelled validation images, or to the checkpoint.
        false_alarm_rate: With ``threshold="auto"``, the share of normal images that may be labelled anomalous; ``n``
            normal images can promise ``1 / (n + 1)`` at best, which is the default.
        calibration: With ``threshold="auto"``, folder of further normal images; without it each prompt is scored
            against the others.
        use_text: Whether the text score takes part.
        use_patch: Whether the patch residual takes part.
        use_image: Whether the image residual takes part.
        residual: ``"residual"``, or the paper's comparisons ``"concat"`` and ``"average"``.
        residual_scale: ``"half"`` as in the authors' code, ``"full"`` as in the paper's equation.
        patch_pooling: ``"max"``, the largest patch residual, or, *ours*, the mean of this many largest ones.
        patch_metric: What the patch residual is taken in: ``"cosine"`` of the backbone's tokens, or, *ours*,
            ``"learned"``, the cosine behind a linear map that is trained with the heads.
        fusion: How the components give the score: ``"paper"``, fixed weights, or, *ours*, ``"standardized"`` or
            ``"logistic"`` weights, fitted at the end of training on a quarter of the auxiliary categories that the
            heads are kept from. It needs six categories; with fewer, and until it is fitted, the paper's weights count.
        text_prompts: ``"ensemble"``, the mean of all text prompts, or, *ours*, ``"automatic"``, those weighted by how
            little they move on a class's normal images, and none where they do not fit these.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
        seed: Decides the heads' first weights and the choice of prompts.
        pre_processor: anomalib pre-processor, or whether to use the model's own.
        post_processor: anomalib post-processor, or whether to use the default.
        evaluator: anomalib evaluator, or whether to use the default metrics.
        visualizer: anomalib visualizer, or whether to use the model's own.
    """

    model_class = InCTRLModel

    def __init__(
        self,
        backbone: str = "ViT-B-16-plus-240",
        pretrained: bool | str | None = True,
        blocks: list[int] | None = None,
        image_size: int | None = None,
        resize_mode: Literal["squash", "center_crop"] = "squash",
        k_shot: int = 4,
        class_name: str | None = None,
        prompts: str | list[str] | None = None,
        prompt_selection: str = "random",
        prompt_shifts: int = 1,
        weights: str | None = None,
        threshold: float | Literal["auto"] | None = None,
        false_alarm_rate: float | None = None,
        calibration: str | None = None,
        use_text: bool = True,
        use_patch: bool = True,
        use_image: bool = True,
        residual: Literal["residual", "concat", "average"] = "residual",
        residual_scale: Literal["half", "full"] = "half",
        patch_pooling: int | Literal["max"] = "max",
        patch_metric: Literal["cosine", "learned"] = "cosine",
        fusion: Literal["paper", "standardized", "logistic"] = "logistic",
        text_prompts: Literal["ensemble", "automatic"] = "ensemble",
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        seed: int = 0,
        pre_processor: nn.Module | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        super().__init__(pre_processor, post_processor, evaluator, visualizer)
        self.loss = BinaryFocalLoss()
        self.setup_few_shot()

    def training_losses(self, batch: Any) -> dict[str, Tensor]:
        """Focal losses of the image's score and of the image residual's score (InCTRL, eq. 8 and 10).

        With a learned metric also ``metric_loss``, its own, of the images; the others do not train it.
        """
        query, context = self.encode_batch(batch)
        metric_losses, context = self.model.metric_losses(query, context, batch.gt_label)
        components = self.model.score_features(query, context)
        losses = metric_losses | {"score_loss": self.loss(components.score, batch.gt_label)}
        if components.image_score is not None:
            losses["image_loss"] = self.loss(components.image_score, batch.gt_label)
        return losses
