# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import errno
import inspect
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import anomalib.data
import numpy as np
import pytest
import yaml
from anomalib import TaskType
from anomalib.data import AnomalibDataModule, get_datamodule
from jsonargparse import ArgumentParser
from torchvision.transforms.v2 import Resize

from anomalib_inctrl.data import BENCHMARK_DATAMODULES, DataSource, GeneralistDataModule
from anomalib_inctrl.data.convert import convert
from anomalib_inctrl.data.raw import RAW_DATASETS
from anomalib_inctrl.errors import DatasetError, ImageFileError
from anomalib_inctrl.prompts.source import class_name_of, prompt_candidates
from tests.data.raw_trees import WRITERS, write_raw

REPOSITORY = Path(__file__).parents[2]
IN_PLACE = {"BrainMRI", "ELPV", "HeadCT"}
CLASSES = {cls.__name__: cls for cls in BENCHMARK_DATAMODULES}
NAMES = sorted(CLASSES)


def build(name, root, **options):
    defaults = {"num_workers": 0, "eval_batch_size": 4, "augmentations": Resize((24, 24)), "check_counts": False}
    return CLASSES[name](root, **{**defaults, **options})


def ready(datamodule):
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


@pytest.fixture
def raw(tmp_path, monkeypatch):
    return lambda name: write_raw(name, tmp_path / name, monkeypatch)


@pytest.mark.parametrize("name", NAMES)
def test_first_batches(name, raw):
    datamodule = ready(build(name, raw(name)))
    card = datamodule.raw.card
    assert datamodule.category == card.categories[0]
    assert datamodule.name == name == card.name
    assert datamodule.task == TaskType(card.task)
    for loader in (datamodule.train_dataloader(), datamodule.val_dataloader(), datamodule.test_dataloader()):
        for batch in loader:
            assert batch.image.shape[1:] == (3, 24, 24)
            assert batch.image.min() >= 0
            assert batch.image.max() <= 1.001  # bilinear weights add up to one but for rounding
    assert not datamodule.train_data.samples.label_index.any()
    assert set(datamodule.test_data.samples.label_index) == {0, 1}
    train, test = (set(part.samples.image_path) for part in (datamodule.train_data, datamodule.test_data))
    assert not train & test


