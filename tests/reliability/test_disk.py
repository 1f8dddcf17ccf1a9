# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""A disk that is full, a folder that may not be written to: an error, the old content, and nothing half-written."""

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from anomalib_inctrl.backbones import ImageFeatures
from anomalib_inctrl.data.convert import convert
from anomalib_inctrl.data.raw import RAW_DATASETS
from anomalib_inctrl.demo.writer import DemoSettings, render_category
from anomalib_inctrl.io.files import write_bytes_atomic, write_image_atomic, write_text_atomic
from anomalib_inctrl.models.components.feature_store import FolderStore
from anomalib_inctrl.prompts.selection import write_prompt_list
from tests.data.raw_trees import WRITERS
from tests.reliability.conftest import COUNTS


def write_store(folder, _):
    FolderStore({"a": 1}, folder).put("aa", ImageFeatures(torch.ones(1, 2, 3), torch.ones(4)))


def write_conversion(folder, raw):
    console = Console(file=io.StringIO())
    convert(RAW_DATASETS["KolektorSDD"], raw, folder / "out", check_counts=False, console=console)


WRITES = {
    "text": lambda folder, _: write_text_atomic(folder / "a.txt", "new" * 1000),
    "bytes": lambda folder, _: write_bytes_atomic(folder / "a.txt", b"new" * 1000),
    "picture": lambda folder, _: write_image_atomic(folder / "a.png", Image.new("RGB", (300, 300), "red")),
    "prompt list": lambda folder, _: write_prompt_list({"washer": ["a.png"]}, folder),
    "feature store": write_store,
    "conversion": write_conversion,
    "rendering": lambda folder, _: render_category(folder, "washer", DemoSettings(**COUNTS)),
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return WRITERS["KolektorSDD"](tmp_path_factory.mktemp("raw") / "raw")


def content(folder):
    """All files with content but locks, which are empty and stay."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def fill_disk(monkeypatch):
    """From the n-th file on there is room for half of it."""

    def fill(after):
        kept = {"left": after, "full": False}
        real = Path.write_bytes

        def write_bytes(path, data):
            if kept["left"] > 0:
                kept["left"] -= 1
                return real(path, data)
            kept["full"] = True
            real(path, bytes(data)[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        def write_text(path, text, encoding=None, **_):
            return write_bytes(path, text.encode(encoding or "utf-8"))

        def save(image, path, **_):
            file = io.BytesIO()
            type(image)._saved(image, file, format="PNG")
            return write_bytes(Path(path), file.getvalue())

        monkeypatch.setattr(Image.Image, "_saved", Image.Image.save, raising=False)
        monkeypatch.setattr(
            Image.Image,
            "save",
            lambda image, path, **options: (
                save(image, path) if isinstance(path, (str, Path)) else type(image)._saved(image, path, **options)
            ),
        )
        monkeypatch.setattr(Path, "write_bytes", write_bytes)
        monkeypatch.setattr(Path, "write_text", write_text)
        return kept

    return fill


@pytest.mark.parametrize("after", [0, 1, 5])
@pytest.mark.parametrize("what", WRITES)
def test_disk_full(what, after, raw, tmp_path, fill_disk):
    (tmp_path / "a.txt").write_bytes(b"old")
    before = content(tmp_path)
    disk = fill_disk(after)
    try:
        WRITES[what](tmp_path, raw)
        refused = None
    except OSError as error:
        refused = error.errno
    assert refused == (errno.ENOSPC if disk["full"] else None)
    if refused is None:
        return
    left = content(tmp_path)
    if what == "feature store" and after:  # what was written before is whole
        left = {name: data for name, data in left.items() if not name.endswith("settings.json")}
    assert left == before


def test_disk_full_while_saving_a_checkpoint(make_detector, checkpoint, tmp_path, monkeypatch):
    detector = make_detector()
    path = detector.save(tmp_path / "heads.ckpt")
    before = content(tmp_path)
    real = torch.save

    def save(content, file):
        real(content, file)
        os.truncate(file.name, 1000)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(OSError, match="No space left"):
        detector.save(path)
    assert content(tmp_path) == before


MOUNTED = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")


@MOUNTED
def test_the_system_says_it_when_the_disk_is_full(tmp_path):
    """A file that the system itself refuses to fill: /dev/full in the place of the temporary file."""
    (tmp_path / f".a.txt.{os.getpid()}.tmp").symlink_to("/dev/full")
    (tmp_path / "a.txt").write_bytes(b"old")
    with pytest.raises(OSError, match="No space left"):
        write_text_atomic(tmp_path / "a.txt", "new" * 10000)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.txt": b"old"}


def in_a_disk_of_its_own(command, disk):
    """Run a command for which, and for nobody else, an empty disk of 2 MB is mounted at `disk`."""
    script = f'mount -t tmpfs -o size=2m tmpfs "{disk}" && exec "$@"'
    return subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", *command],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )


def test_a_disk_that_is_really_full_or_read_only(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if shutil.which("unshare") is None or in_a_disk_of_its_own(["true"], disk).returncode:
        pytest.skip("this system lets nobody but root mount a disk")
    done = in_a_disk_of_its_own([sys.executable, "-m", "tests.reliability.full_disk", str(disk)], disk)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert len(outcome) == 3 * len(WRITES)
    for case, (found, unchanged) in outcome.items():
        if case.endswith("full"):
            assert (found, unchanged) == (os.strerror(errno.ENOSPC), True), case
        elif case.endswith("read-only"):
            assert (found, unchanged) == (os.strerror(errno.EROFS), True), case
        else:
            assert unchanged == (found != "written"), case
    assert any(found == "written" for found, _ in outcome.values())


@pytest.mark.parametrize("what", WRITES)
def test_read_only_folder(what, raw, tmp_path, monkeypatch):
    """Where the system refuses every new file; root may write anywhere, so the refusal is made here."""
    import filelock

    folder = tmp_path / "locked"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"old")
    before = content(folder)

    def refuse(path, *args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(Path, "write_bytes", refuse)
    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setattr(filelock.FileLock, "_acquire", lambda lock: refuse(lock.lock_file))
    monkeypatch.setattr(Image.Image, "save", lambda image, path, **_: refuse(path))
    with pytest.raises(PermissionError, match="locked"):
        WRITES[what](folder, raw)
    assert content(folder) == before
