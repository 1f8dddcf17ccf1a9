# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The callbacks among two processes."""

import json

import pandas as pd
import pytest
import torch
from anomalib.engine import Engine

from anomalib_inctrl import InCTRLv2
from anomalib_inctrl.callbacks import BranchMonitor, LossMonitor, LossSchedule
from tests.callbacks.conftest import Probe, moved, parameters
from tests.processes import needs_fork, run_process
from tests.shared import QUIET, SMALL, generalist_data

IN_TWO = {"strategy": "ddp_fork", "devices": 2}


class Record(Probe):
    """Writes each process's losses, and the gradient norms that all of them share."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        torch.save((self.losses, self.norms), self.folder / f"{trainer.global_rank}.pt")


def create_model():
    return InCTRLv2(**SMALL, k_shot=2, weight_decay=0.5, visualizer=False)


def train_in_two(data, folder):
    model = create_model()
    before = parameters(model)
    schedule = LossSchedule(weights={"one_class": {1: 0.0}}, frozen_until={"oasl_branch": 2, "image_scorer": 1})
    callbacks = [schedule, LossMonitor(every_n_steps=1), Record(folder)]
    engine = Engine(max_epochs=2, callbacks=callbacks, default_root_dir=folder, **QUIET, **IN_TWO)
    engine.fit(model, datamodule=generalist_data(data, targets=False))
    assert moved(before, parameters(model)) == {"image_scorer", "dasl_branch"}


@needs_fork
def test_schedule_needs_no_special_strategy_and_losses_are_averaged(data, tmp_path):
    assert run_process(train_in_two, data, tmp_path) == 0
    (path,) = tmp_path.rglob("losses.csv")
    table = pd.read_csv(path)
    assert table.step.to_list() == [0, 1, 2, 3]
    assert (table["loss/one_class_focal"] == 0).to_list() == [False, False, True, True]
    assert (table["grad_norm/one_class_focal/oasl_branch"] > 0).to_list() == [True, True, False, False]
    (losses, norms), (other_losses, _) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert losses != other_losses
    mean = (torch.tensor(losses) + torch.tensor(other_losses)) / 2
    assert table.filter(like="loss/").sum(axis=1).to_list() == pytest.approx(mean.tolist(), rel=1e-5)
    # The only term of this group: its gradient is the one that training averages and uses.
    used = [float(values["image_scorer"]) for values in norms]
    assert table["grad_norm/image_focal/image_scorer"].to_list() == pytest.approx(used, rel=1e-4)


def validate(data, folder):
    found = []
    for options in ({}, IN_TWO):
        model = create_model()
        model.model.heads_trained = True
        # The processes see unlike numbers of abnormal pixels: neither one's means nor their mean would do.
        engine = Engine(callbacks=[BranchMonitor()], default_root_dir=folder, **QUIET, **options)
        found += engine.validate(model, datamodule=generalist_data(data, eval_batch_size=3), verbose=False)
    (folder / "found.json").write_text(json.dumps(found))


@needs_fork
def test_pixels_are_pooled(data, tmp_path):
    assert run_process(validate, data, tmp_path) == 0
    alone, both = json.loads((tmp_path / "found.json").read_text())
    assert sum(name.startswith("branch/") for name in alone) == 4
    assert alone == pytest.approx(both, rel=1e-5)
