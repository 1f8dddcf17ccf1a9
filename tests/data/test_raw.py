# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import CIFAR10

from anomalib_inctrl.backbones.text_prompts import text_prompts
from anomalib_inctrl.data.raw import RAW_DATASETS, Record
from anomalib_inctrl.data.raw.base import natural_key, safe_path, split_normals
from anomalib_inctrl.errors import DatasetError, ImageFileError
from tests.data.raw_trees import WRITERS, mask, picture, write_cifar10, write_idx, write_mnist, write_raw


def scan(name, root, **options):
    return RAW_DATASETS[name].scan(root, **{"check_counts": False, **options})


def counts(found):
    return dict(Counter((record.split, record.label) for record in found.records))


@given(st.lists(st.text(alphabet="ab01 29_", max_size=6), unique=True), st.randoms(use_true_random=False))
def test_natural_order_does_not_depend_on_the_order_given(names, shuffle):
    mixed = list(names)
    shuffle.shuffle(mixed)
    assert sorted(mixed, key=natural_key) == sorted(names, key=natural_key)


def test_numbers_are_sorted_as_numbers():
    names = ["kos10/Part2", "kos2/Part10", "kos2/Part2", "kos2/part1"]
    assert sorted(names, key=natural_key) == ["kos2/part1", "kos2/Part2", "kos2/Part10", "kos10/Part2"]


@pytest.mark.parametrize("count", [2, 3, 4, 5, 98, 100, 1143])
def test_a_quarter_of_the_normal_pictures_is_drawn_after_sorting(count):
    records = [Record("x", "", "good", str(number), f"{number}.png") for number in range(count)]
    drawn = np.random.RandomState(42).permutation(count)[: -(-count // 4)]
    mixed = random.Random(count).sample(records, count)
    split = {int(record.name): record.split for record in split_normals(mixed, "X")}
    assert {number for number, part in split.items() if part == "test"} == set(drawn)
    with pytest.raises(DatasetError, match="1 normal pictures cannot be split"):
        split_normals(records[:1], "X")


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x.png", "a/../../x.png", "C:/x.png", "C:x", r"..\x.png", r"\\host\x", "a\0b"]
)
def test_paths_that_lead_out_of_the_folder_are_refused(name):
    assert safe_path(name) is None


def test_ordinary_paths_are_taken():
    assert safe_path("images/no 1..png") == Path("images/no 1..png")


@pytest.mark.parametrize("name", sorted(RAW_DATASETS))
def test_the_order_of_the_file_system_changes_nothing(name, tmp_path, monkeypatch):
    root = write_raw(name, tmp_path / "raw", monkeypatch)
    expected = scan(name, root).records
    listed = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: sorted(listed(self, pattern), reverse=True))
    assert scan(name, root).records == expected
    assert len({record.path.casefold() for record in expected}) == len(expected)


@pytest.mark.parametrize("name", sorted(RAW_DATASETS))
def test_every_category_has_sentences_and_a_card_that_is_complete(name):
    card = RAW_DATASETS[name].card
    assert card.name == name
    assert all((card.title, card.licence, card.homepage.startswith("http"), card.citation, card.layout, card.expected))
    assert set(card.default_categories) <= set(card.categories)
    # Single pairs of sentences are for natural images; everything else gets the ensemble.
    lengths = {len(text_prompts(category)[0]) for category in card.categories}
    assert lengths == ({1} if name == "CIFAR10" else {154})


def test_aitex_tiles(tmp_path):
    found = scan("AITEX", WRITERS["AITEX"](tmp_path))
    assert counts(found) == {
        ("train", "good"): 18,
        ("test", "good"): 6,
        ("test", "broken_end"): 2,  # the mask lies across a cut
        ("test", "fuzzyball"): 2,  # one tile for each of its two masks
        ("test", "knots"): 1,
    }
    assert {record.box[2] - record.box[0] for record in found.records if record.label != "knots"} == {256}
    (narrow,) = [record for record in found.records if record.label == "knots"]
    assert narrow.box == (512, 0, 724, 256)
    assert narrow.name == "0094_027_05_02"
    assert [note.partition(":")[0] for note in found.notes] == [
        "0100_025_08.png is left out",
        "0106_010_03.png is left out",
    ]
    assert "no mask" in found.notes[0]
    assert "empty" in found.notes[1]


