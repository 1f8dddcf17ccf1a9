# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Training that is killed and taken up again comes to the same weights, bit for bit, as one that never was.

Killed conversions are in tests/data/test_convert.py, killed writers of a store in tests/data/test_feature_store.py,
killed benchmarks in tests/benchmark/test_run.py.
"""

import os
import signal
import tempfile

import pytest
import torch
from anomalib.callbacks.checkpoint import ModelCheckpoint
from anomalib.engine import Engine
from fsspec.implementations.local import LocalFileOpener
from lightning.pytorch import Callback
from torch.testing import assert_close

from anomalib_inctrl import GeneralistDataModule, InCTRLv2
from anomalib_inctrl.data import DataSource
from anomalib_inctrl.io.weights import read_checkpoint
from tests.reliability.conftest import BACKBONE, COUNTS

EPOCHS, STEPS = 4, 3


class Record(Callback):
    """Writes down each step with its loss, and ends the process where it is told to."""

    def __init__(self, log, place):
        self.file, self.place = log, place

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        with self.file.open("a") as file:
            file.write(f"{trainer.current_epoch} {batch_idx} {outputs['loss'].item()!r}\n")
        if self.place == (trainer.current_epoch, batch_idx):
            os.kill(os.getpid(), signal.SIGKILL)


def die_while_writing(epoch):
    """Half of the checkpoint of an epoch is written when the process ends.

    Lightning writes to the folder for temporary files and moves the file when it is whole.
    """
    real = LocalFileOpener.write

    def write(opener, content):
        if f"epoch={epoch}" not in str(opener.path):
            return real(opener, content)
        real(opener, bytes(content)[: len(content) // 2])
        opener.f.flush()
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    LocalFileOpener.write = write


def train(data, folder, log, place):
    """Train, from the newest checkpoint on if there is one."""
    tempfile.tempdir = str(folder.parent)  # what a killed process leaves there is to go with the test
    if isinstance(place, int):
        die_while_writing(place)
    kept = sorted((folder / "kept").glob("*.ckpt"))
    datamodule = GeneralistDataModule(
        auxiliary=[DataSource("InCTRLDemo", root=str(data), categories=["gear", "washer"], options=COUNTS)],
        k_shot=2,
        train_batch_size=4,
        steps_per_epoch=STEPS,
        num_workers=0,
    )
    every_epoch = ModelCheckpoint(folder / "kept", "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    engine = Engine(
        max_epochs=EPOCHS,
        default_root_dir=folder / "results",
        callbacks=[every_epoch, Record(log, place)],
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = InCTRLv2(backbone=BACKBONE, pretrained=None, blocks=[1, 2], k_shot=2, visualizer=False)
    engine.fit(model, datamodule=datamodule, ckpt_path=str(kept[-1]) if kept else None)


def in_a_fork(*arguments):
    """Status of a child that trains; importing everything once more would take longer than the training."""
    child = os.fork()
    if not child:
        try:
            torch.set_num_threads(1)  # a fork has none of the threads that OpenMP started, and would wait for them
            train(*arguments)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the killed process is a fork")
def test_killed_in_a_step_and_while_writing_nothing_is_lost_or_repeated(data, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert in_a_fork(data, whole, tmp_path / "whole.log", None) == 0
    # In the second step of the second epoch; while the third epoch's checkpoint is written; in the fourth's first step.
    for place in ((1, 1), 2, (3, 0)):
        assert in_a_fork(data, killed, tmp_path / "killed.log", place) == signal.SIGKILL
        for path in (killed / "kept").glob("*.ckpt"):
            assert read_checkpoint(path)["state_dict"]  # whatever is there is whole
    assert in_a_fork(data, killed, tmp_path / "killed.log", None) == 0
    names = [f"epoch={epoch}.ckpt" for epoch in range(EPOCHS)]
    assert sorted(path.name for path in (killed / "kept").glob("*.ckpt")) == names
    for name in names:
        one, other = (read_checkpoint(folder / "kept" / name) for folder in (whole, killed))
        assert one["global_step"] == other["global_step"]
        tensors = {key: value for key, value in one["state_dict"].items() if torch.is_tensor(value)}
        assert len(tensors) > 10
        for key, value in tensors.items():  # thresholds that nothing has set yet are NaN
            assert_close(value, other["state_dict"][key], rtol=0, atol=0, equal_nan=True)
    # Each step of an epoch whose checkpoint was lost is done again, and comes to the same loss.
    steps, done = ((tmp_path / f"{name}.log").read_text().splitlines() for name in ("whole", "killed"))
    assert len(steps) == EPOCHS * STEPS
    assert set(done) == set(steps)
