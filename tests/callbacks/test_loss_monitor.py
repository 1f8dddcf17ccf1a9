# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pandas as pd
import pytest
from anomalib.models import Padim
from lightning.pytorch.loggers import CSVLogger

from anomalib_inctrl import InCTRL
from anomalib_inctrl.callbacks import BranchMonitor, LossMonitor
from tests.callbacks.conftest import Probe, moved, parameters

MAP_LOSSES = ("focal", "dice", "fused_dice")
REACH = {
    "image_focal": "image_scorer",
    **{f"pixel_{loss}": "dasl_branch" for loss in MAP_LOSSES},
    **{f"one_class_{loss}": "oasl_branch" for loss in MAP_LOSSES},
}


def table(trainer):
    return pd.read_csv(Path(trainer.default_root_dir) / "losses.csv")


def test_training_is_unchanged_bit_for_bit(fit, generalist):
    plain, _ = fit(datamodule=generalist())
    monitored, _ = fit(LossMonitor(every_n_steps=1, progress_bar=True), BranchMonitor(), datamodule=generalist())
    assert not moved(parameters(plain), parameters(monitored))


def test_terms_sum_to_the_loss_and_their_gradients_bound_the_used_one(fit):
    probe = Probe()
    _, trainer = fit(LossMonitor(every_n_steps=1), probe)
    found = table(trainer)
    norms = {f"grad_norm/{term}/{group}" for term, group in REACH.items()}
    assert set(found) == {"epoch", "step"} | {f"loss/{term}" for term in REACH} | norms
    assert found[["epoch", "step"]].to_numpy().tolist() == [[0, 0], [0, 1], [1, 2], [1, 3]]
    for (_, row), loss, used in zip(found.iterrows(), probe.losses, probe.norms, strict=True):
        assert row.filter(like="loss/").sum() == pytest.approx(loss, rel=1e-5)
        for group in set(REACH.values()):
            alone = row.filter(like=f"/{group}")
            # Triangle inequality; image_scorer has one term, so there both bounds are equal.
            assert 2 * alone.max() - alone.sum() <= used[group] * 1.0001
            assert used[group] <= alone.sum() * 1.0001
            assert alone.max() > 0


def test_a_logger_replaces_the_file(fit, tmp_path):
    logger = CSVLogger(tmp_path, name="log")
    probe = Probe(at_batch=lambda model: dict(model.loss_terms))
    _, trainer = fit(LossMonitor(2, progress_bar=True), probe, logger=logger, log_every_n_steps=50)
    assert not list(tmp_path.rglob("losses.csv"))
    logged = pd.read_csv(Path(logger.log_dir) / "metrics.csv").dropna(subset="loss/one_class_dice")
    assert logged.step.to_list() == [0, 2]
    assert logged["grad_norm/one_class_dice/oasl_branch"].gt(0).all()
    assert {f"loss/{term}" for term in REACH} <= set(trainer.progress_bar_metrics)
    assert probe.batches == [{}] * 4  # no graph outlives its step


def test_inctrl_in_half_precision_with_accumulated_batches(fit, generalist):
    datamodule = generalist(targets=False, steps_per_epoch=6, k_shot=1)
    options = {"epochs": 1, "datamodule": datamodule, "accumulate_grad_batches": 2, "precision": "bf16-mixed"}
    _, trainer = fit(LossMonitor(every_n_steps=2), kind=InCTRL, **options)
    found = table(trainer)
    reach = ("score_loss/image_scorer", "score_loss/map_head", "image_loss/image_scorer")
    names = {"loss/score_loss", "loss/image_loss"} | {f"grad_norm/{pair}" for pair in reach}
    assert set(found) == {"epoch", "step"} | names
    assert found.step.to_list() == [0, 2]
    assert found.notna().all(axis=None)


def test_models_of_other_packages_are_refused(make_engine, target):
    with pytest.raises(ValueError, match="LossMonitor works with InCTRL and InCTRLv2, not with Padim"):
        make_engine(callbacks=[LossMonitor()]).fit(Padim(backbone="resnet18", pre_trained=False), datamodule=target())
