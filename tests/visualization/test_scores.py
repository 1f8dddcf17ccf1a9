# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The table holds what the model said, one row per image."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.data import ImageBatch, PredictDataset
from lightning.pytorch import Trainer

from anomalib_inctrl.visualization import ScoreTable


@pytest.fixture
def dataset(tmp_path, fakes):
    rows = [
        (fakes.write_image(tmp_path / name / f"{i}.png", (8 + 4 * i, 24) if i % 2 else None), i % 2, name)
        for name in ("washer", "gear", "Шайба, 螺丝")
        for i in range(3)
    ]
    return fakes.Files(pd.DataFrame(rows, columns=["image_path", "label_index", "class_name"]))


@pytest.fixture
def run(fakes):
    def test(trainer, dataset, *, batch_size=2, table=None, **options):
        model = fakes.BrightSpots(callbacks=[table or ScoreTable()], **options)
        trainer.test(model, fakes.loader(dataset, batch_size), verbose=False)
        return Path(trainer.default_root_dir) / "scores.csv"

    return test


def test_rows_and_columns(tmp_path, make_trainer, dataset, run):
    run(make_trainer(), dataset)
    table = pd.read_csv(tmp_path / "run" / "scores.csv")
    assert list(table) == [
        *("image_path", "class_name", "score", "pred_score", "pred_label", "gt_label"),
        *("text_score", "patch_score"),
    ]
    expected = dataset.samples.sort_values("image_path", ignore_index=True)
    assert table.image_path.tolist() == expected.image_path.tolist()
    assert table.class_name.tolist() == expected.class_name.tolist()
    assert table.gt_label.tolist() == table.pred_label.tolist() == expected.label_index.tolist()
    score = np.where(expected.label_index == 1, 250, 110) / 255 - 0.4
    np.testing.assert_allclose(table.score, score, rtol=1e-5)
    np.testing.assert_allclose(table.text_score, score / 3, rtol=1e-5)
    np.testing.assert_allclose(table.pred_score, np.clip((score - 0.25) / 0.5 + 0.5, 0, 1), rtol=1e-5)


def test_the_file_does_not_depend_on_batches(tmp_path, make_trainer, dataset, fakes, run):
    written = set()
    for batch_size, order in ((1, 1), (2, -1), (9, 1)):
        shuffled = fakes.Files(dataset.samples.iloc[::order])
        run(make_trainer(default_root_dir=tmp_path / str(batch_size)), shuffled, batch_size=batch_size)
        written.add((tmp_path / str(batch_size) / "scores.csv").read_bytes())
    assert len(written) == 1


def test_each_run_begins_anew(tmp_path, make_trainer, dataset, fakes, run):
    table = ScoreTable()
    run(make_trainer(), dataset, table=table)
    run(make_trainer(), fakes.Files(dataset.samples.iloc[:2]), table=table)
    assert len(pd.read_csv(tmp_path / "run" / "scores.csv")) == 2


def test_predict_knows_no_ground_truth(tmp_path, make_trainer, fakes):
    fakes.write_image(tmp_path / "mine" / "0.png", spot=(20, 20))
    images = PredictDataset(tmp_path / "mine" / "0.png")
    make_trainer().predict(fakes.BrightSpots(callbacks=[ScoreTable()]), fakes.loader(images))
    table = pd.read_csv(tmp_path / "run" / "scores.csv")
    assert len(table) == 1
    assert "gt_label" not in table
    assert table.pred_label.tolist() == [1]
    assert table.class_name.isna().all()


def test_a_model_without_terms(tmp_path, make_trainer, dataset, run):
    run(make_trainer(), dataset, explains=False)
    table = pd.read_csv(tmp_path / "run" / "scores.csv")
    assert list(table) == ["image_path", "class_name", "pred_score", "pred_label", "gt_label"]


def test_repeated_images_are_written_once(tmp_path, make_trainer, dataset, fakes, run):
    run(make_trainer(), fakes.Files(dataset.samples.iloc[[0, 1, 0]]))
    assert len(pd.read_csv(tmp_path / "run" / "scores.csv")) == 2


def test_numbers_come_back_exactly(tmp_path, fakes):
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
    values = torch.rand(50, generator=torch.Generator().manual_seed(0))
    batch = ImageBatch(image=torch.zeros(50, 3, 2, 2), image_path=[f"{i:02}.png" for i in range(50)])
    batch.raw_score, batch.components = values, fakes.Terms(values.bfloat16(), torch.zeros(50, 4), values, None, values)
    callback = ScoreTable()
    callback.on_predict_start(trainer, None)
    callback.on_predict_batch_end(trainer, None, batch, batch, 0)
    callback.on_predict_epoch_end(trainer, None)
    table = pd.read_csv(tmp_path / "scores.csv")
    assert torch.equal(torch.tensor(table.score.to_numpy(dtype=np.float32)), values)
    assert torch.equal(torch.tensor(table.text_score.to_numpy(dtype=np.float32)), values.bfloat16().float())
    assert [path.name for path in tmp_path.iterdir()] == ["scores.csv"]


@pytest.fixture
def _one_thread():
    """Forked processes have none of the threads that OpenMP started before, and would wait for them for ever."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


@pytest.mark.usefixtures("_one_thread")
def test_two_processes_write_one_table(tmp_path, make_trainer, dataset, run):
    alone = run(make_trainer(), dataset)
    together = run(make_trainer(default_root_dir=tmp_path / "two", devices=2, strategy="ddp_fork"), dataset)
    assert alone.read_bytes() == together.read_bytes()
