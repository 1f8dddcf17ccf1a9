# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The scan functions of the datasets: which images, labels and splits they find, and what they refuse."""

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from anomalib_inctrl.data import DATASETS
from anomalib_inctrl.data.datasets.records import Record, split_records
from anomalib_inctrl.errors import DatasetError, ImageFileError
from tests.data.raw_trees import WRITERS, mask, noise_image, write_cifar10, write_mnist, write_raw

NAMES = sorted(DATASETS)


def scan(name, root, check_counts=False):
    return DATASETS[name].scan(root, check_counts=check_counts)


def counts(found):
    return dict(Counter((record.split, record.label) for record in found.records))


@pytest.mark.parametrize("count", [2, 5, 98, 1143])
def test_a_quarter_of_the_sorted_normal_images_is_drawn_for_testing(count):
    records = [Record("x", "", "good", str(number), f"{number}.png") for number in range(count)]
    drawn = np.random.RandomState(42).permutation(count)[: -(-count // 4)]
    split = split_records(random.Random(count).sample(records, count), "X")
    assert {int(record.name) for record in split if record.split == "test"} == set(drawn)
    with pytest.raises(DatasetError, match="a single normal image cannot be split"):
        split_records(records[:1], "X")


@pytest.mark.parametrize("name", NAMES)
def test_scan_does_not_depend_on_the_order_of_the_file_system(name, tmp_path, monkeypatch):
    root = write_raw(name, tmp_path / "raw", monkeypatch)
    expected = scan(name, root).records
    listed = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: sorted(listed(self, pattern), reverse=True))
    assert scan(name, root).records == expected
    assert len({record.rows()[0][0].casefold() for record in expected}) == len(expected)


@pytest.mark.parametrize("name", NAMES)
def test_missing_data_names_source_and_layout(name, tmp_path):
    card = DATASETS[name].card
    for root in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(DatasetError) as caught:
            scan(name, root)
        assert all(text in str(caught.value) for text in (str(root), card.homepage, card.layout))


def edit(name, change):
    """Replace text in a file."""
    return lambda root: (root / name).write_text(change((root / name).read_text()))


def cut(name):
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:-1])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("AITEX", lambda root: mask(root / "Mask_images/0011_002_00_mask.png", (512, 256), (0, 0, 9, 9)),
         r"0011_002_00_mask.png is 256 x 512 pixels .*, its image 256 x 1024"),
        ("AITEX", lambda root: noise_image(root / "Defect_images/preview.png", (9, 9)), "preview.png: not a name of"),
        ("AITEX", lambda root: (root / "Defect_images/0011_002_00.png").write_bytes(b""), r"0011_002_00.png: 0 bytes"),
        ("KolektorSDD", lambda root: (root / "kos02/Part2_label.bmp").unlink(),
         r"kos02/Part2.jpg has no Part2_label.bmp"),
        ("ELPV", edit("labels.csv", lambda text: text.replace("images/cell0001.png", "../../cell0001.png")),
         "outside its folder"),
        ("ELPV", edit("labels.csv", lambda text: text.replace("0.3333333333333333", "perhaps")),
         r"labels.csv: not a table with the columns path, probability"),
        ("BrainMRI", lambda root: [path.unlink() for path in (root / "yes").iterdir()],
         r"no images in yes. Get the dataset from https://www.kaggle"),
        ("HeadCT", edit("labels.csv", lambda text: "id;label\n1;0\n"), "columns id, hemorrhage"),
        ("MNIST", cut("MNIST/raw/train-labels-idx1-ubyte"), "damaged"),
        ("MNIST", lambda root: (root / "MNIST/raw/t10k-labels-idx1-ubyte").rename(
            root / "MNIST/raw/t10k-labels-idx1-ubyte.gz"), r"no MNIST/raw/t10k-labels.*Extract t10k-labels"),
    ],
)  # fmt: skip
def test_incomplete_or_damaged_data_is_named(name, change, message, tmp_path):
    root = WRITERS[name](tmp_path)
    change(root)
    with pytest.raises((DatasetError, ImageFileError), match=message):
        scan(name, root)


