# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Training that is killed and resumed gives the same weights, bit for bit, as an uninterrupted one."""

import os
import signal
import tempfile

import open_clip
import torch
from anomalib.callbacks.checkpoint import ModelCheckpoint
from anomalib.engine import Engine
from fsspec.implementations.local import LocalFileOpener
from lightning.pytorch import Callback
from torch.testing import assert_close

from anomalib_inctrl import GeneralistDataModule, InCTRLv2
from anomalib_inctrl.data import DataSource
from anomalib_inctrl.io.weights import read_checkpoint
from tests.processes import needs_fork, run_process
from tests.reliability.conftest import BACKBONE, COUNTS

EPOCHS, STEPS = 4, 3


class Record(Callback):
    """Logs each step with its loss, and kills the process in one of them."""

    def __init__(self, log, place):
        self.file, self.place = log, place

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        with self.file.open("a") as file:
            file.write(f"{trainer.current_epoch} {batch_idx} {outputs['loss'].item()!r}\n")
        if self.place == (trainer.current_epoch, batch_idx):
            os.kill(os.getpid(), signal.SIGKILL)


def die_while_writing(epoch):
    """Kill the process when half of an epoch's checkpoint is written."""
    real = LocalFileOpener.write

    def write(opener, content):
        if f"epoch={epoch}" not in str(opener.path):
            return real(opener, content)
        real(opener, bytes(content)[: len(content) // 2])
        opener.f.flush()
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    LocalFileOpener.write = write


def train(backbone_file, data, folder, log, place):
    """Train, from the newest checkpoint on if there is one."""
    open_clip.add_model_config(backbone_file)
    tempfile.tempdir = str(folder.parent)  # Lightning's, from where it moves finished checkpoints
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


@needs_fork
def test_killed_training_resumes_to_the_same_losses_and_weights(backbone_file, data, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run_process(train, backbone_file, data, whole, tmp_path / "whole.log", None) == 0
    # In the second step of the second epoch; while the third epoch's checkpoint is written; in the fourth's first step.
    for place in ((1, 1), 2, (3, 0)):
        assert run_process(train, backbone_file, data, killed, tmp_path / "killed.log", place) == -signal.SIGKILL
        for path in (killed / "kept").glob("*.ckpt"):
            assert read_checkpoint(path)["state_dict"]  # never a partial file
    assert run_process(train, backbone_file, data, killed, tmp_path / "killed.log", None) == 0
    names = [f"epoch={epoch}.ckpt" for epoch in range(EPOCHS)]
    assert sorted(path.name for path in (killed / "kept").glob("*.ckpt")) == names
    for name in names:
        one, other = (read_checkpoint(folder / "kept" / name) for folder in (whole, killed))
        assert one["global_step"] == other["global_step"]
        tensors = {key: value for key, value in one["state_dict"].items() if torch.is_tensor(value)}
        assert len(tensors) > 10
        expected = {key: other["state_dict"][key] for key in tensors}
        assert_close(tensors, expected, rtol=0, atol=0, equal_nan=True)  # thresholds that nothing has set are NaN
    # Each step of an epoch whose checkpoint was lost is repeated, with the same loss.
    steps, done = ((tmp_path / f"{name}.log").read_text().splitlines() for name in ("whole", "killed"))
    assert len(steps) == EPOCHS * STEPS
    assert set(done) == set(steps)
