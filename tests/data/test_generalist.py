# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import logging
from collections import defaultdict
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Callback, LightningModule, Trainer
from torchvision.transforms.v2 import Compose, Normalize, RandomHorizontalFlip, Resize

from anomalib_inctrl.data import BalancedSampler, DataSource, GeneralistDataModule
from anomalib_inctrl.errors import ArgumentError, DatasetError
from tests.data.trees import folder_tree, mvtec_category
from tests.processes import needs_fork, run_process


@pytest.fixture
def auxiliary(tmp_path):
    for name in ("bottle", "cable"):
        mvtec_category(tmp_path / "mvtec", name)
    options = folder_tree(tmp_path / "plain")
    return [
        DataSource("MVTecAD", str(tmp_path / "mvtec")),
        DataSource("Folder", str(tmp_path / "plain"), None, options),
    ]


@pytest.fixture
def targets(tmp_path):
    for name in ("candle", "fryum"):
        mvtec_category(tmp_path / "visa" / "visa_pytorch", name, train=4, size=(40, 24))
    return [DataSource("Visa", str(tmp_path / "visa"))]


def build(auxiliary=None, targets=None, **options):
    defaults = {"train_batch_size": 6, "eval_batch_size": 4, "steps_per_epoch": 3, "num_workers": 0}
    return GeneralistDataModule(auxiliary, targets, **{**defaults, **options})


def ready(*args, **options):
    datamodule = build(*args, **options)
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def counts(data):
    """Normal and abnormal images of each class."""
    labels = data.samples.groupby("class_name").label_index
    return {name: (int((label == 0).sum()), int((label == 1).sum())) for name, label in labels}


class Recorder(LightningModule):
    """Learns nothing and records the images it was given."""

    def __init__(self, needs_one_class_queries=None):
        super().__init__()
        if needs_one_class_queries is not None:
            self.needs_one_class_queries = needs_one_class_queries
        self.layer = torch.nn.Linear(1, 1)
        self.model = SimpleNamespace()
        self.seen = defaultdict(list)

    def _record(self, stage, items):
        self.seen[stage].append([[item.image_path for item in items], [int(item.gt_label) for item in items]])

    def training_step(self, batch):
        assert batch.prompt_image.shape[:2] == (len(batch), 2)
        self._record(f"train{self.current_epoch}", [item for item in batch if not item.one_class])
        self._record(f"one_class{self.current_epoch}", [item for item in batch if item.one_class])
        return self.layer(batch.image.mean().view(1, 1)).sum()

    def validation_step(self, batch):
        self._record("validate", list(batch))

    def test_step(self, batch):
        self._record("test", list(batch))

    def predict_step(self, batch):
        raise NotImplementedError

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.fixture
def trainer(tmp_path):
    off = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing", "num_sanity_val_steps")
    options = {"accelerator": "cpu", "devices": 1, "max_epochs": 2, "default_root_dir": tmp_path}
    return partial(Trainer, **dict.fromkeys(off, False), **options)


@pytest.mark.parametrize(
    ("name", "value"),
    [("train_batch_size", 5), ("train_batch_size", 0), ("k_shot", 0), ("steps_per_epoch", 0), ("eval_batch_size", 0)],
)
def test_numbers_that_nothing_can_be_drawn_with_are_refused(name, value):
    with pytest.raises(ArgumentError, match=f"{name}={value}: "):
        build(**{name: value})


def test_auxiliary_is_merged_and_targets_are_as_their_datamodules_define(tmp_path, auxiliary, targets):
    datamodule = ready(auxiliary, targets)
    assert counts(datamodule.train_data) == {"bottle": (7, 3), "cable": (7, 3), "plain": (6, 4)}
    assert counts(datamodule.val_data) == counts(datamodule.test_data) == {"candle": (2, 3), "fryum": (2, 3)}
    assert (datamodule.name, datamodule.category) == ("GeneralistDataModule", "")
    assert datamodule.prompt_candidates() == {
        name: sorted((tmp_path / "visa" / "visa_pytorch" / name / "train" / "good").iterdir())
        for name in ("candle", "fryum")
    }
    datamodule = ready(targets=auxiliary[1:])
    candidates = {str(path) for path in datamodule.prompt_candidates()["plain"]}
    assert candidates
    assert not candidates & {*datamodule.test_data.samples.image_path, *datamodule.val_data.samples.image_path}


