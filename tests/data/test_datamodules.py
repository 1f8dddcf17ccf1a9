# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark datasets as anomalib datamodules, as targets and as auxiliary data."""

import re
from importlib.util import find_spec
from pathlib import Path

import anomalib.data
import numpy as np
import pytest
import yaml
from anomalib import TaskType
from anomalib.cli.cli import AnomalibCLI
from anomalib.data import AnomalibDataModule, get_datamodule
from jsonargparse import ArgumentParser
from torchvision.transforms.v2 import Resize

from anomalib_inctrl.data import DATASETS, ELPV, DataSource, GeneralistDataModule
from anomalib_inctrl.data.datasets.converted import write_converted
from anomalib_inctrl.errors import DatasetError, ImageFileError
from anomalib_inctrl.prompts.source import class_name_of, prompt_candidates
from tests.data.raw_trees import WRITERS, write_raw

REPOSITORY = Path(__file__).parents[2]
IN_PLACE = {"BrainMRI", "ELPV", "HeadCT"}
NAMES = sorted(DATASETS)


def build(name, root, **options):
    defaults = {"num_workers": 0, "eval_batch_size": 4, "augmentations": Resize((24, 24)), "check_counts": False}
    return DATASETS[name](root, **{**defaults, **options})


def ready(datamodule):
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


@pytest.fixture
def raw(tmp_path, monkeypatch):
    return lambda name: write_raw(name, tmp_path / name, monkeypatch)


@pytest.mark.parametrize("name", NAMES)
def test_train_split_is_normal_and_masks_come_with_abnormal_images(name, raw):
    datamodule = ready(build(name, raw(name)))
    card = datamodule.card
    assert (datamodule.category, datamodule.name, datamodule.task) == (card.categories[0], name, TaskType(card.task))
    for loader in (datamodule.train_dataloader(), datamodule.val_dataloader(), datamodule.test_dataloader()):
        batch = next(iter(loader))
        assert batch.image.shape[1:] == (3, 24, 24)
        assert 0 <= batch.image.min() < batch.image.max() <= 1.001  # bilinear weights add up to one but for rounding
    assert not datamodule.train_data.samples.label_index.any()
    assert set(datamodule.test_data.samples.label_index) == {0, 1}
    assert not set(datamodule.train_data.samples.image_path) & set(datamodule.test_data.samples.image_path)
    for item in datamodule.test_data:
        assert bool(item.mask_path) == (card.task == "segmentation" and bool(item.gt_label))
    candidates = prompt_candidates(datamodule, None)
    assert list(candidates) == [class_name_of(datamodule, None)] == [datamodule.category]
    assert candidates[datamodule.category] == [Path(path) for path in datamodule.train_data.samples.image_path]


@pytest.mark.parametrize("name", NAMES)
def test_raw_and_converted_data_give_the_same_images(name, raw, tmp_path):
    root = raw(name)
    before = set(root.rglob("*"))
    direct = ready(build(name, root))
    assert set(root.rglob("*")) == before
    assert (tmp_path / f"{name}_converted").exists() == (name not in IN_PLACE)
    write_converted(DATASETS[name].scan(root, check_counts=False), tmp_path / "converted")
    through = ready(build(name, tmp_path / "converted"))
    for part in ("train_data", "test_data"):
        sums = [
            sorted((item.gt_label.item(), item.image.double().sum().item()) for item in getattr(one, part))
            for one in (direct, through)
        ]
        np.testing.assert_allclose(sums[0], sums[1], atol=1e-3)


@pytest.mark.parametrize(("category", "digits"), [("digit_7", [7]), ("even_digit", [0, 2, 4, 6, 8])])
def test_one_vs_all_and_multi_class(raw, category, digits):
    datamodule = ready(build("MNIST", raw("MNIST"), category=category))
    assert (len(datamodule.train_data), len(datamodule.test_data)) == (3 * len(digits), 20)
    samples = datamodule.test_data.samples
    assert set(samples.label[samples.label_index == 0]) == {f"digit_{digit}" for digit in digits}
    animals = DATASETS["CIFAR10"].card.normal_labels["animal"]
    assert set(animals) == {"bird", "cat", "deer", "dog", "frog", "horse"}


@pytest.mark.parametrize("name", NAMES)
def test_as_target_and_as_auxiliary(name, raw):
    source = DataSource(name, str(raw(name)), options={"check_counts": False})
    options = {"train_batch_size": 4, "k_shot": 1, "steps_per_epoch": 1, "num_workers": 0}
    datamodule = ready(GeneralistDataModule([source], [source], train_augmentations=Resize((24, 24)), **options))
    card = DATASETS[name].card
    categories = sorted(DATASETS[name].default_categories)
    assert sorted(datamodule.prompt_candidates()) == categories
    assert sorted(set(datamodule.test_data.samples.class_name)) == categories
    assert all(datamodule.prompt_candidates().values())
    (batch,) = datamodule.train_dataloader()
    assert batch.mask_valid.tolist() == [card.task == "segmentation"] * 4


