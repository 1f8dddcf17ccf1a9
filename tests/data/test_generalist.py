# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import json
import logging
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DistributedSampler
from torchvision.transforms.v2 import Compose, Normalize, RandomHorizontalFlip, Resize

from anomalib_inctrl.data import BalancedSampler, DataSource, GeneralistDataModule
from anomalib_inctrl.errors import DatasetError
from tests.data.trees import folder_tree, mvtec_category

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path):
    for name in ("bottle", "cable"):
        mvtec_category(tmp_path / "mvtec", name)
    for name in ("candle", "fryum"):
        mvtec_category(tmp_path / "visa" / "visa_pytorch", name, train=4, size=(40, 24))
    return tmp_path


@pytest.fixture
def auxiliary(root):
    options = folder_tree(root / "plain")
    return [DataSource("MVTecAD", str(root / "mvtec")), DataSource("Folder", str(root / "plain"), options=options)]


@pytest.fixture
def targets(root):
    return [DataSource("Visa", str(root / "visa"))]


def build(auxiliary=None, targets=None, **options):
    defaults = {"train_batch_size": 6, "eval_batch_size": 4, "steps_per_epoch": 3, "num_workers": 0}
    return GeneralistDataModule(auxiliary, targets, **{**defaults, **options})


class Recorder(LightningModule):
    """Learns nothing and writes down which images it was given."""

    def __init__(self, needs_one_class_queries=None):
        super().__init__()
        if needs_one_class_queries is not None:
            self.needs_one_class_queries = needs_one_class_queries
        self.layer = torch.nn.Linear(1, 1)
        self.model = SimpleNamespace()
        self.seen = defaultdict(list)

    def _note(self, stage, items):
        noted = [item.image_path for item in items], [int(item.gt_label) for item in items]
        self.seen[f"{stage}{self.current_epoch}"].append([*noted])

    def training_step(self, batch):
        assert batch.prompt_image.shape[:2] == (len(batch), 2)
        self._note("train", [item for item in batch if not item.one_class])
        self._note("one_class", [item for item in batch if item.one_class])
        return self.layer(batch.image.mean().view(1, 1)).sum()

    def validation_step(self, batch):
        self._note("validate", batch)

    def test_step(self, batch):
        self.seen["test"].append([batch.image_path, batch.gt_label.int().tolist()])

    def predict_step(self, batch):
        raise NotImplementedError

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def trainer(tmp_path, **options):
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 2,
        "default_root_dir": tmp_path,
        "num_sanity_val_steps": 0,
    }
    return Trainer(**{**quiet, **defaults, **options})


def ready(datamodule):
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def test_auxiliary_is_merged_and_targets_are_as_their_datamodules_define(auxiliary, targets):
    datamodule = ready(build(auxiliary, targets))
    assert datamodule.train_data.samples.groupby(["class_name", "label_index"]).size().to_dict() == {
        ("bottle", 0): 7,
        ("bottle", 1): 3,
        ("cable", 0): 7,
        ("cable", 1): 3,
        ("plain", 0): 6,
        ("plain", 1): 4,
    }
    for data in (datamodule.val_data, datamodule.test_data):
        assert data.samples.groupby(["class_name", "label_index"]).size().to_dict() == {
            ("candle", 0): 2,
            ("candle", 1): 3,
            ("fryum", 0): 2,
            ("fryum", 1): 3,
        }
    assert (datamodule.name, datamodule.category) == ("GeneralistDataModule", "")


def test_prompt_candidates_are_the_normal_training_images_of_the_targets(root, auxiliary, targets):
    candidates = ready(build(auxiliary, targets)).prompt_candidates()
    for name in ("candle", "fryum"):
        folder = root / "visa" / "visa_pytorch" / name / "train" / "good"
        assert candidates.pop(name) == sorted(folder.iterdir())
    assert candidates == {}


def test_candidates_are_not_tested_on(auxiliary, root):
    options = folder_tree(root / "other", normal=10)
    datamodule = ready(build(targets=[DataSource("Folder", str(root / "other"), options=options)]))
    tested = {*datamodule.test_data.samples.image_path, *datamodule.val_data.samples.image_path}
    candidates = {str(path) for path in datamodule.prompt_candidates()["other"]}
    assert candidates
    assert not candidates & tested


def test_training_batches_are_balanced_and_prompted(auxiliary, targets):
    datamodule = ready(build(auxiliary, targets, k_shot=3))
    found = list(datamodule.train_dataloader())
    assert len(found) == 3
    for batch in found:
        assert batch.gt_label.sum() == 3
        assert batch.prompt_image.shape == (6, 3, 3, 32, 32)
        assert batch.mask_valid.tolist() == [name != "plain" for name in batch.class_name]
        assert batch.gt_mask.flatten(1).any(1).tolist() == (batch.gt_label & batch.mask_valid).tolist()