def test_training_batches_are_balanced_with_prompts_and_one_class_queries_last(auxiliary):
    datamodule = ready(auxiliary, k_shot=3, one_class_batch_size=4, train_augmentations=Resize((8, 8)))
    images = defaultdict(list)
    for row in range(len(datamodule.train_data)):
        images[(item := datamodule.train_data[row]).class_name].append(item.image)
    found = list(datamodule.train_dataloader())
    assert len(found) == 3
    for batch in found:
        assert batch.one_class.tolist() == [False] * 6 + [True] * 4
        assert (batch.gt_label[:6].sum(), batch.gt_label[6:].sum()) == (3, 0)
        assert batch.prompt_image.shape == (10, 3, 3, 8, 8)
        assert batch.mask_valid.tolist() == [name != "plain" for name in batch.class_name]
        assert batch.gt_mask.flatten(1).any(1).tolist() == (batch.gt_label & batch.mask_valid).tolist()
        for item in batch:
            for prompt in item.prompt_image:
                assert not torch.equal(prompt, item.image)
                assert any(torch.equal(prompt, image) for image in images[item.class_name])


@pytest.mark.parametrize(("given", "asks", "expected"), [(None, None, 0), (None, True, 3), (0, True, 0), (4, None, 4)])
def test_one_class_queries_are_drawn_as_needed_or_given(trainer, auxiliary, given, asks, expected):
    model, plain = Recorder(asks), Recorder()
    trainer(max_epochs=1).fit(model, datamodule=build(auxiliary, one_class_batch_size=given))
    assert [labels for _, labels in model.seen["one_class0"]] == [[0] * expected] * 3
    trainer(max_epochs=1).fit(plain, datamodule=build(auxiliary))
    assert model.seen["train0"] == plain.seen["train0"]


def test_evaluation_batches_mix_classes_but_not_images_with_and_without_masks(auxiliary, targets):
    datamodule = ready(targets=[*targets, auxiliary[1]], one_class_batch_size=4)
    found = list(datamodule.test_dataloader())
    assert all(batch.one_class is batch.prompt_image is None for batch in found)
    assert any(len(set(batch.class_name)) > 1 for batch in found)
    assert all((batch.gt_mask is None) == ("plain" in batch.class_name) for batch in found)
    paths = [path for batch in found for path in batch.image_path]
    assert sorted(paths) == sorted(datamodule.test_data.samples.image_path)


def test_resize_of_model_or_user_is_applied_to_queries_and_prompts(auxiliary, targets):
    datamodule = build(auxiliary, targets, train_augmentations=Compose([RandomHorizontalFlip(1.0)]))
    resize = Resize((20, 20))
    model = SimpleNamespace(pre_processor=PreProcessor(Compose([resize, Normalize([0.5] * 3, [0.5] * 3)])))
    datamodule.trainer = SimpleNamespace(model=model, state=SimpleNamespace(fn="fit"), datamodule=datamodule)
    datamodule.prepare_data()
    datamodule.setup("fit")
    batch = next(iter(datamodule.train_dataloader()))
    assert batch.image.shape[-2:] == batch.prompt_image.shape[-2:] == (20, 20)
    assert datamodule.train_data.prompt_augmentations is resize
    assert next(iter(datamodule.test_dataloader())).image.shape[-2:] == (20, 20)
    datamodule = ready(auxiliary, train_augmentations=Compose([Resize((12, 12)), RandomHorizontalFlip()]))
    assert next(iter(datamodule.train_dataloader())).prompt_image.shape[-2:] == (12, 12)


