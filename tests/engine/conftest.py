# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from anomalib.data import Folder
from anomalib.engine import Engine

from anomalib_inctrl import InCTRL, InCTRLv2
from tests.shared import QUIET, SMALL, randomize_heads


@pytest.fixture(scope="session", params=[InCTRL, InCTRLv2])
def kind(request):
    """The model under test."""
    return request.param


@pytest.fixture(scope="session")
def make_model(kind):
    def make(**options):
        return kind(**SMALL | {"k_shot": 2, "visualizer": False} | options)

    return make


def results(engine, file="scores.csv"):
    return Path(engine.trainer.default_root_dir) / file


def scores_of(engine):
    """The score table of the engine's last run."""
    return pd.read_csv(results(engine))


@pytest.fixture(scope="session")
def washers(data):
    """Folder of the images in which washers are scratched."""
    return data / "washer/test/scratch"


@pytest.fixture(scope="session")
def prompts(data):
    """Arguments that name prompts of the washer."""
    return {"prompts": str(data / "washer/train/good"), "class_name": "washer"}


@pytest.fixture(scope="session")
def folder(data):
    """Create anomalib's datamodule of the washers without masks, all of its test images in one set."""
    root = data / "washer"
    kinds = [f"test/{path.name}" for path in (root / "test").iterdir() if path.name != "good"]
    paths = {"root": root, "normal_dir": "train/good", "abnormal_dir": kinds, "normal_test_dir": "test/good"}
    return partial(Folder, "washer", **paths, num_workers=0, val_split_mode="same_as_test")


@pytest.fixture(scope="session")
def trained(make_model, generalist, tmp_path_factory):
    """Checkpoint of a short training on the auxiliary categories."""
    engine = Engine(max_epochs=1, default_root_dir=tmp_path_factory.mktemp("trained"), **QUIET)
    engine.fit(make_model(), datamodule=generalist(targets=None))
    return engine.best_model_path


@pytest.fixture(scope="session")
def exports(kind, make_model, target, tmp_path_factory):
    """A checkpoint with random heads, one class's prompts and thresholds, and its exports.

    The last block is not among those compared, and the graph is small, since tracing takes time by the operation.
    """
    folder = tmp_path_factory.mktemp("exports")
    engine = Engine(default_root_dir=folder / "results", **QUIET)
    engine.train(randomize_heads(make_model(blocks=[1, 2])), datamodule=target())
    checkpoint = engine.best_model_path
    # OpenVINO reads the file of ONNX too; an export of its own takes as long again.
    types = ("torch", "onnx", "openvino") if kind is InCTRLv2 else ("torch", "onnx")
    files = {name: engine.export(kind(), name, export_root=folder, ckpt_path=checkpoint) for name in types}
    return SimpleNamespace(**{"openvino": files["onnx"]} | files, checkpoint=checkpoint)
