# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Quality gates: what the demonstration encoder must find, without trained heads, of what it has never seen."""

import pytest
import quality

from anomalib_inctrl.backbones import OpenCLIPBackbone
from tools.encoder.data import HELD_OUT_DEFECTS

# What `python benchmarks/quality.py` prints; a little more where random weights would reach that.
LIMITS = {
    "rendered": {"image": 0.83, "pixel": 0.95},
    "unseen defects": {"image": 0.84, "pixel": 0.94},
    "photographs": {"image": 0.89, "pixel": 0.96},
    "digits": {"image": 0.71},
}


def test_held_out_kinds_are_those_of_the_training():
    assert HELD_OUT_DEFECTS == quality.HELD_OUT


@pytest.mark.parametrize("gate", quality.GATES)
def test_encoder_is_above_its_limits(gate):
    found = quality.means(OpenCLIPBackbone("mini-clip-16-240", "demo"), gate, quality.GATE_SEED)
    assert found.keys() == LIMITS[gate].keys()
    assert all(found[key] >= limit for key, limit in LIMITS[gate].items()), found


def test_random_weights_are_below_the_limits():
    found = quality.means(OpenCLIPBackbone("mini-clip-16-240", None), "photographs", quality.GATE_SEED)
    assert all(found[key] < limit for key, limit in LIMITS["photographs"].items()), found