def test_aitex_tiles(tmp_path):
    root = WRITERS["AITEX"](tmp_path / "plain")
    found = scan("AITEX", root)
    assert counts(found) == {
        ("train", "good"): 18,
        ("test", "good"): 6,
        ("test", "broken_end"): 2,  # the mask lies across a cut
        ("test", "fuzzyball"): 2,  # one tile for each of its two masks
        ("test", "knots"): 1,
    }
    assert {record.part[2] - record.part[0] for record in found.records if record.label != "knots"} == {256}
    (narrow,) = [record for record in found.records if record.label == "knots"]
    assert (narrow.part, narrow.name) == ((512, 0, 724, 256), "0094_027_05_02")
    assert found.notes == [
        f"{name}.png is left out: {why}, so that its abnormal tiles are not known."
        for name, why in (("0100_025_08", "it has no mask"), ("0106_010_03", "its mask is empty"))
    ]
    # Some archives hold a folder of their own name once more.
    for name in ("Defect_images", "Mask_images", "NODefect_images"):
        (tmp_path / "double" / name).mkdir(parents=True)
        (root / name).rename(tmp_path / "double" / name / name)
    assert [record.rows()[0][0] for record in scan("AITEX", tmp_path / "double").records] == [
        record.rows()[0][0] for record in found.records
    ]


def test_kolektor_is_cut_in_three(tmp_path):
    found = scan("KolektorSDD", WRITERS["KolektorSDD"](tmp_path))
    assert counts(found) == {("train", "good"): 18, ("test", "good"): 6, ("test", "defect"): 3}
    assert [(record.name, record.part[1], record.part[3]) for record in found.records if record.masks] == [
        ("kos01_Part2_01", 10, 20),
        ("kos02_Part10_01", 10, 20),  # the defect lies across the cut
        ("kos02_Part10_02", 20, 31),
    ]
    rows = [(record.part[1], record.part[3]) for record in found.records if record.source == "kos10/Part0.jpg"]
    assert sorted(rows) == [(0, 10), (10, 20), (20, 31)]


@pytest.mark.parametrize("below", [".", "src/elpv_dataset/data"])
def test_elpv_leaves_uncertain_labels_out(tmp_path, below):
    WRITERS["ELPV"](tmp_path / below)
    found = scan("ELPV", tmp_path)
    assert found.base == tmp_path / below
    assert counts(found) == {("train", "good"): 6, ("test", "good"): 2, ("test", "mono"): 2, ("test", "poly"): 2}
    assert found.notes == ["8 images are left out: their labels are uncertain."]
    abnormal = {record.source for record in found.records if record.label != "good"}
    assert abnormal == {f"images/cell{number:04}.png" for number in range(1, 21) if number % 5 == 3}


def test_brain_mri_takes_every_suffix_and_one_copy(tmp_path):
    WRITERS["BrainMRI"](tmp_path)
    WRITERS["BrainMRI"](tmp_path / "brain_tumor_dataset")
    found = scan("BrainMRI", tmp_path)
    assert counts(found) == {("train", "good"): 3, ("test", "good"): 2, ("test", "tumor"): 3}
    names = {Path(record.source).name: record.name for record in found.records}
    assert {"1 no.jpeg", "N2.JPG", "N17.png"} <= names.keys()
    assert {names["Y1.jpg"], names["Y1.JPG"], names["Y20.jpg"]} == {"Y1", "Y1_2", "Y20"}


@pytest.mark.parametrize("folder", ["head_ct/head_ct", "head_ct"])
def test_head_ct_labels(tmp_path, folder):
    root = WRITERS["HeadCT"](tmp_path)
    for path in list((root / "head_ct/head_ct").iterdir()):
        path.rename(root / folder / path.name)
    found = scan("HeadCT", root)
    assert counts(found) == {("train", "good"): 5, ("test", "good"): 2, ("test", "hemorrhage"): 5}
    assert {record.name for record in found.records if record.label == "hemorrhage"} == {f"{n:03}" for n in range(5)}