def test_lightning_keeps_the_sampler_and_resumed_training_draws_the_same(tmp_path, trainer, auxiliary, targets):
    whole, first, second = Recorder(), Recorder(), Recorder()
    trainer(max_epochs=3).fit(whole, datamodule=build(auxiliary, targets))
    assert [len(whole.seen[f"train{epoch}"]) for epoch in range(3)] == [3, 3, 3]
    assert whole.seen["train0"] != whole.seen["train1"]
    assert sum(len(paths) for paths, _ in whole.seen["validate"]) == 3 * 10
    interrupted = trainer()
    interrupted.fit(first, datamodule=build(auxiliary, targets))
    assert isinstance(interrupted.train_dataloader.sampler, BalancedSampler)
    interrupted.save_checkpoint(tmp_path / "stopped.ckpt")
    trainer(max_epochs=3).fit(second, datamodule=build(auxiliary, targets), ckpt_path=tmp_path / "stopped.ckpt")
    assert second.seen["train2"] == whole.seen["train2"]
    assert "train1" not in second.seen


def test_fit_works_without_targets_and_evaluation_does_not(trainer, auxiliary, caplog):
    datamodule, model, engine = build(auxiliary), Recorder(), trainer(max_epochs=1)
    engine.fit(model, datamodule=datamodule)
    assert list(model.seen) == ["train0", "one_class0"]
    with caplog.at_level(logging.WARNING):
        assert engine.test(model, datamodule=datamodule) == []
    assert "no targets: nothing is tested" in caplog.text
    for call in ("validate", "test", "predict"):
        with pytest.raises(DatasetError, match=f"nothing to {call} on: give targets"):
            getattr(trainer(), call)(Recorder(), datamodule=build(auxiliary))


def test_testing_needs_no_auxiliary_data_and_training_does(tmp_path, trainer, auxiliary, targets):
    engine, model = trainer(), Recorder()
    missing = [DataSource("MVTecAD", str(tmp_path / "deleted"))]
    for given, message in ((None, "nothing to train on: give auxiliary"), (missing, r"auxiliary\[0\]\.root")):
        datamodule = build(given, targets)
        engine.test(model, datamodule=datamodule)
        with pytest.raises(DatasetError, match=message):
            engine.fit(model, datamodule=datamodule)
    assert sum(len(paths) for paths, _ in model.seen["test"]) == 2 * 10
    datamodule = build(auxiliary, targets)
    engine.test(model, datamodule=datamodule)
    engine.fit(model, datamodule=datamodule)
    assert "train0" in model.seen


class Keep(Callback):
    """Writes what each process has seen."""

    def __init__(self, folder):
        self.folder = folder

    def on_fit_end(self, trainer, pl_module):
        torch.save(dict(pl_module.seen), self.folder / f"{trainer.state.fn.value}{trainer.global_rank}.pt")

    on_test_end = on_fit_end


def train_and_test_in_two(trainer, auxiliary, targets, folder):
    # The target without masks makes the loader use its own batch sampler, which Lightning has to rebuild.
    without_masks = replace(auxiliary[1], options={**auxiliary[1].options, "val_split_mode": "none"})
    datamodule, model = build(auxiliary, [*targets, without_masks], train_batch_size=4), Recorder(True)
    both = trainer(strategy="ddp_fork", devices=2, callbacks=[Keep(folder)])
    both.fit(model, datamodule=datamodule)
    both.test(model, datamodule=datamodule)


@needs_fork
def test_two_processes_train_on_different_images(tmp_path, trainer, auxiliary, targets):
    assert run_process(train_and_test_in_two, trainer, auxiliary, targets, tmp_path) == 0
    ranks, tests = ([torch.load(tmp_path / f"{stage}{rank}.pt") for rank in range(2)] for stage in ("fit", "test"))
    for part, size, abnormal in (("train", 4, 2), ("one_class", 2, 0)):
        for epoch in range(2):
            for steps in zip(*(rank[f"{part}{epoch}"] for rank in ranks), strict=True):
                assert [sum(labels) for _, labels in steps] == [abnormal, abnormal]
                assert len({path for paths, _ in steps for path in paths}) == 2 * size
    assert ranks[0]["train0"] != ranks[0]["train1"]
    # Lightning evens the processes out by repeating images; none may be missing.
    assert len({path for rank in tests for paths, _ in rank["test"] for path in paths}) == 10 + 5
