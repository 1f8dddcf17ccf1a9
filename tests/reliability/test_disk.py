# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""A full disk, or a folder that cannot be written: an error, the old content stays, and no partial file is left."""

import errno
import signal

import pytest
import torch
from PIL import Image

from anomalib_inctrl.backbones import ImageFeatures
from anomalib_inctrl.data import DATASETS
from anomalib_inctrl.data.datasets.converted import write_converted
from anomalib_inctrl.demo import InCTRLDemo
from anomalib_inctrl.io.files import write_image_atomic, write_text_atomic
from anomalib_inctrl.io.weights import write_checkpoint
from anomalib_inctrl.models.components.feature_store import FeatureStore
from anomalib_inctrl.prompts.selection import write_prompt_list
from tests.data.raw_trees import WRITERS
from tests.reliability.conftest import COUNTS

resource = pytest.importorskip("resource", reason="limits of a process are POSIX's")

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