@pytest.mark.parametrize("below", [".", "MNIST"])
def test_mnist_images_are_those_of_the_files(tmp_path, below):
    root = write_mnist(tmp_path)
    found = scan("MNIST", root / below)
    assert counts(found) == {
        (split, f"digit_{digit}"): count for split, count in (("train", 3), ("test", 2)) for digit in range(10)
    }
    record = next(record for record in found.records if (record.split, record.part) == ("test", (13,)))
    assert record.label == "digit_3"
    pixels = (root / "MNIST/raw/t10k-images-idx3-ubyte").read_bytes()[16:]
    expected = np.frombuffer(pixels, dtype=np.uint8).reshape(-1, 28, 28)[13]
    np.testing.assert_array_equal(np.asarray(found.arrays[record.source][record.part[0]]), expected)


@pytest.mark.parametrize("below", [".", "cifar-10-batches-py"])
def test_cifar10_images_are_those_of_torchvision(tmp_path, monkeypatch, below):
    root = write_cifar10(tmp_path, monkeypatch)
    found = scan("CIFAR10", root / below)
    assert (counts(found)["train", "frog"], counts(found)["test", "frog"]) == (10, 2)
    for split in ("train", "test"):
        reference = CIFAR10(str(root), train=split == "train")
        for record in [record for record in found.records if record.split == split]:
            image, target = reference[record.part[0]]
            assert record.label == reference.classes[target]
            assert np.array_equal(found.arrays[record.source][record.part[0]], image)


@pytest.mark.parametrize("name", ["batches.meta", "data_batch_3", "test_batch"])
def test_cifar10_reads_no_unknown_pickle(name, tmp_path, monkeypatch):
    root = write_cifar10(tmp_path, monkeypatch)
    path = root / "cifar-10-batches-py" / name
    path.write_bytes(path.read_bytes() + b"\0")
    monkeypatch.setattr("pickle.load", lambda *args, **kwargs: pytest.fail("an unknown pickle was read"))
    with pytest.raises(DatasetError, match=rf"{name} is damaged or not CIFAR10's: its MD5 differs"):
        scan("CIFAR10", root)
    path.unlink()
    (root / "cifar-10-python.tar.gz").write_bytes(b"")
    with pytest.raises(DatasetError, match=rf"{name}. Extract cifar-10-python.tar.gz there"):
        scan("CIFAR10", root)


@pytest.mark.parametrize("name", NAMES)
def test_a_part_of_a_dataset_is_refused_by_default(name, tmp_path, monkeypatch):
    root = write_raw(name, tmp_path, monkeypatch)
    with pytest.raises(DatasetError, match=r"not the whole dataset: .*expected.*check_counts=False"):
        DATASETS[name].scan(root)


@pytest.mark.parametrize(
    ("name", "normal", "abnormal"),
    [
        ("AITEX", 2256, 9),
        ("KolektorSDD", 1143, 54),
        ("ELPV", 1508, 715),
        ("BrainMRI", 98, 155),
        ("HeadCT", 100, 100),
    ],
)
def test_complete_datasets_pass_the_check_of_counts(name, normal, abnormal):
    card = DATASETS[name].card
    split = split_records([Record("x", "", "good", str(number), f"{number}.png") for number in range(normal)], name)
    found = Counter((record.split, record.label) for record in split)
    card.check_counts("here", {**found, ("test", "one"): abnormal - 4, ("test", "other"): 4})
    with pytest.raises(DatasetError, match=rf"{found['train', 'good'] - 1} train good \(expected"):
        card.check_counts("here", {**found, ("train", "good"): found["train", "good"] - 1, ("test", "one"): abnormal})