def test_aitex_several_masks_are_one(tmp_path):
    dataset, root = RAW_DATASETS["AITEX"], WRITERS["AITEX"](tmp_path)
    masks = [np.asarray(Image.open(root / f"Mask_images/0044_019_04_mask{number}.png")) for number in (1, 2)]
    union = np.maximum(*masks)
    tiles = [record for record in scan("AITEX", root).records if record.label == "fuzzyball"]
    for tile in tiles:
        left, top, right, bottom = tile.box
        np.testing.assert_array_equal(np.asarray(dataset.read_mask(root, tile)), union[top:bottom, left:right])
    assert [tile.box[0] for tile in tiles] == [0, 768]


def test_aitex_folders_of_their_own_name(tmp_path):
    root = WRITERS["AITEX"](tmp_path / "plain")
    expected = [record.path for record in scan("AITEX", root).records]
    for name in ("Defect_images", "Mask_images", "NODefect_images"):
        (tmp_path / "double" / name).mkdir(parents=True)
        (root / name).rename(tmp_path / "double" / name / name)
    assert [record.path for record in scan("AITEX", tmp_path / "double").records] == expected


def test_aitex_half_extracted(tmp_path):
    root = WRITERS["AITEX"](tmp_path)
    for path in (root / "Mask_images").iterdir():
        path.unlink()
    (root / "Mask_images.7z").write_bytes(b"7z")
    with pytest.raises(DatasetError, match=r"no pictures in Mask_images. Extract Mask_images.7z there"):
        scan("AITEX", root)


def test_aitex_masks_half_extracted(tmp_path):
    _full_aitex(tmp_path)
    masks = sorted((tmp_path / "Mask_images").iterdir())
    masks[0].unlink()
    scan("AITEX", tmp_path, check_counts=True)  # one picture of the original has none
    masks[1].unlink()
    with pytest.raises(DatasetError, match="2 pictures in Defect_images without a mask"):
        scan("AITEX", tmp_path, check_counts=True)


def test_aitex_masks_without_pictures(tmp_path):
    root = WRITERS["AITEX"](tmp_path)
    (root / "Defect_images" / "0044_019_04.png").unlink()
    with pytest.raises(DatasetError, match=r"1 masks have no picture in Defect_images \(0044_019_04"):
        scan("AITEX", root)


def test_aitex_mask_of_another_size(tmp_path):
    root = WRITERS["AITEX"](tmp_path)
    mask(root / "Mask_images" / "0011_002_00_mask.png", (512, 256), (0, 0, 9, 9))
    with pytest.raises(DatasetError, match=r"0011_002_00_mask.png is 512 x 256 pixels, its picture 1024 x 256"):
        scan("AITEX", root)


def test_aitex_stray_picture_and_broken_picture(tmp_path):
    root = WRITERS["AITEX"](tmp_path)
    stray = picture(root / "Defect_images" / "preview.png", (9, 9))
    with pytest.raises(DatasetError, match=r"preview.png: not a name of AITEX"):
        scan("AITEX", root)
    stray.unlink()
    (root / "Defect_images" / "0011_002_00.png").write_bytes(b"")
    with pytest.raises(ImageFileError, match=r"0011_002_00.png: not readable.*[Ee]xtract it"):
        scan("AITEX", root)


def test_kolektor_is_cut_in_three(tmp_path):
    dataset, root = RAW_DATASETS["KolektorSDD"], WRITERS["KolektorSDD"](tmp_path)
    found = scan("KolektorSDD", root)
    assert counts(found) == {("train", "good"): 18, ("test", "good"): 6, ("test", "defect"): 3}
    abnormal = [record for record in found.records if record.label == "defect"]
    assert [(record.name, record.box[1], record.box[3]) for record in abnormal] == [
        ("kos01_Part2_1", 10, 20),
        ("kos02_Part10_1", 10, 20),  # the defect lies across the cut
        ("kos02_Part10_2", 20, 31),
    ]
    raw = np.asarray(Image.open(root / "kos02/Part10_label.bmp"))
    for record in abnormal[1:]:
        expected = raw[record.box[1] : record.box[3]]
        assert expected.any()
        np.testing.assert_array_equal(np.asarray(dataset.read_mask(root, record)), expected)
    pieces = [record for record in found.records if record.source == "kos10/Part0.jpg"]
    rows = sorted((record.box[1], record.box[3]) for record in pieces)
    assert rows == [(0, 10), (10, 20), (20, 31)]


