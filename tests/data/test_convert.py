# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import csv
import hashlib
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from anomalib.data import Folder, MVTecAD
from PIL import Image
from rich.console import Console

from anomalib_inctrl import cli
from anomalib_inctrl.data import convert as convert_module
from anomalib_inctrl.data.convert import convert, differences, main
from anomalib_inctrl.data.manifest import COLUMNS, read_manifest
from anomalib_inctrl.data.raw import RAW_DATASETS
from anomalib_inctrl.errors import DatasetError, ImageFileError
from tests.data.raw_trees import WRITERS, write_raw

QUIET = Console(quiet=True)


def converted(name, tmp_path, **options):
    dataset, root = RAW_DATASETS[name], WRITERS[name](tmp_path / "raw")
    convert(dataset, root, tmp_path / "out", check_counts=False, console=QUIET, **options)
    return dataset, root, tmp_path / "out"


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def leftovers(tmp_path):
    return {path.name for path in tmp_path.iterdir()} - {"raw", "out", ".out.lock"}


@pytest.mark.parametrize("name", sorted(RAW_DATASETS))
def test_manifest_lists_every_file_with_its_origin(name, tmp_path, monkeypatch):
    dataset, root = RAW_DATASETS[name], write_raw(name, tmp_path / "raw", monkeypatch)
    convert(dataset, root, tmp_path / "out", check_counts=False, console=QUIET)
    with (tmp_path / "out" / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    files = tree(tmp_path / "out")
    assert {row["path"] for row in rows} | {"manifest.csv", "dataset.json"} == set(files)
    for row in rows:
        assert row["path"].split("/")[:3] == [row["category"], row["split"], row["label"]]
        assert row["sha256"] == hashlib.sha256(files[row["path"]]).hexdigest()
        sources = row["source"].partition("#")[0].split("+")
        assert all((root / source).exists() for source in sources)
    card = json.loads(files["dataset.json"])
    assert (card["name"], card["licence"]) == (name, dataset.card.licence)
    assert leftovers(tmp_path) == set()


@pytest.mark.parametrize("name", ["AITEX", "KolektorSDD"])
def test_pictures_and_masks_are_those_of_the_raw_data(name, tmp_path):
    _, root, out = converted(name, tmp_path)
    for row in read_manifest(out).itertuples():
        files, _, box = row.source.partition("#")
        left, top, right, bottom = map(int, box.split(","))
        raw = [np.asarray(Image.open(root / file)) for file in files.split("+")]
        expected = np.maximum.reduce(raw)[top:bottom, left:right]
        np.testing.assert_array_equal(np.asarray(Image.open(out / row.path)), expected)


@pytest.mark.parametrize(("name", "category"), [("AITEX", "fabric"), ("KolektorSDD", "commutator")])
def test_anomalib_reads_it_as_mvtec_ad(name, category, tmp_path):
    _, _, out = converted(name, tmp_path)
    datamodule = MVTecAD(out, category, eval_batch_size=1, num_workers=0)
    datamodule.setup()
    table = read_manifest(out)
    assert len(datamodule.train_data) == (table.split == "train").sum()
    assert len(datamodule.test_data) == (table.split == "test").sum()
    for item in datamodule.test_data:
        assert bool(item.gt_mask.any()) == bool(item.gt_label)


def test_anomalib_reads_image_labels_as_a_folder(tmp_path):
    _, _, out = converted("ELPV", tmp_path)
    datamodule = Folder(
        "cells",
        root=out / "solar_cell",
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir=["test/mono", "test/poly"],
        val_split_mode="same_as_test",
    )
    datamodule.setup()
    assert (len(datamodule.train_data), len(datamodule.test_data)) == (6, 6)


def test_pictures_that_need_no_change_are_copied(tmp_path):
    _, root, out = converted("ELPV", tmp_path)
    for row in read_manifest(out).itertuples():
        assert (out / row.path).read_bytes() == (root / row.source).read_bytes()


def test_other_formats_become_png_with_the_same_pixels(tmp_path):
    _, root, out = converted("BrainMRI", tmp_path)
    for row in read_manifest(out).itertuples():
        with Image.open(out / row.path) as image, Image.open(root / row.source) as raw:
            assert image.format == "PNG"
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), np.asarray(raw.convert("RGB")))


