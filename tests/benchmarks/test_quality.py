# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Quality gates: what the demonstration encoder must find, without trained heads, of what it has never seen."""

import importlib
from pathlib import Path

import pytest
import quality

from anomalib_inctrl.backbone import FrozenCLIP

# Three standard deviations below the mean over seeds; `python benchmarks/quality.py` measures both.
LIMITS = {
    "rendered": {"image": 0.63, "pixel": 0.93},
    "unseen defects": {"image": 0.73, "pixel": 0.94},
    "photographs": {"image": 0.67, "pixel": 0.82},
    "digits": {"image": 0.52},
}


def test_held_out_kinds_are_those_of_the_training(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "tools"))
    assert importlib.import_module("mini_clip_data").HELD_OUT_DEFECTS == quality.HELD_OUT


@pytest.mark.parametrize("gate", quality.GATES)
def test_finds_what_it_has_never_seen(gate):
    found = quality.means(FrozenCLIP("mini-clip-16-240", "demo"), gate, seed=7)
    assert found.keys() == LIMITS[gate].keys()
    assert all(found[key] >= limit for key, limit in LIMITS[gate].items()), found
