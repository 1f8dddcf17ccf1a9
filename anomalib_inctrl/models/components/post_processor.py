# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""anomalib's post-processing, without labels and masks where no threshold is known."""

from __future__ import annotations

from typing import Any

import torch
from anomalib.data import Batch, InferenceBatch
from anomalib.post_processing import PostProcessor
from torch import Tensor


class FewShotPostProcessor(PostProcessor):
    """Normalises scores and maps and applies thresholds, each where it is known.

    anomalib's own cuts scores at 0.5 where no threshold was ever computed, and takes the threshold of image scores for
    maps where there are no masks. Here ``pred_label`` is None without a threshold of image scores, ``pred_mask``
    without one of pixels; scores and maps lie on different scales, so neither stands in for the other.

    Args:
        enable_threshold_matching: Whether one threshold may stand in for the other after all.
        options: Further arguments of anomalib's ``PostProcessor``.
    """

    def __init__(self, enable_threshold_matching: bool = False, **options: Any) -> None:
        super().__init__(enable_threshold_matching=enable_threshold_matching, **options)
        self._known = (False, False)

    def known(self) -> tuple[bool, bool]:
        """Whether a threshold of image scores is known, and one of pixels; an exported graph keeps the last answer."""
        if not torch.compiler.is_compiling():
            self._known = not bool(self.image_threshold.isnan()), not bool(self.pixel_threshold.isnan())
        return self._known

    def set_thresholds(self, image: float | None, pixel: float | None) -> None:
        """Set thresholds of raw scores and maps; normalising then only moves that of scores to 0.5.

        Maps are divided by twice their threshold, else what is above it would hardly differ from it in colour.

        Args:
            image: Threshold of image scores in [0, 1]; None leaves it as it is.
            pixel: Threshold of maps in [0, 1]; None leaves it as it is.
        """
        for name, value, highest in (("image", image, 1.0), ("pixel", pixel, 2 * (pixel or 0.5))):
            if value is not None:
                for buffer, content in ((f"_{name}_threshold", value), (f"{name}_min", 0.0), (f"{name}_max", highest)):
                    getattr(self, buffer).fill_(content)

    def threshold_batch(self, batch: Batch[Any]) -> None:
        """Label a batch as far as thresholds are known."""
        super().threshold_batch(batch)
        image, pixel = self.known()
        batch.pred_label = batch.pred_label if image else None
        batch.pred_mask = batch.pred_mask if pixel else None

    def forward(self, predictions: InferenceBatch) -> InferenceBatch:
        """Post-process raw scores and maps; what is not known is None."""
        result: InferenceBatch = super().forward(predictions)
        image, pixel = self.known()

        def kept(value: Tensor | None, is_known: bool) -> Tensor | None:
            return value if is_known else None

        return result._replace(pred_label=kept(result.pred_label, image), pred_mask=kept(result.pred_mask, pixel))
