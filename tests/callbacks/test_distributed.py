# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The callbacks among two processes, which are forked: importing everything twice more would take longer."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from lightning.pytorch import Callback

from anomalib_inctrl.callbacks import BranchMonitor, LossMonitor, LossSchedule
from tests.callbacks.conftest import moved, parameters

FORKED = {"strategy": "ddp_fork", "devices": 2}


class Record(Callback):
    """Writes each process's losses, and the gradient norm of the image scorer that all of them share."""

    def __init__(self, folder):
        self.folder, self.losses, self.norms = folder, [], []

    def on_before_backward(self, trainer, pl_module, loss):
        self.losses.append(loss.item())

    def on_after_backward(self, trainer, pl_module):
        gradients = [value.grad.flatten() for value in pl_module.model.image_scorer.parameters()]
        self.norms.append(torch.cat(gradients).norm().item())

    def on_train_end(self, trainer, pl_module):
        torch.save((self.losses, self.norms), self.folder / f"{trainer.global_rank}.pt")


@pytest.fixture(autouse=True)
def _can_fork():
    if torch.cuda.is_initialized():
        pytest.skip("CUDA is in use in this process, which cannot be forked then.")


def test_schedule_needs_no_special_strategy_and_losses_are_averaged(fit, make_model, tmp_path):
    model = make_model(weight_decay=0.5)
    before = parameters(model)
    schedule = LossSchedule(weights={"one_class": {1: 0.0}}, frozen_until={"oasl_branch": 2, "image_scorer": 1})
    _, trainer = fit(schedule, LossMonitor(every_n_steps=1), Record(tmp_path), model=model, epochs=2, **FORKED)
    assert moved(before, parameters(model)) == {"image_scorer", "dasl_branch"}
    (path,) = Path(trainer.default_root_dir).rglob("losses.csv")
    table = pd.read_csv(path)
    assert table.step.to_list() == [0, 1, 2, 3]
    assert (table["loss/one_class_focal"] == 0).to_list() == [False, False, True, True]
    assert (table["grad_norm/one_class_focal/oasl_branch"] > 0).to_list() == [True, True, False, False]
    (losses, norms), (other_losses, _) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert losses != other_losses
    mean = (torch.tensor(losses) + torch.tensor(other_losses)) / 2
    assert table.filter(like="loss/").sum(axis=1).to_list() == pytest.approx(mean.tolist(), rel=1e-5)
    # The only term of this group: its gradient is the one that training averages and uses.
    assert table["grad_norm/image_focal/image_scorer"].to_list() == pytest.approx(norms, rel=1e-4)


def test_pixels_are_pooled(make_model, make_engine, generalist):
    found = []
    for options in ({}, FORKED):
        model = make_model()
        model.model.heads_trained = True
        # The processes see unlike numbers of abnormal pixels: neither one's means nor their mean would do.
        engine = make_engine(callbacks=[BranchMonitor()], **options)
        found += engine.validate(model, datamodule=generalist(eval_batch_size=3), verbose=False)
    assert {name for name in found[0] if name.startswith("branch/")} == {
        f"branch/{branch}_{kind}" for branch in ("dasl", "oasl") for kind in ("normal", "abnormal")
    }
    assert found[0] == pytest.approx(found[1], rel=1e-5)
