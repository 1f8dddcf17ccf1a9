# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Decisions from scores of normal images alone, by split conformal prediction (Vovk et al., 2005; Bates et al., 2023).

If a normal image and the ``n`` calibration images are exchangeable, its p-value is at most ``alpha`` with a probability
of at most ``alpha``, whatever the distribution of scores. The smallest p-value that ``n`` images can give is
``1 / (n + 1)``: four normal images cannot guarantee fewer than 20 % false alarms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from anomalib_inctrl.errors import PromptError


def p_value(score: float, normal_scores: Sequence[float]) -> float:
    """Compute the p-value of a score: how likely a normal image scores as high.

    Args:
        score: Score of an image.
        normal_scores: Scores of ``n`` normal images, computed as the image's.

    Returns:
        ``(1 + number of normal scores not below it) / (n + 1)``, in (0, 1].
    """
    return (1 + sum(normal >= score for normal in normal_scores)) / (len(normal_scores) + 1)


def smallest_rate(count: int) -> float:
    """The smallest false-alarm rate that ``count`` normal images can guarantee, ``1 / (count + 1)``."""
    return 1 / (count + 1)


def conformal_threshold(normal_scores: Sequence[float], false_alarm_rate: float | None = None) -> float:
    """Compute the threshold above which the p-value of a score is at most the false-alarm rate.

    Args:
        normal_scores: Scores of ``n`` normal images, one or more.
        false_alarm_rate: Share of normal images that may score higher, alpha in (0, 1); by default the smallest that
            ``n`` images can guarantee, with which the threshold is the largest normal score.

    Returns:
        One of the normal scores; a score is labelled anomalous if it is larger.

    Raises:
        PromptError: If there are too few normal images for the rate; states how many are needed.
    """
    count = len(normal_scores)
    # A product that rounding has moved below a whole number would demand one image more than necessary.
    rank = 1 if false_alarm_rate is None else math.floor(false_alarm_rate * (count + 1) + 1e-9)
    if rank < 1:
        wanted = math.ceil(1 / float(false_alarm_rate or 1) - 1e-9) - 1
        msg = (
            f"false_alarm_rate={false_alarm_rate} needs {wanted} normal images to calibrate with, found {count}, which "
            f"can guarantee {smallest_rate(count):.3g}. Give more, or accept that rate."
        )
        raise PromptError(msg)
    return sorted(normal_scores, reverse=True)[rank - 1]


def check_threshold(threshold: object, false_alarm_rate: object) -> None:
    """Refuse an invalid threshold or false-alarm rate.

    Raises:
        ValueError: If the threshold is neither None, ``"auto"`` nor a number in [0, 1], if the rate does not lie in
            (0, 1), or if the rate is given without ``threshold="auto"``.
    """
    if not (threshold is None or threshold == "auto" or (_is_number(threshold) and 0 <= threshold <= 1)):  # type: ignore[operator]
        msg = f"threshold={threshold!r}: give a number in [0, 1], where raw scores lie, 'auto', or None for no labels."
        raise ValueError(msg)
    if false_alarm_rate is None:
        return
    if not (_is_number(false_alarm_rate) and 0 < false_alarm_rate < 1):  # type: ignore[operator]
        msg = f"false_alarm_rate={false_alarm_rate!r}: must lie between 0 and 1."
        raise ValueError(msg)
    if threshold != "auto":
        msg = f"false_alarm_rate has no effect with threshold={threshold!r}: give threshold='auto' with it."
        raise ValueError(msg)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