@pytest.mark.parametrize(
    ("given", "asks", "expected"),
    [(None, None, 0), (None, False, 0), (None, True, 3), (0, True, 0), (4, True, 4), (4, None, 4), (1, False, 1)],
)
def test_one_class_queries_are_drawn_for_who_asks_or_as_many_as_given(tmp_path, auxiliary, given, asks, expected):
    model = Recorder(asks)
    engine = trainer(tmp_path, max_epochs=1)
    engine.fit(model, datamodule=build(auxiliary, one_class_batch_size=given))
    assert engine.num_training_batches == 3
    assert [labels for _, labels in model.seen["one_class0"]] == [[0] * expected] * 3
    plain = Recorder()
    trainer(tmp_path, max_epochs=1).fit(plain, datamodule=build(auxiliary))
    assert model.seen["train0"] == plain.seen["train0"]


def test_one_class_queries_come_last_with_prompts_of_their_class_and_empty_masks(auxiliary):
    datamodule = ready(build(auxiliary, one_class_batch_size=4, train_augmentations=Resize((8, 8))))
    samples = datamodule.train_data.samples
    images = {
        name: [datamodule.train_data[row].image for row in rows.index] for name, rows in samples.groupby("class_name")
    }
    for batch in datamodule.train_dataloader():
        assert batch.one_class.tolist() == [False] * 6 + [True] * 4
        assert batch.gt_label[:6].sum() == 3
        assert batch.gt_label[6:].tolist() == [0] * 4
        assert batch.prompt_image.shape == (10, 2, 3, 8, 8)
        assert not batch.gt_mask[6:].any()
        assert batch.mask_valid.tolist() == [name != "plain" for name in batch.class_name]
        for item in batch:
            assert all(
                any(torch.equal(prompt, image) for image in images[item.class_name]) for prompt in item.prompt_image
            )
            assert not any(torch.equal(prompt, item.image) for prompt in item.prompt_image)


def test_evaluation_has_no_one_class_queries(auxiliary, targets):
    datamodule = ready(build(auxiliary, targets, one_class_batch_size=4))
    for loader in (datamodule.val_dataloader(), datamodule.test_dataloader()):
        assert [len(batch) for batch in loader] == [4, 4, 2]
        assert all(batch.one_class is None for batch in loader)


def test_worker_count_changes_nothing(auxiliary):
    flips = RandomHorizontalFlip(0.5)

    def read(workers):
        options = {"one_class_batch_size": 2, "num_workers": workers, "train_augmentations": flips}
        loader = ready(build(auxiliary, **options)).train_dataloader()
        return [(batch.image_path, batch.image, batch.prompt_image) for batch in loader]

    for here, there in zip(read(0), read(2), strict=True):
        assert here[0] == there[0]
        assert torch.equal(here[1], there[1])
        assert torch.equal(here[2], there[2])


def test_evaluation_batches_mix_classes_but_not_masks(root, targets):
    targets.append(DataSource("Folder", str(root / "plain"), options=folder_tree(root / "plain")))
    datamodule = ready(build(targets=targets))
    found = list(datamodule.test_dataloader())
    assert any(len(set(batch.class_name)) > 1 for batch in found)
    assert all((batch.gt_mask is None) == ("plain" in batch.class_name) for batch in found)
    assert all(batch.prompt_image is None for batch in found)
    paths = [path for batch in found for path in batch.image_path]
    assert sorted(paths) == sorted(datamodule.test_data.samples.image_path)


def test_model_resize_reaches_queries_and_prompts_before_they_are_batched(auxiliary, targets):
    datamodule = build(auxiliary, targets, train_augmentations=Compose([RandomHorizontalFlip(1.0)]))
    resize = Resize((20, 20))
    pre_processor = PreProcessor(Compose([resize, Normalize([0.5] * 3, [0.5] * 3)]))
    datamodule.trainer = SimpleNamespace(
        model=SimpleNamespace(pre_processor=pre_processor), state=SimpleNamespace(fn="fit"), datamodule=datamodule
    )
    datamodule.prepare_data()
    datamodule.setup("fit")
    batch = next(iter(datamodule.train_dataloader()))
    assert batch.image.shape[-2:] == batch.prompt_image.shape[-2:] == (20, 20)
    assert datamodule.train_data.prompt_augmentations is resize
    assert next(iter(datamodule.test_dataloader())).image.shape[-2:] == (20, 20)


def test_resize_of_the_user_reaches_the_prompts(auxiliary):
    datamodule = ready(build(auxiliary, train_augmentations=Compose([Resize((12, 12)), RandomHorizontalFlip()])))
    assert next(iter(datamodule.train_dataloader())).prompt_image.shape[-2:] == (12, 12)


