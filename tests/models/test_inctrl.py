# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""InCTRL: its formula under all switches, and the authors' weights."""

import pytest
import torch
from torch.testing import assert_close

from anomalib_inctrl.errors import CheckpointError
from anomalib_inctrl.models.inctrl.official import load_official_weights


@pytest.mark.parametrize(
    ("switches", "parts"),
    [
        ({}, {"text", "patch", "image"}),
        ({"use_text": False}, {"patch", "image"}),
        ({"use_patch": False}, {"text", "image"}),
        ({"use_image": False}, {"text", "patch"}),
        ({"use_text": False, "use_patch": False}, {"image"}),
    ],
)
def test_score_equals_the_formula_under_all_switches(tiny, pool, switches, parts):
    model = tiny(**switches)
    model.heads_trained = True
    model.set_prompts(pool[:2], "candle")
    components = model.score_components(pool[8:10])
    holistic = torch.zeros_like(components.patch_map)
    if "patch" in parts:
        holistic = holistic + components.patch_map
    if "image" in parts:
        holistic = holistic + components.image_score[:, None]
    if "text" in parts:
        holistic = holistic + components.text_score[:, None]
    head = model.map_head(holistic)
    assert_close(components.head_score, head)
    assert_close(components.score, (head + components.patch_score) / 2 if "patch" in parts else head)


def test_official_weights_that_do_not_fit_are_refused_and_load_nothing(official, official_weights):
    before = {key: value.clone() for key, value in official.state_dict().items() if torch.is_tensor(value)}
    for changed, name in (
        (
            {key: value for key, value in official_weights.items() if key != "diff_head.bn2.bias"},
            r"map_head\.layers\.2\.bias",
        ),
        (official_weights | {"unknown_key": torch.zeros(1)}, "unknown_key"),
        (official_weights | {"adapter.fc.0.weight": torch.zeros(2, 2)}, r"image_scorer\.adapter\.fc\.0\.weight"),
        ({key: value for key, value in official_weights.items() if key != "visual.proj"}, r"visual\.proj"),
    ):
        with pytest.raises(CheckpointError, match=name):
            load_official_weights(official, changed)
    for key, value in before.items():
        assert torch.equal(official.state_dict()[key], value), key
