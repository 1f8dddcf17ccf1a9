# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import itertools
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback

from anomalib_inctrl import InCTRL
from anomalib_inctrl.callbacks import LossSchedule
from tests.callbacks.conftest import Probe, moved, parameters

MONITORED = Path(__file__).parents[2] / "configs" / "train" / "inctrl_v2_monitored.yaml"
DECAY = {"weight_decay": 0.5}


@pytest.mark.parametrize(
    ("interpolate", "expected"),
    [(False, [7, 7, 1, 1, 1, 1, 3, 0, 0]), (True, [7, 7, 1, 1.5, 2, 2.5, 3, 0, 0])],
)
def test_weight_by_epoch(interpolate, expected):
    schedule = LossSchedule(weights={"pixel": {6: 3.0, 2: 1.0, 7: 0.0}}, interpolate=interpolate)
    assert [schedule.weight("pixel", epoch, own=7) for epoch in range(9)] == pytest.approx(expected)
    assert schedule.weight("image", 4, own=0.3) == 0.3


def test_weights_are_set_for_each_batch_and_restored(fit):
    probe = Probe(at_batch=lambda model: dict(model.loss_weights))
    schedule = LossSchedule(weights={"one_class": {1: 0.0}, "image": {0: 2.0, 2: 4.0}}, interpolate=True)
    model, _ = fit(schedule, probe, gradient_clip_val=0.1, epochs=3, options={"one_class_weight": 0.25})
    expected = [{"image": image, "pixel": 1.0, "one_class": weight} for image, weight in ((2, 0.25), (3, 0), (4, 0))]
    assert probe.batches == [weights for weights in expected for _ in range(2)]
    assert model.loss_weights == {"image": 1.0, "pixel": 1.0, "one_class": 0.25}


def test_scheduled_weights_train_as_the_models_own(fit):
    given, _ = fit(epochs=1, options={"pixel_weight": 0.1, "one_class_weight": 0.0})
    scheduled, _ = fit(LossSchedule(weights={"pixel": {0: 0.1}, "one_class": {0: 0.0}}), epochs=1)
    assert not moved(parameters(given), parameters(scheduled))


def test_a_frozen_group_stays_and_the_others_train_as_without_it(fit, make_model):
    model = make_model(**DECAY)
    start, probe, free = parameters(model), Probe(at_epoch=parameters), Probe(at_epoch=parameters)
    fit(LossSchedule(frozen_until={"oasl_branch": 2, "image_scorer": 1}), probe, model=model, epochs=3)
    expected = [{"dasl_branch"}, {"dasl_branch", "image_scorer"}, {"dasl_branch", "image_scorer", "oasl_branch"}]
    assert [moved(one, other) for one, other in itertools.pairwise([start, *probe.epochs])] == expected
    fit(free, epochs=3, options=DECAY)
    for one, other in zip(probe.epochs, free.epochs, strict=True):
        assert "dasl_branch" not in moved(one, other)


def test_resumed_training_equals_an_uninterrupted_one(fit, tmp_path):
    def run(name, **given):
        schedule = LossSchedule({"one_class": {0: 0.1, 2: 0.7}}, {"oasl_branch": 2, "dasl_branch": 1}, interpolate=True)
        options = {"epochs": 3, "options": {"score_map": "fused"} | DECAY, "default_root_dir": tmp_path / name}
        return fit(schedule, **options | given)

    whole, _ = run("whole")
    _, trainer = run("first", epochs=1)
    resumed, _ = run("second", ckpt_path=trainer.checkpoint_callback.best_model_path)
    assert not moved(parameters(whole), parameters(resumed))


@pytest.mark.parametrize(
    ("message", "kind", "options"),
    [
        (r"weights: unknown \['pixels'\].*\['image', 'one_class', 'pixel'\]", None, {"weights": {"pixels": {0: 1.0}}}),
        (r"frozen_until: unknown \['oasl'\].*\['dasl_branch', 'image_sc", None, {"frozen_until": {"oasl": 1}}),
        ("InCTRL has no loss weights", InCTRL, {"weights": {"image": {0: 1.0}}}),
        ("neither of them negative", None, {"weights": {"image": {-1: 1.0}}}),
        ("cannot be negative", None, {"frozen_until": {"dasl_branch": -1}}),
    ],
)
def test_wrong_names_and_numbers_are_refused(fit, message, kind, options):
    with pytest.raises(ValueError, match=message):
        fit(LossSchedule(**options), **({"kind": kind} if kind else {}))


def test_callbacks_are_created_from_yaml():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--callbacks", type=list[Callback])
    parsed = parser.parse_object({"callbacks": yaml.safe_load(MONITORED.read_text())["trainer"]["callbacks"]})
    assert parser.parse_string(parser.dump(parsed)) == parsed  # what it writes it reads again
    monitor, branches, schedule = parser.instantiate_classes(parsed).callbacks
    assert (monitor.every_n_steps, branches.minimum) == (5, 0.05)
    assert [schedule.weight("one_class", epoch, own=9.0) for epoch in range(4)] == [9.0, 0.5, 1.0, 1.0]
    assert [schedule.is_frozen("oasl_branch", epoch) for epoch in range(3)] == [True, False, False]