@pytest.mark.parametrize("name", NAMES)
def test_known_to_anomalib_by_its_short_name(name, tmp_path):
    cls = DATASETS[name]
    assert getattr(anomalib.data, name) is cls
    if name != "ELPV" or find_spec("elpv_dataset") is None:  # which then has a root of its own
        assert cls().root == Path("datasets") / name
    category = cls.card.categories[-1]
    arguments = {"root": str(tmp_path), "category": category, "check_counts": False}
    assert get_datamodule({"class_path": name, "init_args": arguments}).category == category
    with pytest.raises(DatasetError, match=rf"category='bottle': {name} has no such category. It has "):
        cls(category="bottle")


@pytest.mark.parametrize("name", NAMES)
def test_missing_and_partial_data_are_refused(name, raw, tmp_path):
    with pytest.raises(DatasetError, match=re.escape(DATASETS[name].card.homepage)):
        ready(build(name, tmp_path / "nowhere"))
    root = raw(name)
    with pytest.raises(DatasetError, match="not the whole dataset"):
        ready(build(name, root, check_counts=True))
    ready(build(name, root))
    with pytest.raises(DatasetError, match="not the whole dataset"):  # nor is what was converted from a part
        ready(build(name, root, check_counts=True))


def test_converted_data_is_enough_and_lost_files_are_named(raw, tmp_path):
    root = raw("KolektorSDD")
    datamodule = ready(build("KolektorSDD", root))
    root.rename(tmp_path / "elsewhere")
    assert len(ready(build("KolektorSDD", root)).test_data) == 9
    with pytest.raises(DatasetError, match=r"not AITEX: it holds commutator, not fabric"):
        ready(build("AITEX", datamodule.converted_root))
    lost = Path(datamodule.test_data.samples.image_path[0])
    lost.unlink()
    with pytest.raises(DatasetError, match=rf"1 of \d+ files are missing.*{re.escape(str(lost))}"):
        ready(build("KolektorSDD", root))


def test_a_truncated_image_is_named(raw):
    datamodule = ready(build("HeadCT", raw("HeadCT")))
    path = Path(datamodule.test_data.samples.image_path[0])
    path.write_bytes(path.read_bytes()[:80])
    with pytest.raises(ImageFileError, match=re.escape(str(path))):
        list(datamodule.test_dataloader())


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs" / "data").glob("*.yaml")), ids=lambda path: path.stem)
def test_configs_are_valid(path):
    parser = ArgumentParser()
    parser.add_subclass_arguments(AnomalibDataModule, "data")
    datamodule = parser.instantiate_classes(parser.parse_args([f"--data={path}"])).data
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert type(datamodule).__name__ == content["class_path"]
    assert datamodule.root == Path(content["init_args"]["root"])


@pytest.mark.slow
def test_anomalibs_command_tests_on_raw_data(tmp_path, monkeypatch, capsys):
    WRITERS["KolektorSDD"](tmp_path / "raw")
    monkeypatch.chdir(tmp_path)
    model = ["--model=InCTRL", "--model.backbone=mini-clip-16-240", "--model.pretrained=demo", "--model.k_shot=1"]
    data = ["--data=KolektorSDD", "--data.root=raw", "--data.check_counts=false", "--data.num_workers=0"]
    AnomalibCLI(args=["test", *model, "--model.visualizer=false", *data])
    assert "pixel_AUPRO" in capsys.readouterr().out
    assert (tmp_path / "raw_converted" / "manifest.csv").is_file()


@pytest.mark.slow
def test_elpv_reads_the_real_images_of_its_package():
    pytest.importorskip("elpv_dataset", reason="the extra `real` is not installed")
    counts = {}
    for category in ("solar_cell", "monocrystalline", "polycrystalline"):
        data = ELPV(category=category, num_workers=0)
        data.prepare_data()
        data.setup()
        tested = data.test_data.samples.label_index
        counts[category] = len(data.train_data), int((tested == 0).sum()), int((tested == 1).sum())
    assert counts["solar_cell"] == (1131, 377, 715)
    assert counts["solar_cell"] == tuple(map(sum, zip(*list(counts.values())[1:], strict=True)))
    assert next(iter(data.test_dataloader())).image.shape[-2:] == (300, 300)
