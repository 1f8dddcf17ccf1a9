# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pandas as pd
import pytest
import torch
from lightning.pytorch import Callback

from anomalib_inctrl import InCTRL
from anomalib_inctrl.callbacks import BranchMonitor, LossSchedule


class Maps(Callback):
    """Keeps maps and masks of the last validation, pixel by pixel."""

    def on_validation_epoch_start(self, trainer, pl_module):
        self.pixels = []

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        sides = zip(batch.image.shape[-2:], batch.components.grid, strict=True)
        height, width = (side // patches for side, patches in sides)
        maps = [
            values.unflatten(1, batch.components.grid).repeat_interleave(height, 1).repeat_interleave(width, 2)
            for values in (batch.components.dasl_map, batch.components.oasl_map)
        ]
        self.pixels.append(torch.stack([batch.gt_mask.float(), *maps], dim=-1).flatten(0, 2).double())


@pytest.fixture
def warnings(caplog):
    """The callback's warnings so far, up to the first colon."""
    return lambda: [record.getMessage().split(":")[0] for record in caplog.records if "monitors" in record.name]


def branches(trainer):
    metrics = trainer.callback_metrics.items()
    return {name: float(value) for name, value in metrics if name.startswith("branch/")}


def test_means_equal_those_over_pixels(fit, generalist):
    maps = Maps()
    _, trainer = fit(BranchMonitor(), maps, epochs=1, datamodule=generalist(eval_batch_size=4))
    pixels = torch.cat(maps.pixels)
    abnormal = pixels[:, 0] == 1
    expected = {
        f"branch/{branch}_{kind}": float(pixels[rows, column].mean())
        for column, branch in ((1, "dasl"), (2, "oasl"))
        for kind, rows in (("normal", ~abnormal), ("abnormal", abnormal))
    }
    assert branches(trainer) == pytest.approx(expected, rel=1e-5)
    (row,) = pd.read_csv(Path(trainer.default_root_dir) / "branches.csv").to_dict("records")
    assert row == pytest.approx({"epoch": 0, "step": 2} | expected, rel=1e-5)


def test_a_collapse_is_reported_once_per_epoch(fit, make_model, generalist, warnings, caplog):
    model = make_model(temperature_patch=1e-4, learning_rate=0.0, weight_decay=0.0)
    # S'_a becomes zero everywhere: each patch is mapped to the normal prototypes' side.
    first, _, second = model.model.oasl_branch.adapters[0]
    difference = sum(torch.sub(*model.model.backbone.text_prototypes(name)) for name in ("washer", "brick"))
    with torch.no_grad():
        first.weight[1] = -first.weight[0]  # gelu(a) + gelu(-a) is positive for every a but zero
        second.weight.zero_()
        second.weight[:, :2] = difference.unsqueeze(1)
    _, trainer = fit(BranchMonitor(), model=model, datamodule=generalist(), val_check_interval=0.5)
    assert branches(trainer)["branch/oasl_abnormal"] < 1e-3
    assert warnings() == ["Epoch 0", "Epoch 1"]
    assert all(word in caplog.text for word in ("collapsed", "one_class_weight", "LossSchedule"))


def test_a_frozen_branch_is_not_reported(fit, generalist, warnings):
    schedule = LossSchedule(frozen_until={"oasl_branch": 1})
    fit(BranchMonitor(minimum=1.0), schedule, epochs=2, datamodule=generalist())
    assert warnings() == ["Epoch 1"]


def test_nothing_to_monitor_is_reported_once(fit, generalist, warnings):
    _, trainer = fit(BranchMonitor(), kind=InCTRL, epochs=1, datamodule=generalist())
    assert not branches(trainer)
    fit(BranchMonitor(), epochs=1)
    assert ["nothing to monitor" in text for text in warnings()] == [True, True]
