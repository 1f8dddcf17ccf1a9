# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""InCTRL: its formula under all switches, and the authors' weights."""

import pytest
import torch
from torch.testing import assert_close


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
