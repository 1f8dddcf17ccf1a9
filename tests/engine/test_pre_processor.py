# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""A user's own pre-processor, in every form that anomalib takes, gives what the model's own gives."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.pre_processing import PreProcessor
from torch import nn
from torchvision.transforms.v2 import Compose, Normalize, Resize

from anomalib_inctrl import Detector, InCTRLv2
from anomalib_inctrl.backbones.openclip import CLIP_MEAN, CLIP_STD
from anomalib_inctrl.backbones.preprocessing import BackbonePreProcessor, ExportableResize
from anomalib_inctrl.errors import BackboneError
from anomalib_inctrl.io.images import read_image
from tests.engine.conftest import BACKBONE

NORMALIZE = Normalize(list(CLIP_MEAN), list(CLIP_STD))


class WithExportTransform(PreProcessor):
    def __init__(self):
        super().__init__(BackbonePreProcessor(64).transform)
        self.export_transform = nn.Sequential(ExportableResize(64), NORMALIZE)


class Plain(nn.Module):
    def forward(self, images):
        return BackbonePreProcessor(64).transform(images)


SAME = {
    "transform": lambda: PreProcessor(BackbonePreProcessor(64).transform),
    "export_transform": WithExportTransform,
    "plain module": Plain,
}


@pytest.fixture
def prompts(data):
    return {"prompts": str(data / "washer/train/good"), "class_name": "washer"}


@pytest.fixture
def files(data):
    return sorted((data / "washer/test").rglob("*.png"))[:3]


@pytest.mark.parametrize("form", SAME)
def test_training_gives_the_same_loss(form, make_model, make_engine, generalist):
    losses = []
    for pre_processor in (True, SAME[form]()):
        engine = make_engine(max_epochs=1)
        engine.fit(make_model(pre_processor=pre_processor), datamodule=generalist(targets=False, feature_store=None))
        losses.append(float(engine.trainer.callback_metrics["train_loss"]))
    # A plain module leaves masks at their own size.
    assert losses[0] == pytest.approx(losses[1], rel=2e-4 if form == "plain module" else 1e-6)


@pytest.mark.parametrize("form", SAME)
def test_predictions_are_the_same(form, make_model, make_engine, prompts, files):
    scores = []
    for pre_processor in (True, SAME[form]()):
        model = make_model(pre_processor=pre_processor, visualizer=False, **prompts)
        batches = make_engine().predict(model, data_path=files[0].parent)
        detector = Detector(make_model(pre_processor=pre_processor, k_shot=6), device="cpu")
        detector.set_prompts(prompts["prompts"], "washer")
        scores.append([float(batch.raw_score) for batch in batches])
        found = [prediction.score for prediction in detector.predict(files[0].parent)]
        assert found == pytest.approx(scores[-1], abs=1e-5)
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)


@pytest.mark.parametrize("form", ["transform", "normalisation alone", "nothing", "False"])
def test_a_checkpoint_keeps_it_and_onnx_runs(form, make_model, files, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    forms = {
        "transform": lambda: PreProcessor(Compose([Resize((64, 64)), NORMALIZE])),
        "normalisation alone": lambda: PreProcessor(NORMALIZE),
        "nothing": PreProcessor,
        "False": lambda: False,
    }
    # Where nothing resizes, neither in the dataset nor in the model, images have to have the model's size.
    images = torch.cat([nn.functional.interpolate(read_image(path)[None], (64, 64)) for path in files])
    model = make_model(pre_processor=forms[form](), visualizer=False).eval()
    model.model.set_prompts(model.pre_processor(images) if model.pre_processor else images, "washer")
    torch.save(model.checkpoint_content(), tmp_path / "model.ckpt")
    loaded = type(model).load_from_checkpoint(tmp_path / "model.ckpt")  # with the model's own to begin with
    with torch.no_grad():
        expected = model(images).pred_score
        assert torch.equal(loaded(images).pred_score, expected)
    if form != "nothing" or type(model) is not InCTRLv2:  # an export takes long
        return
    path = loaded.to_onnx(tmp_path)
    session = onnxruntime.InferenceSession(path)
    (found,) = session.run(["pred_score"], {session.get_inputs()[0].name: images.numpy()})
    np.testing.assert_allclose(found.squeeze(), expected.squeeze(), atol=1e-4)


def test_one_of_another_size_is_refused(make_model, make_engine, prompts, files):
    pre_processor = PreProcessor(Compose([Resize((32, 32)), NORMALIZE]))
    with pytest.raises(BackboneError, match=rf"expected \(B, 3, 64, 64\) for {BACKBONE}, found \(\d, 3, 32, 32\)"):
        make_engine().predict(make_model(pre_processor=pre_processor, **prompts), data_path=files[0])


def test_a_given_one_is_used_with_a_checkpoint_of_the_models_own(trained, make_model, make_engine, target, caplog):
    scores = {}
    for name, pre_processor in (("own", True), ("same", SAME["transform"]())):
        engine = make_engine()
        engine.test(make_model(pre_processor=pre_processor, visualizer=False), datamodule=target(), ckpt_path=trained)
        scores[name] = pd.read_csv(Path(engine.trainer.default_root_dir) / "scores.csv").score
    assert scores["same"].to_list() == pytest.approx(scores["own"].to_list(), abs=1e-6)
    assert "The pre_processor given is used" in caplog.text
