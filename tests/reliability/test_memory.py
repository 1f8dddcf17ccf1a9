# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Memory of a process that predicts again and again."""

import gc
import os

import numpy as np
import psutil
import pytest
import torch


@pytest.mark.parametrize(
    "rounds", [30, pytest.param(int(os.environ.get("ANOMALIB_INCTRL_SOAK", "100")), marks=pytest.mark.slow)]
)
def test_memory_does_not_grow(make_detector, rounds):
    images = list(torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0)))
    detector, used = make_detector(), []
    gc.freeze()  # what was there before need not be traversed every time
    for _ in range(rounds):
        detector.predict(images)[0].heat_map()
        detector.set_prompts(images, class_name="washer")
        gc.collect()
        used.append(psutil.Process().memory_info().rss)
    gc.unfreeze()
    late = used[rounds // 2 :]
    growth = np.polyfit(range(len(late)), late, deg=1)[0]
    print(f"{growth:.0f} bytes a round over {rounds} rounds")
    # An image, a map or a prompt kept by mistake would show as hundreds of kilobytes a round.
    assert growth < images[0].nbytes / 4
