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

from typing import Any

from anomalib.models import AnomalibModule
from torch import Tensor

from anomalib_inctrl.models.components.few_shot_module import FewShotModule
from anomalib_inctrl.models.inctrl.torch_model import InCTRLModel


class InCTRL(FewShotModule, AnomalibModule):
    """InCTRL: trained once on an auxiliary dataset, then given a few normal images of any object.

    How it runs depends on the arguments. With ``GeneralistDataModule`` its heads are trained. With ``weights`` they
    are taken as they are, and prompts and thresholds come from the target. With a checkpoint everything is as saved.
    Without either it scores by the training-free baseline. A stock datamodule adapts prompts and thresholds only.

    Its arguments are those of :class:`~anomalib_inctrl.models.components.few_shot_module.FewShotModule`.
    """

    model_class = InCTRLModel

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
