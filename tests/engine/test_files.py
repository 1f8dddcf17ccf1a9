# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are hostile or damaged, and copies of a model."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from anomalib_inctrl.errors import CheckpointError


class Hostile:
    def __reduce__(self):
        return print, ("code was run",)


def uses(kind, make_engine, target):
    """The ways a checkpoint file is read."""
    return {
        "weights": lambda path: kind(weights=str(path)),
        "load_from_checkpoint": kind.load_from_checkpoint,
        "ckpt_path": lambda path: make_engine().test(kind(visualizer=False), datamodule=target(), ckpt_path=path),
        "export": lambda path: make_engine().export(kind(), "torch", ckpt_path=path),
    }


@pytest.mark.parametrize("use", ["weights", "load_from_checkpoint", "ckpt_path", "export"])
def test_hostile_and_truncated_checkpoints_are_refused_by_name(
    kind, make_engine, target, trained, use, tmp_path, capsys
):
    read = uses(kind, make_engine, target)[use]
    hostile, truncated, empty = (tmp_path / f"{name}.ckpt" for name in ("hostile", "truncated", "empty"))
    torch.save(torch.load(trained, weights_only=True) | {"payload": Hostile()}, hostile)
    content = Path(trained).read_bytes()
    truncated.write_bytes(content[: len(content) // 2])
    empty.touch()
    for path, message in ((hostile, "refused"), (truncated, "damaged"), (empty, "damaged")):
        with pytest.raises(CheckpointError, match=rf"{path.name}.*{message}"):
            read(path)
    assert "code was run" not in "".join(capsys.readouterr())


@pytest.fixture
def model(kind, trained):
    model = kind(weights=trained, visualizer=False).eval()
    generator = torch.Generator().manual_seed(0)
    model.model.set_prompts(torch.rand(3, 3, 96, 96, generator=generator), "gear")
    return model


@torch.no_grad()
def outcome(model, images):
    result = model(images)
    return result.pred_score, result.anomaly_map


def test_copies_score_the_same(model):
    images = torch.rand(3, 3, 110, 130, generator=torch.Generator().manual_seed(1))
    expected = outcome(model, images)
    for clone in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.deepcopy(model).to("cpu")):
        assert all(map(torch.equal, outcome(clone, images), expected))
        assert clone.model.bank.class_names == ["gear"]
        assert clone.model.bank is not model.model.bank


def test_double_precision_scores_the_same_and_takes_prompts(model):
    images = torch.rand(3, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    expected = outcome(model, images)
    double = copy.deepcopy(model).double()
    for found, value in zip(outcome(double, images.double()), expected, strict=True):
        assert found.dtype == torch.float64
        assert_close(found, value.double(), atol=1e-5, rtol=0)
    for clone, prompts in ((model, images), (double, images.double())):
        clone.model.set_prompts(prompts[:2], "gear")
    assert_close(outcome(double, images.double())[0], outcome(model, images)[0].double(), atol=1e-5, rtol=0)
    back = double.float()
    assert_close(outcome(back, images)[0], outcome(model, images)[0], atol=1e-5, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_scores_the_same_and_comes_back(model):
    images = torch.rand(3, 3, 110, 130, generator=torch.Generator().manual_seed(1))
    expected = outcome(model, images)
    moved = copy.deepcopy(model).to("cuda")
    for found, value in zip(outcome(moved, images.cuda()), expected, strict=True):
        assert_close(found.cpu(), value, atol=1e-3, rtol=0)
    assert all(map(torch.equal, outcome(moved.to("cpu"), images), expected))
