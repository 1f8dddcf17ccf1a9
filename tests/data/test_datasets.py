# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark datasets: which images, labels and splits are found, what is refused, and their datamodules."""

import pickle
import random
import re
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import anomalib.data
import numpy as np
import pytest
import yaml
from anomalib import TaskType
from anomalib.data import AnomalibDataModule, get_datamodule
from jsonargparse import ArgumentParser
from torchvision import datasets as reference
from torchvision.transforms.v2 import Resize

from anomalib_inctrl import register
from anomalib_inctrl.data import DATASETS, ELPV, DataSource, GeneralistDataModule
from anomalib_inctrl.data.datasets.converted import write_converted
from anomalib_inctrl.data.datasets.records import Record, split_records
from anomalib_inctrl.errors import DatasetError, ImageFileError
from anomalib_inctrl.prompts.source import prompt_candidates
from tests.data.raw_trees import mask, noise_image, write_raw

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "data").glob("*.yaml"))
load = partial(pickle.load, encoding="latin1")
every_dataset = pytest.mark.parametrize("name", sorted(DATASETS))

# Images of the small copies: normal ones for training and testing, and abnormal ones by label.
COUNTS = {
    # The mask of a broken end lies across a cut, a fuzzy ball has two masks.
    "AITEX": (18, 6, {"broken_end": 2, "fuzzyball": 2, "knots": 1}),
    "BrainMRI": (3, 2, {"tumor": 3}),
    "CIFAR10": (10, 2, dict.fromkeys(DATASETS["CIFAR10"].default_categories[1:], 2)),
    "ELPV": (6, 2, {"mono": 2, "poly": 2}),
    "HeadCT": (5, 2, {"hemorrhage": 5}),
    "KolektorSDD": (18, 6, {"defect": 3}),
    "MNIST": (3, 2, {f"digit_{digit}": 2 for digit in range(1, 10)}),
}


@pytest.fixture
def raw(tmp_path, monkeypatch):
    return lambda name, below=".": write_raw(name, tmp_path / name / below, monkeypatch)


def scan(name, root):
    return DATASETS[name].scan(root, check_counts=False)


def ready(name, root, **options):
    defaults = {"num_workers": 0, "eval_batch_size": 4, "augmentations": Resize((24, 24)), "check_counts": False}
    datamodule = DATASETS[name](root, **{**defaults, **options})
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