def test_lightning_keeps_the_sampler_and_tells_it_the_epoch(tmp_path, auxiliary, targets):
    datamodule, model = build(auxiliary, targets), Recorder()
    engine = trainer(tmp_path)
    engine.fit(model, datamodule=datamodule)
    assert isinstance(engine.train_dataloader.sampler, BalancedSampler)
    assert isinstance(engine.train_dataloader.sampler, DistributedSampler)
    assert len(model.seen["train0"]) == len(model.seen["train1"]) == 3
    assert model.seen["train0"] != model.seen["train1"]
    assert sum(len(paths) for paths, _ in model.seen["validate1"]) == 10


def test_resumed_training_sees_what_uninterrupted_training_sees(tmp_path, auxiliary):
    whole, first, second = Recorder(), Recorder(), Recorder()
    trainer(tmp_path, max_epochs=3).fit(whole, datamodule=build(auxiliary))
    interrupted = trainer(tmp_path, max_epochs=2)
    interrupted.fit(first, datamodule=build(auxiliary))
    interrupted.save_checkpoint(tmp_path / "stopped.ckpt")
    trainer(tmp_path, max_epochs=3).fit(second, datamodule=build(auxiliary), ckpt_path=tmp_path / "stopped.ckpt")
    assert second.seen["train2"] == whole.seen["train2"]
    assert "train1" not in second.seen


def test_without_targets_fit_works_and_the_test_after_it_says_so(tmp_path, auxiliary, caplog):
    datamodule, model = build(auxiliary), Recorder()
    engine = trainer(tmp_path, max_epochs=1)
    engine.fit(model, datamodule=datamodule)
    assert list(model.seen) == ["train0", "one_class0"]
    with caplog.at_level(logging.WARNING):
        assert engine.test(model, datamodule=datamodule) == []
    assert "no targets: nothing is tested" in caplog.text


@pytest.mark.parametrize("call", ["validate", "test", "predict"])
def test_without_targets_there_is_nothing_to_evaluate(tmp_path, auxiliary, call):
    with pytest.raises(DatasetError, match=f"nothing to {call} on: give targets"):
        getattr(trainer(tmp_path), call)(Recorder(), datamodule=build(auxiliary))


def test_without_auxiliary_there_is_nothing_to_train_on(tmp_path, targets):
    engine, model, datamodule = trainer(tmp_path), Recorder(), build(None, targets)
    engine.test(model, datamodule=datamodule)
    assert sum(len(paths) for paths, _ in model.seen["test"]) == 10
    with pytest.raises(DatasetError, match="nothing to train on: give auxiliary"):
        engine.fit(model, datamodule=datamodule)
    with pytest.raises(DatasetError, match="nothing to train on: give auxiliary"):
        datamodule.train_dataloader()


def test_testing_needs_no_auxiliary_files(tmp_path, targets):
    datamodule = build([DataSource("MVTecAD", str(tmp_path / "deleted"))], targets)
    trainer(tmp_path).test(Recorder(), datamodule=datamodule)
    with pytest.raises(DatasetError, match=r"auxiliary\[0\]\.root"):
        trainer(tmp_path).fit(Recorder(), datamodule=datamodule)


def test_fit_after_test_reads_the_auxiliary(tmp_path, auxiliary, targets):
    datamodule, model = build(auxiliary, targets), Recorder()
    trainer(tmp_path).test(model, datamodule=datamodule)
    trainer(tmp_path).fit(model, datamodule=datamodule)
    assert "train0" in model.seen


def test_too_few_normals_for_the_prompts(auxiliary):
    with pytest.raises(DatasetError, match="'plain' has 6 normal images; k_shot=6 prompts and a query need 7"):
        ready(build(auxiliary, k_shot=6)).train_dataloader()


def test_two_processes_train_on_different_images(tmp_path, root, auxiliary):
    """Under Lightning's ddp strategy on two CPU processes (gloo)."""
    script = Path(__file__).with_name("fit_ddp.py")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    options = json.dumps(
        [{"datamodule": one.datamodule, "root": one.root, "options": one.options} for one in auxiliary]
    )
    done = subprocess.run(
        [sys.executable, str(script), options, str(root / "visa"), str(tmp_path / "seen")],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((tmp_path / f"seen{rank}.json").read_text()) for rank in range(2)]
    for epoch in ("train0", "train1"):
        for steps in zip(ranks[0][epoch], ranks[1][epoch], strict=True):
            assert [sum(labels) for _, labels in steps] == [2, 2]
            assert len({path for paths, _ in steps for path in paths}) == 8
        for steps in zip(*(rank[epoch.replace("train", "one_class")] for rank in ranks), strict=True):
            assert [labels for _, labels in steps] == [[0, 0], [0, 0]]
            assert len({path for paths, _ in steps for path in paths}) == 4
    assert ranks[0]["train0"] != ranks[0]["train1"]
    tested = [path for rank in ranks for paths, _ in rank["test"] for path in paths]
    # Lightning evens the processes out by repeating images; none may be missing.
    assert len(set(tested)) == 10 + 5
