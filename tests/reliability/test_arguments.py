# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever is given is checked when it is given, and the error names the argument."""

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

WRONG = {
    Detector: [
        ("weights", 7),
        ("model", []),
        ("backbone", None),
        ("pretrained", 7),
        ("blocks", 3),
        ("blocks", [0]),
        ("image_size", 0),
        ("image_size", 32.0),
        ("image_size", (32, 32)),
        ("resize_mode", "pad"),
        ("device", "meta"),
        ("device", "gpu"),
        ("device", ["cpu"]),
        ("batch_size", 1.5),
        ("batch_size", "4"),
        ("threshold", 7),
        ("threshold", math.nan),
        ("false_alarm_rate", "0.1"),
        ("false_alarm_rate", 0.1),
    ],
    InCTRL: [
        ("k_shot", "2"),
        ("k_shot", True),
        ("class_name", " "),
        ("prompts", "/no/such/folder"),
        ("prompts", []),
        ("prompt_selection", "best"),
        ("calibration", "x"),
        ("use_text", "no"),
        ("residual", "difference"),
        ("residual_scale", None),
        ("patch_pooling", 0),
        ("patch_pooling", "mean"),
        ("fusion", "best"),
        ("patch_metric", "euclidean"),
        ("learning_rate", -1),
        ("weight_decay", math.nan),
        ("seed", 1.5),
        ("seed", -1),
        ("pre_processor", None),
        ("visualizer", "x"),
    ],
    InCTRLv2: [
        ("use_dasl", "x"),
        ("pixel_losses", None),
        ("alpha", 2),
        ("beta", -0.5),
        ("score_map", "best"),
        ("temperature_image", 0),
        ("temperature_patch", math.inf),
        ("prototypes", "x"),
        ("empty_mask", "x"),
        ("image_weight", -1),
        ("one_class_weight", "a"),
    ],
    GeneralistDataModule: [
        ("auxiliary", "InCTRLDemo"),
        ("auxiliary", [{"datamodule": "NoSuchData"}]),
        ("targets", [None]),
        ("k_shot", 0),
        ("k_shot", "2"),
        ("train_batch_size", 3),
        ("train_batch_size", 0),
        ("eval_batch_size", 0),
        ("steps_per_epoch", None),
        ("num_workers", -1),
        ("train_augmentations", "flip"),
        ("one_class_batch_size", -1),
        ("feature_store", 7),
        ("feature_store", ""),
        ("seed", "a"),
    ],
    DataSource: [("root", 7), ("categories", "washer"), ("categories", []), ("options", [1]), ("class_name", "")],
    ExplanationVisualizer: [
        ("explanations", "no"),
        ("dpi", 0),
        ("map_ranges", {"residual map": 1}),
        ("map_ranges", {"residual map": (1, 0)}),
        ("map_ranges", {"residual map": ("a", "b")}),
    ],
    LossMonitor: [("every_n_steps", 0), ("every_n_steps", 1.5), ("progress_bar", "x")],
    LossSchedule: [
        ("weights", {"image": 7}),
        ("weights", {"image": {0: "a"}}),
        ("weights", {"image": {0.5: 1}}),
        ("frozen_until", [1]),
        ("frozen_until", {"oasl_branch": "3"}),
        ("interpolate", None),
    ],
    BranchMonitor: [("minimum", 2), ("minimum", "a"), ("minimum", None)],
}
NEEDED = {
    Detector: {"backbone": BACKBONE, "pretrained": None, "device": "cpu"},
    InCTRL: {"backbone": BACKBONE, "pretrained": None},
    InCTRLv2: {"backbone": BACKBONE, "pretrained": None},
    DataSource: {"datamodule": "InCTRLDemo"},
}


@pytest.mark.parametrize(("kind", "name", "value"), [(kind, *case) for kind, cases in WRONG.items() for case in cases])
def test_wrong_values_are_refused_and_named(kind, name, value):
    with pytest.raises((InCTRLError, ValueError), match=rf"{re.escape(name)}\b"):
        kind(**NEEDED.get(kind, {}) | {name: value})


def test_numbers_of_numpy_lists_and_paths_are_taken(tmp_path):
    module = InCTRLv2(backbone=BACKBONE, pretrained=None, k_shot=np.int64(3), blocks=(1, 2), alpha=1, threshold=0)
    assert module.model.alpha == 1
    ExplanationVisualizer(map_ranges={"residual map": [0, 0.2]})
    DataSource("InCTRLDemo", root=tmp_path, categories=("washer",))
    LossSchedule(weights={"image": {0: 1}})


def function(first: int = 1, second: list[int] | None = None) -> None: ...


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"first": "1"}, "first='1': expected integer."),
        ({"first": 0}, "first=0: must be 1 or more."),
        ({"second": [1, "a"]}, "second=[1, 'a']: expected integer at [1]."),
    ],
)
def test_errors_say_what_was_expected(values, message):
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