def test_again_changes_nothing(tmp_path):
    dataset, root, out = converted("KolektorSDD", tmp_path)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    convert(dataset, root, out, check_counts=False, console=QUIET)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_twice_gives_the_same_files(tmp_path):
    dataset, root, out = converted("AITEX", tmp_path)
    convert(dataset, root, tmp_path / "again", check_counts=False, console=QUIET)
    assert tree(tmp_path / "again") == tree(out)


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    dataset, _, out = converted("HeadCT", tmp_path)
    assert differences(dataset, out) == []


def test_foreign_folders_and_changed_data_are_left_alone(tmp_path):
    dataset, root, out = converted("HeadCT", tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(DatasetError, match="other exists and is no converted dataset"):
        convert(dataset, root, other, check_counts=False, console=QUIET)
    assert tree(other) == {"thesis.txt": b"mine"}
    for holder in (root, root.parent):
        with pytest.raises(DatasetError, match="holds the raw data itself"):
            convert(dataset, root, holder, check_counts=False, console=QUIET)
    (root / "labels.csv").write_text((root / "labels.csv").read_text().replace("\n11,0", "\n11,1"))
    before = tree(out)
    with pytest.raises(DatasetError, match=r"011.png.*not in the converted data.*Remove it"):
        convert(dataset, root, out, check_counts=False, console=QUIET)
    assert tree(out) == before


def test_an_unreadable_picture_leaves_nothing(tmp_path):
    root = WRITERS["HeadCT"](tmp_path / "raw")
    path = root / "head_ct" / "head_ct" / "004.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ImageFileError, match=r"004.png: not readable.*archive again"):
        convert(RAW_DATASETS["HeadCT"], root, tmp_path / "out", check_counts=False, console=QUIET)
    assert not (tmp_path / "out").exists()
    assert leftovers(tmp_path) == set()


def test_what_does_not_read_back_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(convert_module, "_sha256", lambda path: "0")
    with pytest.raises(DatasetError, match="does not read back"):
        converted("HeadCT", tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the killed process is a fork")
def test_killed_at_any_time_it_leaves_all_or_nothing(tmp_path):
    dataset, root = RAW_DATASETS["KolektorSDD"], WRITERS["KolektorSDD"](tmp_path / "raw")
    start = time.monotonic()
    convert(dataset, root, tmp_path / "out", check_counts=False, console=QUIET)
    duration = time.monotonic() - start
    whole = tree(tmp_path / "out")
    delays = random.Random(0)
    unfinished = 0
    for _ in range(10):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        child = os.fork()
        if not child:
            convert(dataset, root, tmp_path / "out", check_counts=False, console=QUIET)
            os._exit(0)
        time.sleep(delays.uniform(0, 1.2 * duration))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        unfinished += not (tmp_path / "out").exists()
        if (tmp_path / "out").exists():
            assert tree(tmp_path / "out") == whole
        else:
            convert(dataset, root, tmp_path / "out", check_counts=False, console=QUIET)
            assert tree(tmp_path / "out") == whole
            assert leftovers(tmp_path) == set()
    assert unfinished  # otherwise nothing was tested


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forks")
def test_several_processes_may_ask_at_once(tmp_path):
    dataset, root = RAW_DATASETS["KolektorSDD"], WRITERS["KolektorSDD"](tmp_path / "raw")
    children = []
    for _ in range(3):
        child = os.fork()
        if not child:
            try:
                convert(dataset, root, tmp_path / "out", check_counts=False, console=QUIET)
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert differences(dataset, tmp_path / "out", dataset.scan(root, check_counts=False)) == []
    assert leftovers(tmp_path) == set()


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def test_command(tmp_path, capsys):
    root, out = WRITERS["AITEX"](tmp_path / "raw"), tmp_path / "out"
    arguments = ["AITEX", "--root", root, "--out", out]
    status, output = run(capsys, *arguments)
    assert status == 1
    assert "6 pictures in NODefect_images (expected 140 or 141)" in output
    assert not out.exists()
    status, output = run(capsys, *arguments, "--no_check_counts")
    assert status == 0
    card = RAW_DATASETS["AITEX"].card
    assert f"Licence:  {card.licence}" in output
    assert card.citation in output
    assert "cannot be recovered" in output
    assert "Note: 0100_025_08.png is left out: it has no mask" in output
    assert "18  fabric/train/good" in output
    assert "Nothing to do" in run(capsys, *arguments, "--no_check_counts")[1]
    assert cli.main(["convert", *map(str, arguments), "--no_check_counts"]) == 0


def test_check_names_what_differs_and_changes_nothing(tmp_path, capsys):
    _, root, out = converted("KolektorSDD", tmp_path)
    check = ["KolektorSDD", "--out", out, "--check", "--no_check_counts"]
    assert run(capsys, *check)[0] == 0
    assert run(capsys, *check, "--root", root)[0] == 0
    (out / "commutator/test/defect/kos01_Part2_1.png").write_bytes(b"other")
    (out / "commutator/ground_truth/defect/kos02_Part10_2_mask.png").unlink()
    (out / "commutator/train/good/mine.png").write_bytes(b"")
    before = tree(out)
    status, output = run(capsys, *check)
    assert status == 1
    assert "commutator/test/defect/kos01_Part2_1.png has changed" in output
    assert "commutator/ground_truth/defect/kos02_Part10_2_mask.png is missing" in output
    assert "commutator/train/good/mine.png is not in the manifest" in output
    assert "3 differences" in output
    assert tree(out) == before


def test_check_compares_with_the_raw_data(tmp_path, capsys):
    _, root, out = converted("KolektorSDD", tmp_path)
    shutil.rmtree(root / "kos10")
    status, output = run(capsys, "KolektorSDD", "--out", out, "--check", "--no_check_counts", "--root", root)
    assert status == 1
    assert "kos10_Part0_0.png" in output
    assert "is not in the raw data" in output


def test_check_of_another_dataset_or_none(tmp_path, capsys):
    _, _, out = converted("HeadCT", tmp_path)
    status, output = run(capsys, "BrainMRI", "--out", out, "--check", "--no_check_counts")
    assert status == 1
    assert "dataset.json is not that of BrainMRI" in output
    status, output = run(capsys, "HeadCT", "--out", out, "--check")
    assert status == 1
    assert "expected 75" in output
    status, output = run(capsys, "HeadCT", "--out", tmp_path, "--check")
    assert status == 1
    assert "no manifest.csv" in output


@pytest.mark.parametrize("name", ["/etc/passwd", "../raw/labels.csv", "head/../../x.png", r"..\x.png", "C:/x.png"])
def test_manifests_that_lead_out_of_their_folder_are_refused(name, tmp_path, capsys):
    _, _, out = converted("HeadCT", tmp_path)
    manifest = out / "manifest.csv"
    lines = manifest.read_text().splitlines()
    lines[3] = ",".join([name, *lines[3].split(",")[1:]])
    manifest.write_text("\n".join(lines))
    status, output = run(capsys, "HeadCT", "--out", out, "--check", "--no_check_counts")
    assert status == 1
    assert "not a plain path below its folder" in output


def test_broken_manifests_say_so(tmp_path):
    _, _, out = converted("HeadCT", tmp_path)
    (out / "manifest.csv").write_text("path,split\nhead/x.png,test\n")
    with pytest.raises(DatasetError, match=r"manifest.csv: lacks the columns label, category, source, sha256"):
        read_manifest(out)
    (out / "manifest.csv").write_bytes(b"\xff\xfe\0")
    with pytest.raises(DatasetError, match=r"manifest.csv: not readable"):
        read_manifest(out)


def test_nothing_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.socket", lambda *args, **kwargs: pytest.fail("a connection was attempted"))
    for name in sorted(RAW_DATASETS):
        with pytest.raises(DatasetError):
            convert(RAW_DATASETS[name], tmp_path / "nowhere", tmp_path / "out", console=QUIET)
    assert list(Path(tmp_path).iterdir()) == []
