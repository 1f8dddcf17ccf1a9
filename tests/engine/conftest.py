# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import open_clip
import pandas as pd
import pytest
import torch
from anomalib.data import Folder
from anomalib.engine import Engine

from anomalib_inctrl import GeneralistDataModule, InCTRL, InCTRLDemo, InCTRLv2
from anomalib_inctrl.data import DataSource

COUNTS = {"train_count": 6, "test_normal_count": 3, "test_anomalous_count": 6}
AUXILIARY, TARGETS = ["gear", "tile"], ["washer", "brick"]
BACKBONE = "test-vit-16-64"
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}


@pytest.fixture(scope="session", autouse=True)
def backbone(tmp_path_factory):
    """A backbone of another size and depth than the default, fast enough for many runs of the engine."""
    vision = {"image_size": 64, "layers": 3, "width": 32, "head_width": 16, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    path = tmp_path_factory.mktemp("config") / f"{BACKBONE}.json"
    path.write_text(json.dumps({"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(path)
    return path


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Root of a few small demo categories on disk."""
    root = tmp_path_factory.mktemp("data")
    for category in AUXILIARY + TARGETS:
        InCTRLDemo(root=root, category=category, **COUNTS).prepare_data()
    return root


@pytest.fixture(scope="session", params=[InCTRL, InCTRLv2])
def kind(request):
    """The model under test."""
    return request.param


@pytest.fixture(scope="session")
def make_model(kind):
    def make(**options):
        return kind(**{"backbone": BACKBONE, "pretrained": None, "k_shot": 2, "visualizer": False} | options)

    return make


@pytest.fixture
def make_engine(tmp_path):
    def make(**options):
        return Engine(**QUIET | {"default_root_dir": tmp_path / "results"} | options)

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
def target(data):
    """Create a datamodule of one category."""

    def make(category="washer", **options):
        return InCTRLDemo(root=data, category=category, **COUNTS, **options)

    return make


@pytest.fixture(scope="session")
def folder(data):
    """Create anomalib's datamodule of the washers without masks, all of its test images in one set."""
    root = data / "washer"
    kinds = [f"test/{path.name}" for path in (root / "test").iterdir() if path.name != "good"]
    paths = {"root": root, "normal_dir": "train/good", "abnormal_dir": kinds, "normal_test_dir": "test/good"}
    return partial(Folder, "washer", **paths, num_workers=0, val_split_mode="same_as_test")


def generalist_data(data, auxiliary=AUXILIARY, targets=TARGETS, counts=COUNTS, **options):
    """Create a datamodule of several categories."""

    def source(categories):
        return [DataSource("InCTRLDemo", root=str(data), categories=categories, options=counts)]

    return GeneralistDataModule(
        auxiliary=source(auxiliary) if auxiliary else None,
        targets=source(targets) if targets else None,
        **{"k_shot": 2, "train_batch_size": 4, "steps_per_epoch": 2, "num_workers": 0} | options,
    )


@pytest.fixture(scope="session")
def generalist(data):
    return partial(generalist_data, data)


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
    model = make_model(blocks=[1, 2])
    generator = torch.Generator().manual_seed(0)
    for parameter in model.model.parameters():
        if parameter.requires_grad:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    model.model.heads_trained = True
    engine.train(model, datamodule=target())
    checkpoint = engine.best_model_path
    # OpenVINO reads the file of ONNX too; an export of its own takes as long again.
    types = ("torch", "onnx", "openvino") if kind is InCTRLv2 else ("torch", "onnx")
    files = {name: engine.export(kind(), name, export_root=folder, ckpt_path=checkpoint) for name in types}
    return SimpleNamespace(**{"openvino": files["onnx"]} | files, checkpoint=checkpoint)