def test_kolektor_half_extracted(tmp_path):
    root = WRITERS["KolektorSDD"](tmp_path / "raw")
    (root / "kos02" / "Part2_label.bmp").unlink()
    with pytest.raises(DatasetError, match=r"kos02/Part2.jpg has no Part2_label.bmp"):
        scan("KolektorSDD", root)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "KolektorSDD.zip").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"no folders kos01.*Extract KolektorSDD.zip there"):
        scan("KolektorSDD", tmp_path / "empty")


def test_elpv_uncertain_labels_are_dropped(tmp_path):
    found = scan("ELPV", WRITERS["ELPV"](tmp_path))
    assert counts(found) == {
        ("train", "good"): 6,
        ("test", "good"): 2,
        ("test", "mono"): 2,
        ("test", "poly"): 2,
    }
    assert found.notes == ["8 pictures are left out: their labels are uncertain."]
    wanted = {f"images/cell{number:04}.png" for number in range(1, 21) if number % 5 == 3}
    assert {record.source for record in found.records if record.label != "good"} == wanted


def test_elpv_in_its_repository(tmp_path):
    WRITERS["ELPV"](tmp_path / "src/elpv_dataset/data")
    assert scan("ELPV", tmp_path).base == tmp_path / "src/elpv_dataset/data"


def test_elpv_missing_unsafe_and_garbled(tmp_path):
    root = WRITERS["ELPV"](tmp_path)
    labels = root / "labels.csv"
    good = labels.read_text()
    labels.write_text(good.replace("images/cell0001.png", "../../cell0001.png"))
    with pytest.raises(DatasetError, match="outside its folder"):
        scan("ELPV", root)
    labels.write_text(good.replace("0.3333333333333333", "perhaps"))
    with pytest.raises(DatasetError, match=r"labels.csv: not a list of path, probability"):
        scan("ELPV", root)
    labels.write_text(good)
    (root / "images" / "cell0007.png").unlink()
    with pytest.raises(DatasetError, match=r"1 of 20 pictures are missing, the first is images/cell0007.png"):
        scan("ELPV", root)


def test_brain_mri_takes_every_ending(tmp_path):
    found = scan("BrainMRI", WRITERS["BrainMRI"](tmp_path))
    assert counts(found) == {("train", "good"): 3, ("test", "good"): 2, ("test", "tumor"): 3}
    names = {Path(record.source).name: record.name for record in found.records}
    assert {"1 no.jpeg", "N2.JPG", "N17.png", "Y1.jpg", "Y1.JPG"} <= names.keys()
    # Y1.jpg and Y1.JPG are two files here, but Y1_jpg.png and Y1_JPG.png are one on many file systems.
    assert {names["Y1.jpg"], names["Y1.JPG"], names["Y20.jpg"]} == {"Y1_jpg", "Y1_jpg_2", "Y20"}


def test_brain_mri_second_copy_is_not_counted(tmp_path):
    WRITERS["BrainMRI"](tmp_path)
    WRITERS["BrainMRI"](tmp_path / "brain_tumor_dataset")
    assert len(scan("BrainMRI", tmp_path).records) == 8


def test_brain_mri_half_extracted(tmp_path):
    root = WRITERS["BrainMRI"](tmp_path)
    for path in (root / "yes").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match=r"no pictures in yes. Get the dataset from https://www.kaggle"):
        scan("BrainMRI", root)


@pytest.mark.parametrize("moved", ["head_ct/head_ct", "head_ct"])
def test_head_ct(tmp_path, moved):
    root = WRITERS["HeadCT"](tmp_path)
    if moved == "head_ct":
        for path in (root / "head_ct" / "head_ct").iterdir():
            path.rename(root / "head_ct" / path.name)
    found = scan("HeadCT", root)
    assert counts(found) == {("train", "good"): 5, ("test", "good"): 2, ("test", "hemorrhage"): 5}
    assert {record.name for record in found.records if record.label == "hemorrhage"} == {f"{n:03}" for n in range(5)}


