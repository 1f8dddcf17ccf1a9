# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The table of scores has one row per image, with the model's numbers."""

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.data import ImageBatch
from lightning.pytorch import Trainer

from anomalib_inctrl.models.components.score_components import ScoreComponents
from anomalib_inctrl.visualization import ScoreTable
from tests.processes import needs_fork, run_process
from tests.shared import QUIET
from tests.visualization.conftest import BrightSpots, Files, loader, write_image

FIRST = ["image_path", "class_name", "score", "pred_score", "pred_label", "gt_label"]


@pytest.fixture
def dataset(tmp_path):
    names = ("washer", "gear", "Шайба, 螺丝")
    return Files(
        (write_image(tmp_path / name / f"{i}.png", (8 + 2 * i, 24) if i % 2 else None), i % 2, name)
        for name in names
        for i in range(4)
    )


def run(dataset, folder, stage="test", batch_size=2, table=None, **options):
    trainer = Trainer(**QUIET | {"default_root_dir": folder} | options)
    getattr(trainer, stage)(BrightSpots(callbacks=[table or ScoreTable()]), loader(dataset, batch_size))
    return folder / "scores.csv"


def run_in_two(dataset, folder):
    run(dataset, folder, devices=2, strategy="ddp_fork")


def test_rows_and_columns(tmp_path, dataset):
    table = pd.read_csv(run(dataset, tmp_path / "run"))
    assert list(table) == [*FIRST, "text_score", "patch_score"]
    expected = dataset.samples.sort_values("image_path", ignore_index=True)
    assert table.image_path.tolist() == expected.image_path.tolist()
    assert table.class_name.tolist() == expected.class_name.tolist()
    assert table.gt_label.tolist() == table.pred_label.tolist() == expected.label_index.tolist()
    score = np.where(expected.label_index == 1, 250, 110) / 255 - 0.4
    np.testing.assert_allclose(table.score, score, rtol=1e-5)
    np.testing.assert_allclose(table.text_score, score / 3, rtol=1e-5)
    np.testing.assert_allclose(table.pred_score, np.clip((score - 0.25) / 0.5 + 0.5, 0, 1), rtol=1e-5)


def test_the_file_does_not_depend_on_batch_size_order_repetition_or_earlier_runs(tmp_path, dataset):
    table, rows = ScoreTable(), dataset.samples
    orders = (rows, rows.iloc[::-1], pd.concat([rows, rows.iloc[:2]]))
    written = {
        run(Files(order), tmp_path / str(size), batch_size=size, table=table).read_bytes()
        for size, order in zip((1, 2, 9), orders, strict=True)
    }
    assert len(written) == 1


def test_numbers_are_restored_exactly(tmp_path):
    trainer = Trainer(**QUIET, default_root_dir=tmp_path)
    values, zeros = torch.rand(50, generator=torch.Generator().manual_seed(0)), torch.zeros(50, 36)
    batch = ImageBatch(image=torch.zeros(50, 3, 2, 2), image_path=[f"{i:02}.png" for i in range(50)])
    batch.raw_score = values
    batch.components = ScoreComponents(values.bfloat16(), zeros, values, values, zeros, (6, 6))
    callback = ScoreTable()
    callback.on_predict_start(trainer, None)
    callback.on_predict_batch_end(trainer, None, batch, batch, 0)
    callback.on_predict_epoch_end(trainer, None)
    table = pd.read_csv(tmp_path / "scores.csv")
    assert torch.equal(torch.tensor(table.score.to_numpy(dtype=np.float32)), values)
    assert torch.equal(torch.tensor(table.text_score.to_numpy(dtype=np.float32)), values.bfloat16().float())


@needs_fork
def test_two_processes_write_one_table(tmp_path, dataset):
    alone = run(dataset, tmp_path / "one")
    assert run_process(run_in_two, dataset, tmp_path / "two") == 0
    assert alone.read_bytes() == (tmp_path / "two" / "scores.csv").read_bytes()


def test_predict_shows_the_most_abnormal_images(tmp_path, dataset, capsys):
    run(dataset, tmp_path / "run", "predict", enable_progress_bar=True)
    shown = capsys.readouterr().out
    assert "12 images scored, 6 labelled anomalous. Results: " + str(tmp_path / "run") in shown
    rows = [line for line in shown.splitlines() if line.startswith("│ 0.")]
    assert ["anomalous" in row for row in rows] == [True] * 6 + [False] * 4
    assert f"{250 / 255 - 0.4:.3f}" in rows[0]


@pytest.mark.parametrize(
    "options", [{"enable_progress_bar": False}, {"fast_dev_run": True, "enable_progress_bar": True}]
)
def test_nothing_is_shown_without_a_progress_bar_or_in_a_dry_run(tmp_path, dataset, capsys, options):
    path = run(dataset, tmp_path / "run", "predict", **options)
    assert "images scored" not in capsys.readouterr().out
    assert path.exists() != options.get("fast_dev_run", False)


def test_labels_that_are_not_known_are_said_to_be(tmp_path, dataset, make_trainer, capsys):
    model = BrightSpots(callbacks=[ScoreTable()]).forget_validation()
    make_trainer(enable_progress_bar=True).predict(model, loader(dataset))
    shown = capsys.readouterr().out
    assert "12 images scored, not labelled: no threshold is known." in shown
    assert "anomalous" not in shown
