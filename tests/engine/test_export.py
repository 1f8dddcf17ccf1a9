# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Exports hold prompts and take batches of any size."""

import onnx
import pytest
import torch

from anomalib_inctrl.errors import PromptError


@pytest.fixture
def prompted(make_model, make_engine, target, trained):
    """An engine whose checkpoint has the prompts of one class."""
    engine = make_engine()
    engine.train(make_model(weights=trained, visualizer=False), datamodule=target())
    return engine


def test_torch_export_scores_the_same(kind, prompted, tmp_path):
    model = kind.load_from_checkpoint(prompted.best_model_path).eval()
    path = prompted.export(model, "torch", export_root=tmp_path)
    exported = torch.load(path, weights_only=False)["model"]
    images = torch.rand(3, 3, 120, 150)
    with torch.no_grad():
        assert torch.equal(exported(images).anomaly_map, model(images).anomaly_map)


def test_onnx_export_leaves_the_batch_open(kind, prompted, tmp_path):
    model = kind.load_from_checkpoint(prompted.best_model_path).eval()
    path = prompted.export(model, "onnx", export_root=tmp_path)
    graph = onnx.load(str(path), load_external_data=False).graph
    batch, channels, *_ = graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param
    assert channels.dim_value == 3
    assert {"pred_score", "anomaly_map"} <= {output.name for output in graph.output}


def test_export_without_prompts_says_what_to_do(make_model, make_engine, tmp_path):
    with pytest.raises(PromptError, match=r"--model\.prompts FOLDER"):
        make_engine().export(make_model(), "onnx", export_root=tmp_path)