@pytest.mark.parametrize("count", [2, 5, 98, 1143])
def test_a_quarter_of_the_sorted_normal_images_is_drawn_for_testing(count):
    drawn = np.random.RandomState(42).permutation(count)[: -(-count // 4)]
    records = [Record("x", "", "good", str(number), f"{number}.png") for number in range(count)]
    split = split_records(random.Random(count).sample(records, count), "X")
    assert {int(record.name) for record in split if record.split == "test"} == set(drawn)
    with pytest.raises(DatasetError, match="a single normal image cannot be split"):
        split_records(records[:1], "X")


@every_dataset
def test_scan_does_not_depend_on_the_order_of_the_file_system(name, raw, monkeypatch):
    root, listed = raw(name), Path.rglob
    records = scan(name, root).records
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: sorted(listed(self, pattern), reverse=True))
    assert scan(name, root).records == records
    assert len({record.rows()[0][0].casefold() for record in records}) == len(records)


@every_dataset
def test_train_split_is_normal_and_masks_come_with_abnormal_images(name, raw):
    datamodule = ready(name, raw(name))
    card, train, test = datamodule.card, datamodule.train_data.samples, datamodule.test_data.samples
    assert (datamodule.category, datamodule.name, datamodule.task) == (card.categories[0], name, TaskType(card.task))
    abnormal = test[test.label_index == 1]
    assert (len(train), len(test) - len(abnormal), abnormal.label.value_counts().to_dict()) == COUNTS[name]
    assert not train.label_index.any()
    assert not set(train.image_path) & set(test.image_path)
    for loader in (datamodule.train_dataloader(), datamodule.val_dataloader(), datamodule.test_dataloader()):
        image = next(iter(loader)).image
        assert image.shape[1:] == (3, 24, 24)
        assert 0 <= image.min() < image.max() <= 1.001  # bilinear weights add up to one but for rounding
    for item in datamodule.test_data:
        assert bool(item.mask_path) == (card.task == "segmentation" and bool(item.gt_label))
    candidates = prompt_candidates(datamodule, None)
    assert candidates == {datamodule.category: [Path(path) for path in train.image_path]}


def edit(name, old, new):
    return lambda root: (root / name).write_text((root / name).read_text().replace(old, new))


def cut(name):
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:-1])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("AITEX", lambda root: mask(root / "Mask_images/0011_002_00_mask.png", (512, 256), (0, 0, 9, 9)),
         r"0011_002_00_mask.png is 256 x 512 pixels .*, its image 256 x 1024"),
        ("AITEX", lambda root: noise_image(root / "Defect_images/preview.png", (9, 9)), "preview.png: not a name of"),
        ("AITEX", lambda root: (root / "Defect_images/0011_002_00.png").write_bytes(b""), r"0011_002_00.png: 0 bytes"),
        ("KolektorSDD", lambda root: (root / "kos02/Part2_label.bmp").unlink(), r"Part2.jpg has no Part2_label.bmp"),
        ("ELPV", edit("labels.csv", "images/cell0001.png", "../../cell0001.png"), "outside its folder"),
        ("ELPV", edit("labels.csv", "0.3333333333333333", "x"), "labels.csv: not a table with the columns path, prob"),
        ("BrainMRI", lambda root: [path.unlink() for path in (root / "yes").iterdir()], "no images in yes. Get the"),
        ("HeadCT", edit("labels.csv", "id, hemorrhage", "id;label"), "columns id, hemorrhage"),
        ("MNIST", cut("MNIST/raw/train-labels-idx1-ubyte"), "files below MNIST are missing or damaged"),
        ("MNIST", lambda root: (root / "MNIST/raw/t10k-labels-idx1-ubyte").rename(root / "MNIST/raw/t10k-labels.gz"),
         r"missing or damaged.*Extract t10k-labels.gz"),
    ],
)  # fmt: skip
def test_incomplete_or_damaged_data_is_named(name, change, message, raw):
    root = raw(name)
    change(root)
    with pytest.raises((DatasetError, ImageFileError), match=message):
        scan(name, root)


@pytest.mark.parametrize("name", ["batches.meta", "data_batch_3", "test_batch"])
def test_cifar10_reads_no_unknown_pickle(name, raw, monkeypatch):
    root, read = raw("CIFAR10"), []
    monkeypatch.setattr("pickle.load", lambda file, **_: read.append(Path(file.name).name) or load(file))
    cut(f"cifar-10-batches-py/{name}")(root)
    with pytest.raises(DatasetError, match="missing or damaged"):
        scan("CIFAR10", root)
    assert name not in read


def test_images_are_cut(raw, tmp_path):
    root = raw("AITEX")
    found = scan("AITEX", root)
    widths = {record.name: record.part[2] - record.part[0] for record in found.records if record.masks}
    assert widths.pop("0094_027_05_02") == 724 - 512
    assert set(widths.values()) == {256}
    assert [note.partition(", so")[0] for note in found.notes] == [
        "0100_025_08.png is left out: it has no mask",
        "0106_010_03.png is left out: its mask is empty",
    ]
    # Some archives hold a folder of their own name once more.
    for name in ("Defect_images", "Mask_images", "NODefect_images"):
        (tmp_path / "double" / name).mkdir(parents=True)
        (root / name).rename(tmp_path / "double" / name / name)
    assert [record.name for record in scan("AITEX", tmp_path / "double").records] == [r.name for r in found.records]
    found = scan("KolektorSDD", raw("KolektorSDD"))
    assert [(record.name, record.part) for record in found.records if record.masks] == [
        ("kos01_Part2_01", (0, 10, 20, 20)),
        ("kos02_Part10_01", (0, 10, 20, 20)),  # the defect lies across the cut
        ("kos02_Part10_02", (0, 20, 20, 31)),
    ]