def test_head_ct_half_extracted(tmp_path):
    root = WRITERS["HeadCT"](tmp_path)
    (root / "head_ct" / "head_ct" / "007.png").unlink()
    with pytest.raises(DatasetError, match=r"1 of 12 pictures are missing, the first is head_ct/head_ct/007.png"):
        scan("HeadCT", root)
    (root / "labels.csv").write_text("id;label\n1;0\n")
    with pytest.raises(DatasetError, match="columns id and hemorrhage"):
        scan("HeadCT", root)


@pytest.mark.parametrize("below", [".", "MNIST"])
def test_mnist(tmp_path, below):
    dataset, root = RAW_DATASETS["MNIST"], write_mnist(tmp_path)
    found = scan("MNIST", root / below)
    assert counts(found) == {
        (split, f"digit_{digit}"): count for split, count in (("train", 3), ("test", 2)) for digit in range(10)
    }
    record = next(record for record in found.records if (record.split, record.index) == ("test", 13))
    assert record.label == "digit_3"
    pixels = (root / "MNIST/raw/t10k-images-idx3-ubyte").read_bytes()[16:]
    expected = np.frombuffer(pixels, dtype=np.uint8).reshape(-1, 28, 28)[13]
    np.testing.assert_array_equal(np.asarray(dataset.read(found.base, record)), expected)


def test_mnist_half_extracted(tmp_path):
    root = write_mnist(tmp_path)
    path = root / "MNIST/raw/train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DatasetError, match="damaged"):
        scan("MNIST", root)
    path.rename(path.with_name(f"{path.name}.gz"))
    with pytest.raises(DatasetError, match=r"train-labels-idx1-ubyte.gz is not extracted.*Extract train-labels"):
        scan("MNIST", root)


@pytest.mark.parametrize("below", [".", "cifar-10-batches-py"])
def test_cifar10(tmp_path, monkeypatch, below):
    root = write_cifar10(tmp_path, monkeypatch)
    found = scan("CIFAR10", root / below)
    assert counts(found)["train", "frog"] == 10
    assert counts(found)["test", "frog"] == 2
    for split, train in (("train", True), ("test", False)):
        reference = CIFAR10(str(root), train=train)
        for record in [record for record in found.records if record.split == split]:
            image, target = reference[record.index]
            assert record.label == reference.classes[target]
            assert np.array_equal(RAW_DATASETS["CIFAR10"].read(found.base, record), image)


def test_cifar10_reads_no_unknown_pickle(tmp_path, monkeypatch):
    root = write_cifar10(tmp_path, monkeypatch)
    path = root / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(path.read_bytes() + b"\0")
    monkeypatch.setattr("pickle.load", lambda *args, **kwargs: pytest.fail("an unknown pickle was read"))
    with pytest.raises(DatasetError, match=r"data_batch_3 is damaged or not CIFAR-10's: its MD5 differs"):
        scan("CIFAR10", root)
    path.unlink()
    (root / "cifar-10-python.tar.gz").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"data_batch_3. Extract cifar-10-python.tar.gz there"):
        scan("CIFAR10", root)


def test_categories_of_the_semantic_sets():
    mnist, cifar10 = RAW_DATASETS["MNIST"], RAW_DATASETS["CIFAR10"]
    assert [digit for digit in range(10) if mnist.is_normal("digit_7", f"digit_{digit}")] == [7]
    assert [digit for digit in range(10) if mnist.is_normal("even_digit", f"digit_{digit}")] == [0, 2, 4, 6, 8]
    objects = cifar10.card.default_categories
    assert [name for name in objects if cifar10.is_normal("ship", name)] == ["ship"]
    animals = ["bird", "cat", "deer", "dog", "frog", "horse"]
    assert [name for name in objects if cifar10.is_normal("animal", name)] == animals


