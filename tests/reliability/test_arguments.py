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
from tests.shared import SMALL

CLASSES = {
    Detector: SMALL | {"device": "cpu"},
    InCTRL: SMALL,
    InCTRLv2: SMALL,
    GeneralistDataModule: {},
    DataSource: {"datamodule": "InCTRLDemo"},
    ExplanationVisualizer: {},
    LossMonitor: {},
    LossSchedule: {},
    BranchMonitor: {},
}
ARGUMENTS = [
    (kind, name)
    for kind in CLASSES
    for name, parameter in inspect.signature(kind).parameters.items()
    if parameter.kind is not parameter.VAR_KEYWORD
]
TAKE_ANY_TEXT = {"pretrained", "class_name", "datamodule", "root", "feature_store"}
OUT_OF_RANGE = [
    (Detector, "blocks", [0]),
    (Detector, "image_size", 0),
    (Detector, "batch_size", 0),
    (Detector, "threshold", 7),
    (Detector, "false_alarm_rate", 0.1),
    (InCTRL, "class_name", " "),
    (InCTRL, "prompts", []),
    (InCTRL, "k_shot", True),
    (InCTRL, "patch_pooling", 0),
    (InCTRLv2, "alpha", 2),
    (InCTRLv2, "temperature_patch", math.inf),
    (GeneralistDataModule, "auxiliary", [{"datamodule": "NoSuchData"}]),
    (GeneralistDataModule, "targets", [None]),
    (GeneralistDataModule, "k_shot", 0),
    (GeneralistDataModule, "train_batch_size", 3),
    (GeneralistDataModule, "eval_batch_size", 0),
    (GeneralistDataModule, "feature_store", ""),
    (DataSource, "categories", []),
    (DataSource, "class_name", ""),
    (ExplanationVisualizer, "dpi", 0),
    (ExplanationVisualizer, "map_ranges", {"residual map": (1, 0)}),
    (LossMonitor, "every_n_steps", 0),
    (LossSchedule, "weights", {"image": {0.5: 1}}),
    (LossSchedule, "frozen_until", {"oasl_branch": "3"}),
    (BranchMonitor, "minimum", 2),
]


def assert_refused(kind, name, value):
    with pytest.raises((InCTRLError, ValueError), match=rf"{re.escape(name)}\b"):
        kind(**CLASSES[kind] | {name: value})


@pytest.mark.parametrize(("kind", "name"), ARGUMENTS)
def test_other_types_negative_numbers_and_unknown_choices_are_refused_and_named(kind, name):
    for value in (object(), math.nan, -1):
        assert_refused(kind, name, value)
    if name not in TAKE_ANY_TEXT:
        assert_refused(kind, name, "no such")


@pytest.mark.parametrize(("kind", "name", "value"), OUT_OF_RANGE)
def test_values_out_of_range_are_refused_and_named(kind, name, value):
    assert_refused(kind, name, value)


def test_numbers_of_numpy_lists_and_paths_are_taken(tmp_path):
    module = InCTRLv2(**SMALL, k_shot=np.int64(3), blocks=(1, 2), alpha=1, threshold=0)
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
        InCTRL(**SMALL, calibration="good")