def test_places_and_labels_of_image_lists(raw):
    root = raw("ELPV", "src/elpv_dataset/data").parents[2]
    found = scan("ELPV", root)
    assert found.notes == ["8 images are left out: their labels are uncertain."]
    abnormal = {record.source for record in found.records if record.label != "good"}
    assert abnormal == {f"images/cell{number:04}.png" for number in range(1, 21) if number % 5 == 3}
    kinds = [ready("ELPV", root, category=f"{kind}crystalline").test_data.samples for kind in ("mono", "poly")]
    assert [set(samples.label) for samples in kinds] == [{"good", "mono"}, {"good", "poly"}]
    raw("BrainMRI", "brain_tumor_dataset")  # a second copy
    found = scan("BrainMRI", raw("BrainMRI"))
    names = {Path(record.source).name: record.name for record in found.records}
    assert len(found.records) == 8
    assert {names["Y1.jpg"], names["Y1.JPG"], names["Y20.jpg"]} == {"Y1", "Y1_2", "Y20"}
    root = raw("HeadCT")
    expected = scan("HeadCT", root).records
    assert {record.name for record in expected if record.label == "hemorrhage"} == {f"{n:03}" for n in range(5)}
    for path in list((root / "head_ct/head_ct").iterdir()):
        path.rename(root / "head_ct" / path.name)
    assert [record.name for record in scan("HeadCT", root).records] == [record.name for record in expected]


@pytest.mark.parametrize(("name", "folder"), [("MNIST", "MNIST"), ("CIFAR10", "cifar-10-batches-py")])
def test_images_in_arrays_are_those_of_torchvision(name, folder, raw):
    root = raw(name)
    found = scan(name, root)
    assert scan(name, root / folder).records == found.records
    data = {split: getattr(reference, name)(str(root), train=split == "train") for split in ("train", "test")}
    for record in found.records:
        image, target = data[record.split][record.part[0]]
        assert record.label == DATASETS[name].default_categories[target]
        np.testing.assert_array_equal(found.arrays[record.source][record.part[0]], image)


@every_dataset
def test_raw_and_converted_data_give_the_same_images(name, raw, tmp_path):
    root = raw(name)
    before = set(root.rglob("*"))
    direct = ready(name, root)
    assert set(root.rglob("*")) == before
    assert (tmp_path / f"{name}_converted").exists() == (name not in {"BrainMRI", "ELPV", "HeadCT"})
    write_converted(scan(name, root), tmp_path / "converted")
    through = ready(name, tmp_path / "converted")
    for part in ("train_data", "test_data"):
        sums = [
            sorted((item.gt_label.item(), item.image.double().sum().item()) for item in getattr(one, part))
            for one in (direct, through)
        ]
        np.testing.assert_allclose(*sums, atol=1e-3)


@pytest.mark.parametrize(("category", "digits"), [("digit_7", [7]), ("even_digit", [0, 2, 4, 6, 8])])
def test_one_vs_all_and_multi_class(raw, category, digits):
    datamodule = ready("MNIST", raw("MNIST"), category=category)
    assert (len(datamodule.train_data), len(datamodule.test_data)) == (3 * len(digits), 20)
    samples = datamodule.test_data.samples
    assert set(samples.label[samples.label_index == 0]) == {f"digit_{digit}" for digit in digits}
    animals = DATASETS["CIFAR10"].card.normal_labels["animal"]
    assert set(animals) == {"bird", "cat", "deer", "dog", "frog", "horse"}