@pytest.mark.parametrize("name", sorted(RAW_DATASETS))
def test_missing_data_says_where_to_get_it_and_how_it_must_lie(name, tmp_path):
    card = RAW_DATASETS[name].card
    for root in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(DatasetError) as caught:
            scan(name, root)
        assert str(root) in str(caught.value)
        assert card.homepage in str(caught.value)
        assert card.layout in str(caught.value)


@pytest.mark.parametrize("name", sorted(RAW_DATASETS))
def test_a_part_of_a_dataset_must_be_asked_for(name, tmp_path, monkeypatch):
    root = write_raw(name, tmp_path, monkeypatch)
    with pytest.raises(DatasetError, match=r"not the whole dataset: .*expected.*check_counts=False"):
        RAW_DATASETS[name].scan(root)


def _full_aitex(root):
    size, strip = (4096, 256), picture(root / "strip.png", (4096, 256)).read_bytes()
    blank = mask(root / "mask.png", size, (0, 0, 300, 5)).read_bytes()
    for folder in ("Defect_images", "Mask_images", "NODefect_images/1"):
        (root / folder).mkdir(parents=True)
    for number in range(141):
        (root / "NODefect_images" / "1" / f"{number:04}_000_00.png").write_bytes(strip)
    for number in range(106):
        (root / "Defect_images" / f"{number:04}_002_00.png").write_bytes(strip)
        (root / "Mask_images" / f"{number:04}_002_00_mask.png").write_bytes(blank)


def _full_kolektor(root):
    good, bad = mask(root / "good.bmp", (4, 6)).read_bytes(), mask(root / "bad.bmp", (4, 6), (0, 0, 1, 1)).read_bytes()
    tall = mask(root / "tall.bmp", (4, 6), (0, 1, 1, 3)).read_bytes()  # abnormal in two parts
    image = picture(root / "image.jpg", (4, 6)).read_bytes()
    for number in range(399):
        folder = root / f"kos{number // 8 + 1:02}"
        folder.mkdir(exist_ok=True)
        (folder / f"Part{number % 8}.jpg").write_bytes(image)
        label = tall if number < 2 else bad if number < 52 else good
        (folder / f"Part{number % 8}_label.bmp").write_bytes(label)


def _full_elpv(root):
    image = picture(root / "image.png", (4, 4)).read_bytes()
    (root / "images").mkdir()
    rows = []
    for number in range(2624):
        probability = 0.0 if number < 1508 else 1.0 if number < 2223 else 0.333
        (root / "images" / f"cell{number}.png").write_bytes(image)
        rows.append(f"images/cell{number}.png {probability} mono")
    (root / "labels.csv").write_text("\n".join(rows))


def _full_brain_mri(root):
    image = picture(root / "image.jpg", (4, 4)).read_bytes()
    for folder, count in (("no", 98), ("yes", 155)):
        (root / folder).mkdir()
        for number in range(count):
            (root / folder / f"{number}.jpg").write_bytes(image)


def _full_head_ct(root):
    image = picture(root / "image.png", (4, 4)).read_bytes()
    (root / "head_ct").mkdir()
    for number in range(200):
        (root / "head_ct" / f"{number:03}.png").write_bytes(image)
    (root / "labels.csv").write_text("id, hemorrhage\n" + "".join(f"{n},{int(n < 100)}\n" for n in range(200)))


def _full_mnist(root):
    expected = RAW_DATASETS["MNIST"].card.expected
    for split, name in (("train", "train"), ("test", "t10k")):
        labels = [np.full(expected[split, f"digit_{digit}"][0], digit, dtype=np.uint8) for digit in range(10)]
        write_idx(root, name, np.concatenate(labels), np.random.default_rng(0), 1)


@pytest.mark.parametrize(
    ("name", "write", "total"),
    [
        ("AITEX", _full_aitex, 141 * 16 + 2 * 106),
        ("KolektorSDD", _full_kolektor, 1197),
        ("ELPV", _full_elpv, 1508 + 715),
        ("BrainMRI", _full_brain_mri, 253),
        ("HeadCT", _full_head_ct, 200),
        ("MNIST", _full_mnist, 70000),
    ],
)
def test_the_whole_dataset_has_the_expected_counts(name, write, total, tmp_path):
    write(tmp_path)
    found = scan(name, tmp_path, check_counts=True)
    assert len(found.records) == total
