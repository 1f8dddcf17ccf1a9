# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Every argument is checked when it is given, and the error names it."""

import inspect
import math
import re

import numpy as np
import pytest

from anomalib_inctrl import Detector, GeneralistDataModule, InCTRL, InCTRLv2
from anomalib_inctrl.arguments import check_arguments
from anomalib_inctrl.callbacks import BranchMonitor, LossMonitor, LossSchedule
from anomalib_inctrl.data import DataSource
from anomalib_inctrl.errors import ArgumentError, InCTRLError
from anomalib_inctrl.visualization import ExplanationVisualizer
from tests.reliability.conftest import BACKBONE

NEEDED = {
    Detector: {"backbone": BACKBONE, "pretrained": None, "device": "cpu"},
    InCTRL: {"backbone": BACKBONE, "pretrained": None},
    InCTRLv2: {"backbone": BACKBONE, "pretrained": None},
    DataSource: {"datamodule": "InCTRLDemo"},
}
# Values of the right type that are out of range, or no choice; every argument is given one of no type it takes as well.
WRONG = {
    Detector: {
        "blocks": [0],
        "image_size": 0,
        "resize_mode": "pad",
        "device": "gpu",
        "batch_size": 0,
        "threshold": 7,
        "false_alarm_rate": 0.1,
    },
    InCTRL: {
        "k_shot": -1,
        "class_name": " ",
        "prompts": [],
        "prompt_selection": "best",
        "calibration": "x",
        "residual": "difference",
        "fusion": "best",
        "patch_metric": "euclidean",
        "learning_rate": -1,
        "seed": -1,
    },
    InCTRLv2: {"alpha": 2, "beta": -0.5, "score_map": "best", "empty_mask": "x", "image_weight": -1},
    GeneralistDataModule: {
        "auxiliary": [{"datamodule": "NoSuchData"}],
        "targets": [None],
        "k_shot": 0,
        "train_batch_size": 3,
        "eval_batch_size": 0,
        "num_workers": -1,
        "one_class_batch_size": -1,
        "feature_store": "",
    },
    DataSource: {"categories": [], "options": [1], "class_name": ""},
    ExplanationVisualizer: {"dpi": 0, "map_ranges": {"residual map": (1, 0)}},
    LossMonitor: {"every_n_steps": 0},
    LossSchedule: {"weights": {"image": {0.5: 1}}, "frozen_until": {"oasl_branch": "3"}},
    BranchMonitor: {"minimum": 2},
}
ARGUMENTS = [
    (kind, name)
    for kind in WRONG
    for name, parameter in inspect.signature(kind).parameters.items()
    if parameter.kind is not parameter.VAR_KEYWORD
]


@pytest.mark.parametrize(("kind", "name"), ARGUMENTS)
def test_wrong_values_are_refused_and_named(kind, name):
    for value in (object(), math.nan, WRONG[kind].get(name, b"bytes")):
        with pytest.raises((InCTRLError, ValueError), match=rf"{re.escape(name)}\b"):
            kind(**NEEDED.get(kind, {}) | {name: value})


def test_numbers_of_numpy_lists_and_paths_are_taken(tmp_path):
    module = InCTRLv2(backbone=BACKBONE, pretrained=None, k_shot=np.int64(3), blocks=(1, 2), alpha=1, threshold=0)
    assert module.model.alpha == 1
    ExplanationVisualizer(map_ranges={"residual map": [0, 0.2]})
    DataSource("InCTRLDemo", root=tmp_path, categories=("washer",))
    LossSchedule(weights={"image": {0: 1}})


def function(first: int = 1, second: list[int] | None = None): ...


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"first": "1"}, "first='1': expected integer."),
        ({"first": 0}, "first=0: must be 1 or more."),
        ({"second": [1, "a"]}, "second=[1, 'a']: expected integer at [1]."),
    ],
)
def test_errors_give_what_was_expected(values, message):
    with pytest.raises(ArgumentError, match=f"^{re.escape(message)}$"):
        check_arguments(function, values, {"first": 1})


def test_arguments_that_have_no_effect_are_named(checkpoint, make_module, caplog):
    Detector(checkpoint, device="cpu", image_size=64, blocks=(1, 2))
    assert "image_size=64 is ignored: the weights given have None." in caplog.text
    assert "blocks" not in caplog.text  # as in the checkpoint
    with pytest.raises(ArgumentError, match="model='InCTRL'"):
        Detector(make_module(), model="InCTRL", device="cpu")
    with pytest.raises(ArgumentError, match="calibration has no effect"):
        InCTRL(backbone=BACKBONE, pretrained=None, calibration="good")
