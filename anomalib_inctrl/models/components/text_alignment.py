# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""How well the text prompts of a class fit its normal images, and text prompts weighted by that. *Ours*.

The authors of InCTRLv2 name weak alignment of text and images as its main limit, and automatic prompts as future work.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from anomalib_inctrl.backbones import Backbone
from anomalib_inctrl.models.components.residuals import text_score, unit

logger = logging.getLogger(__name__)

TextPrompts = Literal["ensemble", "automatic"]

WEAK_ALIGNMENT = 0.45
"""Mean text score of normal images above which the text score is doubted.

On the development categories of the demonstration encoder it costs image AUROC on the categories above, and on none of
the others much (docs/prompts.md).
"""

# A pair of states whose text score is higher by this much on the normal images has 1/e of the weight.
_SCORE_SCALE = 0.1


@dataclass(frozen=True)
class TextAlignment:
    """How well the text prompts of a class fit its normal images.

    Attributes:
        class_name: The class.
        unknown_words: Words of its name that the text encoder cannot distinguish from others; None where that is not
            known: a word may have a token of its own and still mean nothing to the encoder.
        prototype_cosine: Cosine of the normal and the abnormal text prototype; near 1 the text score means little.
        normal_scores: Text score of each prompt image, in [0, 1]; high where the text takes normal images for abnormal.
    """

    class_name: str
    unknown_words: tuple[str, ...] | None
    prototype_cosine: float
    normal_scores: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        """Mean text score of the prompt images; None without any."""
        return sum(self.normal_scores) / len(self.normal_scores) if self.normal_scores else None

    @property
    def warnings(self) -> list[str]:
        """What makes the text score doubtful, a sentence each."""
        found = []
        if self.unknown_words:
            words = ", ".join(map(repr, self.unknown_words))
            found.append(f"the text encoder does not know {words}, and reads it like any other word that it lacks")
        if self.mean is not None and self.mean > WEAK_ALIGNMENT:
            found.append(
                f"the text prompts hardly separate normal from abnormal images (text score of the references "
                f"{self.mean:.2f} on average); use_text=False leaves the text score out, as "
                "text_prompts='automatic' does here"
            )
        return found

    @property
    def notes(self) -> list[str]:
        """What a figure shows of it, in short lines."""
        found = []
        if self.normal_scores:
            low, high = min(self.normal_scores), max(self.normal_scores)
            found.append(f"text score of the references: {low:.3f} to {high:.3f}")
        if self.unknown_words:
            found.append(f"unknown to the text encoder: {' '.join(self.unknown_words)}")
        return found

    def log(self) -> None:
        """Log the values in one line, and each warning."""
        values = [*self.notes, f"cosine of the text prototypes: {self.prototype_cosine:.3f}"]
        rank_zero_info(f"Text prompts of {self.class_name!r}: {', '.join(values)}.")
        for warning in self.warnings:
            logger.warning("class_name=%r: %s.", self.class_name, warning)


def measure_alignment(
    backbone: Backbone, class_name: str, prototypes: Tensor, normal: Tensor, temperature: float
) -> TextAlignment:
    """Measure how well text prompts fit the normal images of a class.

    Args:
        backbone: Encoder of both, with a text encoder.
        class_name: The class.
        prototypes: Its text prototypes ``(2, D)``.
        normal: Class embeddings of its normal images ``(K, D)``.
        temperature: Divides the cosines of the text score.

    Returns:
        The measurement.
    """
    words = backbone.unknown_words(class_name)
    normal_prototype, abnormal_prototype = unit(prototypes.float())
    return TextAlignment(
        class_name,
        None if words is None else tuple(words),
        float(normal_prototype @ abnormal_prototype),
        tuple(text_score(normal, prototypes, temperature).tolist()),
    )


def automatic_prototypes(states: tuple[Tensor, Tensor], normal: Tensor, temperature: float) -> Tensor:
    """Text prototypes from the states that move least on normal images; both alike where none fits them.

    Each pair of a normal and an abnormal state gives the normal images a text score, which should be 0. Its weight is
    the softmax over all pairs of minus the root mean square of these scores, and a state's weight the sum over its
    pairs. If the mean text score is above :data:`WEAK_ALIGNMENT` even so, both prototypes are the mean of the two: the
    text score is then 1/2 of every image.

    Args:
        states: Embeddings of the normal and of the abnormal states ``(S, D)``; see :meth:`.Backbone.text_states`.
        normal: Class embeddings of ``K >= 1`` normal images ``(K, D)``.
        temperature: Divides the cosines of the text score.

    Returns:
        Unit-length prototypes ``(2, D)``.
    """
    with torch.autocast(normal.device.type, enabled=False):
        good, bad = (unit(normal.float()) @ unit(part).mT for part in states)  # (K, S) each
        scores = ((bad.unsqueeze(1) - good.unsqueeze(2)) / temperature).sigmoid()  # (K, S, S')
        movement = scores.square().mean(dim=0).sqrt()
        weights = (-movement / _SCORE_SCALE).flatten().softmax(dim=0).view_as(movement)
        prototypes = unit(torch.stack([weights.sum(dim=1) @ states[0], weights.sum(dim=0) @ states[1]]))
        weak = text_score(normal, prototypes, temperature).mean() > WEAK_ALIGNMENT
        return torch.where(weak, unit(prototypes.mean(dim=0)), prototypes)
