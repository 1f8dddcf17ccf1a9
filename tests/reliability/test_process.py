# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What a process leaves: killed in training, with a full disk, without a folder to write to, after long use."""

import errno
import gc
import os
import signal
import tempfile

import numpy as np
import psutil
import pytest
import torch
from anomalib.callbacks.checkpoint import ModelCheckpoint
from anomalib.engine import Engine
from fsspec.implementations.local import LocalFileOpener
from lightning.pytorch import Callback
from PIL import Image
from torch.testing import assert_close

from anomalib_inctrl import InCTRLDemo, InCTRLv2
from anomalib_inctrl.backbones import ImageFeatures
from anomalib_inctrl.data import DATASETS
from anomalib_inctrl.data.datasets.converted import write_converted
from anomalib_inctrl.io.files import write_image_atomic, write_text_atomic
from anomalib_inctrl.io.weights import read_checkpoint, write_checkpoint
from anomalib_inctrl.models.components.feature_store import FeatureStore
from anomalib_inctrl.prompts.selection import write_prompt_list
from tests.data.raw_trees import WRITERS
from tests.processes import needs_fork, run_process
from tests.shared import COUNTS, QUIET, SMALL, generalist_data

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
        return os.kill(os.getpid(), signal.SIGKILL)

    LocalFileOpener.write = write


def train(data, folder, place):
    """Train, from the newest checkpoint on if there is one."""
    tempfile.tempdir = str(folder.parent)  # Lightning's, from where it moves finished checkpoints
    if isinstance(place, int):
        die_while_writing(place)
    kept = sorted((folder / "kept").glob("*.ckpt"))
    every_epoch = ModelCheckpoint(folder / "kept", "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    callbacks = [every_epoch, Record(folder.with_suffix(".log"), place)]
    engine = Engine(max_epochs=EPOCHS, default_root_dir=folder / "results", callbacks=callbacks, **QUIET)
    model = InCTRLv2(**SMALL, blocks=[1, 2], k_shot=2, visualizer=False)
    datamodule = generalist_data(data, targets=False, steps_per_epoch=STEPS)
    engine.fit(model, datamodule=datamodule, ckpt_path=str(kept[-1]) if kept else None)


@needs_fork
def test_killed_training_resumes_to_the_same_losses_and_weights(data, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run_process(train, data, whole, None) == 0
    # In the second step of the second epoch; while the third epoch's checkpoint is written; in the fourth's first step.
    for place in ((1, 1), 2, (3, 0)):
        assert run_process(train, data, killed, place) == -signal.SIGKILL
        for path in (killed / "kept").glob("*.ckpt"):
            assert read_checkpoint(path)["state_dict"]  # never a partial file
    assert run_process(train, data, killed, None) == 0
    names = {path.name for path in (killed / "kept").glob("*.ckpt")}
    assert names == {f"epoch={epoch}.ckpt" for epoch in range(EPOCHS)}
    for name in names:
        one, other = (read_checkpoint(folder / "kept" / name) for folder in (whole, killed))
        assert one["global_step"] == other["global_step"]
        tensors = {key: value for key, value in one["state_dict"].items() if torch.is_tensor(value)}
        assert len(tensors) > 10
        expected = {key: other["state_dict"][key] for key in tensors}
        assert_close(tensors, expected, rtol=0, atol=0, equal_nan=True)  # thresholds that nothing has set are NaN
    # Each step of an epoch whose checkpoint was lost is repeated, with the same loss.
    steps, done = (folder.with_suffix(".log").read_text().splitlines() for folder in (whole, killed))
    assert len(steps) == EPOCHS * STEPS
    assert set(done) == set(steps)


FEATURES = ImageFeatures(torch.ones(3, 40, 30), torch.ones(4))
WRITES = {
    "text": lambda folder, _: write_text_atomic(folder / "a.txt", "new" * 3000),
    "image": lambda folder, _: write_image_atomic(folder / "a.png", Image.effect_noise((99, 99), 90)),
    "checkpoint": lambda folder, _: write_checkpoint(folder / "a.ckpt", {"values": torch.ones(3000)}),
    "prompt list": lambda folder, _: write_prompt_list({"washer": ["a.png"] * 999}, folder),
    "feature store": lambda folder, _: FeatureStore({"a": "b" * 9000}, folder).put("aa", FEATURES),
    "conversion": lambda folder, raw: write_converted(
        DATASETS["KolektorSDD"].scan(raw, check_counts=False), folder / "out"
    ),
    "rendering": lambda folder, _: InCTRLDemo(folder, "washer", **COUNTS).prepare_data(),
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return WRITERS["KolektorSDD"](tmp_path_factory.mktemp("raw") / "raw")


def content(folder):
    """All files with content but locks, which are empty and stay."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("size", [0, 1000])
@pytest.mark.parametrize("what", WRITES)
def test_a_full_disk_leaves_the_old_content(what, size, raw, tmp_path, capsys):
    """The system's limit on the size of files does what a full disk does."""
    resource = pytest.importorskip("resource", reason="limits of a process are POSIX's")
    (tmp_path / "a.txt").write_bytes(b"old")
    before, failed = content(tmp_path), None
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        WRITES[what](tmp_path, raw)
    except OSError as error:
        failed = error.errno
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert failed == errno.EFBIG
    assert content(tmp_path) == before


@pytest.mark.parametrize("what", WRITES)
def test_a_place_that_cannot_be_a_folder_is_named(what, raw, tmp_path):
    """Root may write to any folder, so the folder's place is taken by a file."""
    (tmp_path / "taken").write_bytes(b"old")
    with pytest.raises(OSError, match="taken"):
        WRITES[what](tmp_path / "taken" / "results", raw)
    assert content(tmp_path) == {"taken": b"old"}


SOAK = int(os.environ.get("ANOMALIB_INCTRL_SOAK", "100"))


@pytest.mark.parametrize("rounds", [30, pytest.param(SOAK, marks=pytest.mark.slow)])
def test_memory_does_not_grow(detector, rounds):
    images = list(torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0)))
    used = []
    gc.freeze()  # what was there before need not be traversed every time
    for _ in range(rounds):
        detector.predict(images)[0].heat_map()
        detector.set_prompts(images, class_name="washer")
        gc.collect()
        used.append(psutil.Process().memory_info().rss)
    gc.unfreeze()
    late = used[rounds // 2 :]
    growth = np.polyfit(range(len(late)), late, deg=1)[0]
    print(f"{growth:.0f} bytes a round over {rounds} rounds")
    # An image, a map or a prompt kept by mistake would show as hundreds of kilobytes a round.
    assert growth < images[0].nbytes / 4
