# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""A user's own pre-processor, in every form that anomalib takes, gives what the model's own gives."""

import pytest
import torch
from anomalib.pre_processing import PreProcessor
from torch import nn
from torchvision.transforms.v2 import Compose, Normalize, Resize

from anomalib_inctrl import Detector
from anomalib_inctrl.backbones.openclip import CLIP_MEAN, CLIP_STD
from anomalib_inctrl.backbones.preprocessing import BackbonePreProcessor, ExportableResize
from anomalib_inctrl.errors import BackboneError
from tests.engine.conftest import scores_of
from tests.shared import BACKBONE

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


@pytest.mark.parametrize("form", SAME)
def test_training_and_predictions_are_the_same(form, make_model, make_engine, generalist, prompts, washers):
    losses, scores = [], []
    for pre_processor in (True, SAME[form]()):
        engine, model = make_engine(max_epochs=1), make_model(pre_processor=pre_processor, **prompts)
        engine.fit(model, datamodule=generalist(targets=None, feature_store=None))
        losses.append(float(engine.trainer.callback_metrics["train_loss"]))
        scores.append([float(batch.raw_score) for batch in make_engine().predict(model, data_path=washers)])
        detector = Detector(model, device="cpu")
        detector.set_prompts(prompts["prompts"], "washer")
        assert [found.score for found in detector.predict(washers)] == pytest.approx(scores[-1], abs=1e-5)
    # A plain module leaves masks at their own size.
    tolerance = 2e-4 if form == "plain module" else 1e-6
    assert losses[0] == pytest.approx(losses[1], rel=tolerance)
    assert scores[0] == pytest.approx(scores[1], abs=tolerance)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PreProcessor(Compose([Resize((64, 64)), NORMALIZE])),
        lambda: PreProcessor(NORMALIZE),
        PreProcessor,
        lambda: False,
    ],
)
def test_a_checkpoint_keeps_it(make, make_model, tmp_path):
    # Where nothing resizes, neither in the dataset nor in the model, images have to have the model's size.
    images = torch.rand(3, 3, 64, 64)
    model = make_model(pre_processor=make()).eval()
    model.model.set_prompts(model.pre_processor(images) if model.pre_processor else images, "washer")
    torch.save(model.checkpoint_content(), tmp_path / "model.ckpt")
    loaded = type(model).load_from_checkpoint(tmp_path / "model.ckpt")  # with the model's own to begin with
    with torch.no_grad():
        assert torch.equal(loaded(images).pred_score, model(images).pred_score)


def test_one_of_another_size_is_refused(make_model, make_engine, prompts, washers):
    pre_processor = PreProcessor(Compose([Resize((32, 32)), NORMALIZE]))
    with pytest.raises(BackboneError, match=rf"expected \(B, 3, 64, 64\) for {BACKBONE}, found \(\d, 3, 32, 32\)"):
        make_engine().predict(make_model(pre_processor=pre_processor, **prompts), data_path=washers)


def test_a_given_one_is_used_with_a_checkpoint_of_the_models_own(trained, make_model, make_engine, target, caplog):
    scores = []
    for pre_processor in (True, SAME["transform"]()):
        engine = make_engine()
        engine.test(make_model(pre_processor=pre_processor), datamodule=target(), ckpt_path=trained)
        scores.append(scores_of(engine).score.to_list())
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert "The pre_processor given is used" in caplog.text
