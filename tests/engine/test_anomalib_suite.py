# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The steps that anomalib's integration tests ask of every model, over both models: classification and segmentation.

Its own suite takes a model's default arguments, and so 800 MB of CLIP. Here the backbone is small, the steps the same:
a handful of images of 240 pixels, batches of two, one epoch, and everything from the checkpoint that this gives.
"""

from pathlib import Path

import numpy as np
import pytest
from anomalib.cli.cli import AnomalibCLI
from anomalib.data import MVTecAD, PredictDataset
from anomalib.models import get_model

from tests.shared import BACKBONE, SMALL


@pytest.fixture(params=["segmentation", "classification"])
def datamodule(request, data, folder):
    options = {"train_batch_size": 2, "eval_batch_size": 2, "num_workers": 0}
    if request.param == "segmentation":
        return MVTecAD(root=data, category="washer", **options)
    return folder(**options, val_split_mode="from_test")


def scores_of(batch):
    assert batch.anomaly_map.isfinite().all()
    assert batch.pred_label is not None
    return [(Path(path), float(score)) for path, score in zip(batch.image_path, batch.pred_score, strict=True)]


def test_fit_test_train_validate_predict(kind, make_model, make_engine, datamodule, data):
    assert type(get_model(kind.__name__, **SMALL)) is kind
    engine = make_engine(max_epochs=1, devices=1)
    engine.fit(make_model(), datamodule=datamodule)
    checkpoint = Path(engine.best_model_path)
    assert checkpoint.is_file()

    fitted = engine.test(make_model(), datamodule=datamodule, ckpt_path=checkpoint)[0]
    trained = make_engine(max_epochs=1, devices=1).train(make_model(), datamodule=datamodule)[0]
    assert trained == pytest.approx(fitted, abs=1e-6)
    assert all(np.isfinite(value) for value in trained.values())
    assert ("pixel_AUROC" in trained) == isinstance(datamodule, MVTecAD)
    make_engine(devices=1).validate(make_model(), datamodule=datamodule, ckpt_path=checkpoint)

    def predict(**source):
        return make_engine(devices=1).predict(make_model(), ckpt_path=checkpoint, **source)

    scores = {path: score for batch in predict(datamodule=datamodule) for path, score in scores_of(batch)}
    found = [
        *predict(dataset=PredictDataset(data / "washer/test")),
        *predict(data_path=next((data / "washer/test/good").glob("*.png"))),
    ]
    # Of a Folder anomalib keeps half of the test images for validation.
    common = [(score, scores[path]) for batch in found for path, score in scores_of(batch) if path in scores]
    assert len(common) >= 2
    # Batches of other lengths round otherwise, and normalisation makes more of it.
    assert all(one == pytest.approx(other, abs=2e-4) for one, other in common)


@pytest.mark.parametrize("subcommand", ["fit", "train"])
def test_command_line(kind, data, subcommand, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = [
        *("--model", kind.__name__, "--model.backbone", BACKBONE, "--model.pretrained", "null"),
        *("--model.visualizer", "false", "--data", "MVTecAD", "--data.root", str(data)),
        *("--data.category", "washer", "--data.train_batch_size", "2", "--data.eval_batch_size", "2"),
        *("--data.num_workers", "0", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"),
    ]
    AnomalibCLI(args=[subcommand, *common, "--default_root_dir", str(tmp_path)])
    (checkpoint,) = tmp_path.glob(f"{kind.__name__}/MVTecAD/washer/v0/weights/lightning/model.ckpt")
    if subcommand == "fit":
        AnomalibCLI(args=["validate", *common, "--default_root_dir", str(tmp_path), "--ckpt_path", str(checkpoint)])
