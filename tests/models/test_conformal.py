# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from anomalib_inctrl.errors import PromptError
from anomalib_inctrl.models.components.conformal import check_threshold, conformal_threshold, p_value


def test_p_values_count_the_normal_scores_that_are_not_lower():
    normal = [0.1, 0.2, 0.3, 0.4]
    assert [p_value(score, normal) for score in (0.05, 0.2, 0.25, 0.4, 0.5)] == [1.0, 0.8, 0.6, 0.4, 0.2]


@pytest.mark.parametrize("count", [1, 4, 9, 19, 20, 39])
@pytest.mark.parametrize("rate", [None, 0.05, 0.1, 0.2, 0.5, 0.9])
def test_a_score_is_above_the_threshold_where_its_p_value_is_at_most_the_rate(count, rate):
    normal = torch.rand(count, generator=torch.Generator().manual_seed(count)).tolist()
    if rate is not None and rate < 1 / (count + 1) - 1e-9:
        with pytest.raises(PromptError, match="normal images to calibrate with"):
            conformal_threshold(normal, rate)
        return
    threshold = conformal_threshold(normal, rate)
    for score in (*normal, *(value + 1e-9 for value in normal), 0.0, 1.0):
        assert (score > threshold) == (p_value(score, normal) <= (rate or 1 / (count + 1)) + 1e-9)


@pytest.mark.parametrize(
    ("threshold", "rate", "named"),
    [
        (-0.1, None, "threshold=-0.1"),
        (True, None, "threshold=True"),
        ("auto", 0, "false_alarm_rate=0"),
        ("auto", 1.5, "false_alarm_rate=1.5"),
        (0.3, 0.1, "false_alarm_rate has no effect"),
    ],
)
def test_wrong_thresholds_and_rates_are_refused(threshold, rate, named):
    with pytest.raises(ValueError, match=named):
        check_threshold(threshold, rate)
