# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Converted datasets: their files, their manifest, and the command that writes and checks them."""

import csv
import hashlib
import json
import random
import shutil
import time

import numpy as np
import pytest
from anomalib.data import MVTecAD
from PIL import Image

from anomalib_inctrl import cli
from anomalib_inctrl.data import DATASETS
from anomalib_inctrl.data.datasets.converted import COLUMNS, read_manifest, write_converted
from anomalib_inctrl.errors import DatasetError, ImageFileError
from tests.data.raw_trees import WRITERS, write_raw
from tests.processes import needs_fork, start_process


def convert(name, root, out):
    return write_converted(DATASETS[name].scan(root, check_counts=False), out)


def converted(name, tmp_path):
    root = WRITERS[name](tmp_path / "raw")
    assert convert(name, root, tmp_path / "out")
    return root, tmp_path / "out"


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_manifest_lists_every_file_with_its_origin(name, tmp_path, monkeypatch):
    root = write_raw(name, tmp_path / "raw", monkeypatch)
    convert(name, root, tmp_path / "out")
    with (tmp_path / "out" / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == COLUMNS
    files = tree(tmp_path / "out")
    assert {row["path"] for row in rows} | {"manifest.csv", "dataset.json"} == set(files)
    for row in rows:
        assert row["path"].split("/")[:3] == [row["category"], row["split"], row["label"]]
        assert row["sha256"] == hashlib.sha256(files[row["path"]]).hexdigest()
        assert all((root / source).exists() for source in row["source"].partition("#")[0].split("+"))
    card = json.loads(files["dataset.json"])
    assert (card["name"], card["licence"]) == (name, DATASETS[name].card.licence)


@pytest.mark.parametrize("name", ["AITEX", "KolektorSDD"])
def test_cut_images_and_masks_are_those_of_the_raw_data_and_read_by_mvtec_ad(name, tmp_path):
    root, out = converted(name, tmp_path)
    table = read_manifest(out)
    for row in table.itertuples():
        files, _, box = row.source.partition("#")
        left, top, right, bottom = map(int, box.split(","))
        raw = [np.asarray(Image.open(root / file)) for file in files.split("+")]
        np.testing.assert_array_equal(
            np.asarray(Image.open(out / row.path)), np.maximum.reduce(raw)[top:bottom, left:right]
        )
    category = table.category[0]
    datamodule = MVTecAD(out, category, eval_batch_size=1, num_workers=0)
    datamodule.setup()
    assert len(datamodule.train_data) == (table.split == "train").sum()
    assert len(datamodule.test_data) == (table.split == "test").sum()
    assert all(bool(item.gt_mask.any()) == bool(item.gt_label) for item in datamodule.test_data)


def test_conversion_is_deterministic_and_leaves_other_data_alone(tmp_path):
    root, out = converted("HeadCT", tmp_path)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert not convert("HeadCT", root, out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    (tmp_path / "again").mkdir()  # an empty folder is filled
    assert convert("HeadCT", root, tmp_path / "again")
    assert tree(tmp_path / "again") == tree(out)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    edited = (root / "labels.csv").read_text().replace("\n11,0", "\n11,1")
    (root / "labels.csv").write_text(edited)
    before = {path: content for path, content in tree(tmp_path).items() if content}  # locks are empty
    for folder, message in (
        (tmp_path / "other", "other exists and is no converted dataset"),
        (root, "holds the raw data itself"),
        (root.parent, "holds the raw data itself"),
        (out, r"011.png.*not in the converted data.*Remove it"),
    ):
        with pytest.raises(DatasetError, match=message):
            convert("HeadCT", root, folder)
    assert {path: content for path, content in tree(tmp_path).items() if content} == before
    path = root / "head_ct" / "head_ct" / "004.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ImageFileError, match=r"004.png: 60 bytes, not readable"):
        convert("HeadCT", root, tmp_path / "new")
    assert not [path for path in tmp_path.iterdir() if "new" in path.name and path.is_dir()]


@needs_fork
def test_several_processes_convert_at_once_and_a_killed_one_leaves_all_or_nothing(tmp_path):
    start = time.monotonic()
    root, out = converted("KolektorSDD", tmp_path)
    duration = time.monotonic() - start
    complete = tree(out)
    shutil.rmtree(out)
    processes = [start_process(convert, "KolektorSDD", root, out) for _ in range(3)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert tree(out) == complete
    delays, unfinished = random.Random(0), 0
    for _ in range(8):
        shutil.rmtree(out)
        process = start_process(convert, "KolektorSDD", root, out)
        time.sleep(delays.uniform(0, duration))
        process.kill()
        process.join()
        if not out.exists():
            unfinished += 1
            convert("KolektorSDD", root, out)
        assert tree(out) == complete
    assert unfinished  # otherwise nothing was tested
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "out", ".out.lock"}


@pytest.fixture
def run(capsys):
    def run(*arguments):
        status = cli.main(["convert", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return run


def test_command_converts_and_reports_card_notes_and_counts(tmp_path, run):
    arguments = ["AITEX", "--root", WRITERS["AITEX"](tmp_path / "raw"), "--out", tmp_path / "out"]
    status, output = run(*arguments)
    assert status == 1
    assert "6 images in NODefect_images (expected 140 or 141)" in output
    assert not (tmp_path / "out").exists()
    status, output = run(*arguments, "--no_check_counts")
    assert status == 0
    card = DATASETS["AITEX"].card
    note = "Note: 0100_025_08.png is left out: it has no mask"
    for text in (f"Licence:  {card.licence}", card.citation, "cannot be recovered", note, "18  fabric/train/good"):
        assert text in output
    assert "Nothing to do" in run(*arguments, "--no_check_counts")[1]


def test_check_names_differences_and_changes_nothing(tmp_path, run):
    root, out = converted("KolektorSDD", tmp_path)
    check = ["--out", out, "--check", "--no_check_counts"]
    assert run("KolektorSDD", *check)[0] == run("KolektorSDD", *check, "--root", root)[0] == 0
    (out / "commutator/test/defect/kos01_Part2_01.png").write_bytes(b"other")
    (out / "commutator/ground_truth/defect/kos02_Part10_02_mask.png").unlink()
    (out / "commutator/train/good/mine.png").write_bytes(b"")
    shutil.rmtree(root / "kos10")
    before = tree(out)
    for arguments, messages in (
        (["KolektorSDD", *check], ["kos01_Part2_01.png has changed", "_02_mask.png is missing", "3 differences"]),
        (["KolektorSDD", *check], ["commutator/train/good/mine.png is not in the manifest"]),
        (["KolektorSDD", *check, "--root", root], ["kos10/Part0.jpg#0,0,20,10) is not in the raw data"]),
        (["BrainMRI", *check], ["dataset.json is not that of BrainMRI"]),
        (["HeadCT", "--check", "--out", tmp_path], ["manifest.csv: not readable"]),
    ):
        status, output = run(*arguments)
        assert status == 1
        assert all(message in output for message in messages)
    assert tree(out) == before
    assert convert("HeadCT", WRITERS["HeadCT"](tmp_path / "head"), tmp_path / "part")
    assert "expected 75" in run("HeadCT", "--check", "--out", tmp_path / "part")[1]