@pytest.mark.parametrize("name", NAMES)
def test_raw_and_converted_data_give_the_same_images(name, raw, tmp_path):
    root = raw(name)
    direct = ready(build(name, root))
    convert(RAW_DATASETS[name], root, tmp_path / "converted", check_counts=False)
    through = ready(build(name, tmp_path / "converted"))
    for part in ("train_data", "test_data"):
        one, other = getattr(direct, part), getattr(through, part)
        assert len(one) == len(other)
        sums = [
            sorted((item.gt_label.item(), item.image.double().sum().item()) for item in data) for data in (one, other)
        ]
        np.testing.assert_allclose(sums[0], sums[1], atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_only_what_must_be_cut_or_unpacked_is_written(name, raw, tmp_path):
    root = raw(name)
    before = set(root.rglob("*"))
    datamodule = ready(build(name, root))
    assert set(root.rglob("*")) == before
    beside = tmp_path / f"{name}_converted"
    assert beside.exists() == (name not in IN_PLACE)
    folder = root if name in IN_PLACE else beside
    assert all(Path(path).is_relative_to(folder) for path in datamodule.test_data.samples.image_path)


def test_masks_come_with_abnormal_images(raw):
    for name in ("AITEX", "KolektorSDD"):
        for item in ready(build(name, raw(name), augmentations=None)).test_data:
            assert bool(item.gt_mask.any()) == bool(item.gt_label)
            assert bool(item.mask_path) == bool(item.gt_label)


def test_one_vs_all_and_multi_class(raw):
    root = raw("MNIST")
    for category, digits in (("digit_7", [7]), ("even_digit", [0, 2, 4, 6, 8])):
        datamodule = ready(build("MNIST", root, category=category))
        assert len(datamodule.train_data) == 3 * len(digits)
        assert len(datamodule.test_data) == 20
        samples = datamodule.test_data.samples
        normal = samples[samples.label_index == 0].image_path.map(lambda path: Path(path).parent.name)
        assert sorted(set(normal)) == [f"digit_{digit}" for digit in digits]


@pytest.mark.parametrize("name", NAMES)
def test_prompts_are_normal_training_images_named_after_the_category(name, raw):
    datamodule = ready(build(name, raw(name)))
    candidates = prompt_candidates(datamodule, None)
    assert list(candidates) == [class_name_of(datamodule, None)] == [datamodule.category]
    assert candidates[datamodule.category] == [Path(path) for path in datamodule.train_data.samples.image_path]


@pytest.mark.parametrize("name", NAMES)
def test_as_target_and_as_auxiliary(name, raw):
    root = raw(name)
    source = DataSource(name, str(root), options={"check_counts": False})
    datamodule = GeneralistDataModule(
        [source], [source], train_batch_size=4, k_shot=1, steps_per_epoch=1, num_workers=0, eval_batch_size=4
    )
    datamodule.prepare_data()
    datamodule.setup()
    card = CLASSES[name].raw.card
    assert sorted(datamodule.prompt_candidates()) == sorted(card.default_categories)
    assert set(datamodule.test_data.samples.class_name) == set(card.default_categories)
    assert all(datamodule.prompt_candidates().values())
    datamodule.train_augmentations = Resize((24, 24))
    datamodule._update_augmentations()
    (batch,) = datamodule.train_dataloader()
    assert batch.gt_label.sum() == 2
    assert batch.prompt_image.shape[:2] == (4, 1)
    masks = card.task == "segmentation"
    assert batch.mask_valid.tolist() == [masks] * 4


def test_multi_class_categories_must_be_named(raw):
    root = str(raw("MNIST"))
    options = {"check_counts": False}
    target = DataSource("MNIST", root, ["even_digit", "digit_1"], options=options)
    datamodule = GeneralistDataModule(targets=[target], num_workers=0)
    datamodule.prepare_data()
    assert list(datamodule.prompt_candidates()) == ["even_digit", "digit_1"]
    with pytest.raises(DatasetError, match=r"odd_digit not found.*even_digit"):
        GeneralistDataModule(targets=[DataSource("MNIST", root, ["odd_digit"])]).prompt_candidates()


@pytest.mark.parametrize("name", NAMES)
def test_known_to_anomalib_by_its_short_name(name, tmp_path):
    cls = CLASSES[name]
    assert getattr(anomalib.data, name) is cls
    assert not inspect.isabstract(cls)
    category = cls.raw.card.categories[-1]
    arguments = {"root": str(tmp_path), "category": category, "check_counts": False}
    assert get_datamodule({"class_path": name, "init_args": arguments}).category == category
    parser = ArgumentParser()
    parser.add_subclass_arguments(AnomalibDataModule, "data")
    flags = [f"--data.root={tmp_path}", f"--data.category={category}", "--data.check_counts=false"]
    parsed = parser.instantiate_classes(parser.parse_args([f"--data={name}", *flags])).data
    assert (type(parsed), parsed.root, parsed.category) == (cls, tmp_path, category)


@pytest.mark.parametrize("name", NAMES)
def test_default_root_and_unknown_category(name):
    assert CLASSES[name]().root == Path("datasets") / name
    with pytest.raises(DatasetError, match=rf"category='bottle': {name} has no such category. It has "):
        CLASSES[name](category="bottle")


@pytest.mark.parametrize("name", NAMES)
def test_missing_and_partial_data(name, raw, tmp_path):
    datamodule = build(name, tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=re.escape(RAW_DATASETS[name].card.homepage)):
        ready(datamodule)
    root = raw(name)
    with pytest.raises(DatasetError, match="not the whole dataset"):
        ready(build(name, root, check_counts=True))
    ready(build(name, root))
    # What was converted from a part is no more the whole dataset than the part itself.
    with pytest.raises(DatasetError, match="not the whole dataset"):
        ready(build(name, root, check_counts=True))


def test_setup_before_prepare_names_both_ways(raw):
    root = raw("AITEX")
    with pytest.raises(DatasetError, match=r"prepare_data\(\) first, or run `anomalib-inctrl convert AITEX --root"):
        build("AITEX", root).setup()


def test_converted_data_suffices(raw, tmp_path):
    root = raw("KolektorSDD")
    ready(build("KolektorSDD", root))
    root.rename(tmp_path / "elsewhere")
    assert len(ready(build("KolektorSDD", root)).test_data) == 9


def test_lost_files_and_other_datasets_are_named(raw, tmp_path):
    root = raw("KolektorSDD")
    datamodule = ready(build("KolektorSDD", root))
    with pytest.raises(DatasetError, match=r"not AITEX: it holds commutator, not fabric"):
        ready(build("AITEX", datamodule.converted_root))
    lost = Path(datamodule.test_data.samples.image_path[0])
    lost.unlink()
    with pytest.raises(
        DatasetError, match=rf"1 of \d+ files are missing or empty, the first is {re.escape(str(lost))}"
    ):
        ready(build("KolektorSDD", root))


def test_a_truncated_picture_is_named(raw):
    datamodule = ready(build("HeadCT", raw("HeadCT")))
    path = Path(datamodule.test_data.samples.image_path[0])
    path.write_bytes(path.read_bytes()[:80])
    with pytest.raises(ImageFileError, match=re.escape(str(path))):
        datamodule.test_data[0]


def test_notes_are_logged(raw, caplog):
    with caplog.at_level(logging.WARNING, logger="anomalib_inctrl"):
        ready(build("AITEX", raw("AITEX")))
    assert "0100_025_08.png is left out" in caplog.text


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_read_only_folder_names_the_command(number, raw, monkeypatch):
    def refuse(path, *args, **kwargs):
        raise OSError(number, os.strerror(number), str(path))

    datamodule = build("KolektorSDD", raw("KolektorSDD"))
    monkeypatch.setattr("anomalib_inctrl.data.convert.FileLock", refuse)
    with pytest.raises(DatasetError, match=r"cannot be written.*anomalib-inctrl convert KolektorSDD"):
        ready(datamodule)


def test_other_errors_of_the_disk_are_not_disguised(raw, monkeypatch):
    def fail(path, *args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    datamodule = build("KolektorSDD", raw("KolektorSDD"))
    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space left"):
        ready(datamodule)
    assert not datamodule.converted_root.exists()


@pytest.mark.parametrize("name", NAMES)
def test_documented(name):
    card, text = CLASSES[name].raw.card, inspect.getdoc(CLASSES[name])
    plain = " ".join(text.split())
    assert f"Licence: {card.licence}. Source: {card.homepage}" in plain
    assert card.citation.partition(":")[0].split(",")[0] in plain
    lines = (REPOSITORY / "docs/datasets.md").read_text(encoding="utf-8").splitlines()
    row, counts = [line for line in lines if line.startswith(f"| `{name}` |")]
    assert card.licence in row
    assert card.homepage in row
    for category in {card.categories[0], card.categories[-1]}:
        assert f"`{category}`" in row
    for (_, label), allowed in card.expected.items():
        assert label not in {"good", "abnormal"} or f"| {max(allowed)} |" in counts


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs" / "data").glob("*.yaml")), ids=lambda path: path.stem)
def test_configs_are_taken(path):
    parser = ArgumentParser()
    parser.add_subclass_arguments(AnomalibDataModule, "data")
    datamodule = parser.instantiate_classes(parser.parse_args([f"--data={path}"])).data
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert type(datamodule).__name__ == content["class_path"]
    assert datamodule.root == Path(content["init_args"]["root"])


@pytest.mark.slow
def test_anomalibs_command_tests_on_raw_data(tmp_path):
    WRITERS["KolektorSDD"](tmp_path / "raw")
    model = ["--model=InCTRL", "--model.backbone=mini-clip-16-240", "--model.pretrained=demo", "--model.k_shot=1"]
    data = ["--data=KolektorSDD", "--data.root=raw", "--data.check_counts=false", "--data.num_workers=0"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "anomalib_inctrl.cli", "test", *model, "--model.visualizer=false", *data],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    assert "pixel_AUPRO" in done.stdout
    assert (tmp_path / "raw_converted" / "manifest.csv").is_file()