@every_dataset
def test_known_to_anomalib_and_as_source(name, raw, tmp_path):
    register()
    cls = DATASETS[name]
    assert getattr(anomalib.data, name) is cls
    if name != "ELPV" or find_spec("elpv_dataset") is None:  # which then has a root of its own
        assert cls().root == Path("datasets") / name
    arguments = {"root": str(tmp_path), "category": cls.card.categories[-1], "check_counts": False}
    assert get_datamodule({"class_path": name, "init_args": arguments}).category == cls.card.categories[-1]
    with pytest.raises(DatasetError, match=rf"category='bottle': {name} has no such category. It has "):
        cls(category="bottle")
    source = DataSource(name, str(raw(name)), options={"check_counts": False})
    options = {"train_batch_size": 4, "k_shot": 1, "steps_per_epoch": 1, "num_workers": 0}
    datamodule = GeneralistDataModule([source], [source], train_augmentations=Resize((24, 24)), **options)
    datamodule.prepare_data()
    datamodule.setup()
    categories = sorted(cls.default_categories)
    assert sorted(name for name, paths in datamodule.prompt_candidates().items() if paths) == categories
    assert sorted(set(datamodule.test_data.samples.class_name)) == categories
    (batch,) = datamodule.train_dataloader()
    assert batch.mask_valid.tolist() == [cls.card.task == "segmentation"] * 4


@every_dataset
def test_missing_and_partial_data_are_refused(name, raw, tmp_path):
    card = DATASETS[name].card
    for root in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(DatasetError) as caught:
            ready(name, root)
        assert all(text in str(caught.value) for text in (str(root), card.homepage, card.layout))
    root = raw(name)
    for _ in range(2):  # nor is what was converted from a part accepted
        with pytest.raises(DatasetError, match=r"not the whole dataset: .*expected.*check_counts=False"):
            ready(name, root, check_counts=True)
        ready(name, root)


def test_complete_data_passes_the_check_of_counts():
    check = DATASETS["BrainMRI"].card.check_counts
    check("here", {("train", "good"): 73, ("test", "good"): 25, ("test", "one"): 151, ("test", "other"): 4})
    with pytest.raises(
        DatasetError, match=r"here is not .*72 train good \(expected 73\), 154 test abnormal \(expected"
    ):
        check("here", {("train", "good"): 72, ("test", "good"): 25, ("test", "one"): 154})


def test_converted_data_is_enough_and_lost_or_damaged_files_are_named(raw, tmp_path):
    root = raw("KolektorSDD")
    datamodule = ready("KolektorSDD", root)
    root.rename(tmp_path / "elsewhere")
    assert len(ready("KolektorSDD", root).test_data) == 9
    with pytest.raises(DatasetError, match=r"not AITEX: it holds commutator, not fabric"):
        ready("AITEX", datamodule.converted_root)
    path = Path(datamodule.test_data.samples.image_path[0])
    path.write_bytes(path.read_bytes()[:80])
    with pytest.raises(ImageFileError, match=re.escape(str(path))):
        list(datamodule.test_dataloader())
    path.unlink()
    with pytest.raises(DatasetError, match=rf"1 of \d+ files are missing.*{re.escape(str(path))}"):
        ready("KolektorSDD", root)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_are_valid(path):
    parser = ArgumentParser()
    parser.add_subclass_arguments(AnomalibDataModule, "data")
    datamodule = parser.instantiate_classes(parser.parse_args([f"--data={path}"])).data
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert type(datamodule).__name__ == content["class_path"]
    assert datamodule.root == Path(content["init_args"]["root"])


@pytest.mark.slow
def test_elpv_reads_the_real_images_of_its_package():
    pytest.importorskip("elpv_dataset", reason="the extra `real` is not installed")
    data = ELPV(num_workers=0)
    data.setup()
    assert len(data.train_data) == 1131
    assert sorted(data.test_data.samples.label_index.value_counts()) == [377, 715]
    assert next(iter(data.test_dataloader())).image.shape[-2:] == (300, 300)
