# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Training from stored features equals training with the backbone."""

import logging
from types import SimpleNamespace

import pytest
from torch.testing import assert_close
from torchvision.transforms.v2 import RandomHorizontalFlip

from anomalib_inctrl import InCTRLv2
from anomalib_inctrl.backbones.preprocessing import BackbonePreProcessor
from anomalib_inctrl.models.components import feature_store, training_features

IMAGES = 2 * 15  # of two categories
one_model = pytest.mark.parametrize("kind", [InCTRLv2], scope="session")


@pytest.fixture
def fit(make_model, make_engine, generalist, monkeypatch):
    """Train; returns the model and, by epoch, the number of images encoded."""

    def run(epochs=1, store="memory", model=None, **options):
        options = {"steps_per_epoch": 9} | options  # enough for an epoch to draw every image
        # Slowly: Adam follows the sign of a gradient that is almost zero, and weights would drift apart.
        model = model or make_model(k_shot=1, learning_rate=1e-5)
        encoded = [0] * epochs
        original = model.model.backbone.encode_image

        def count(images):
            encoded[model.trainer.current_epoch] += len(images)
            return original(images)

        monkeypatch.setattr(model.model.backbone, "encode_image", count)
        make_engine(max_epochs=epochs).fit(model, datamodule=generalist(targets=None, feature_store=store, **options))
        return model, encoded

    return run


def assert_heads_close(one, other, **tolerances):
    assert_close(one.model.head_tensors(), other.model.head_tensors(), **tolerances)


def test_the_backbone_encodes_each_image_once_and_losses_stay(fit, monkeypatch):
    plain, encoded_plain = fit(2, store=None)
    stored, encoded = fit(2)
    assert encoded == [IMAGES, 0]
    assert encoded_plain[0] == encoded_plain[1] > 2 * IMAGES
    # Rounded to half precision, features give almost the same losses; without rounding the same weights.
    expected = plain.trainer.callback_metrics
    losses = {name: value for name, value in stored.trainer.callback_metrics.items() if name.startswith("train_")}
    assert len(losses) > 2
    for name, value in losses.items():
        assert_close(value, expected[name], atol=5e-3, rtol=5e-2)
    monkeypatch.setattr(feature_store, "_half", lambda values: values.detach().clone())
    assert_heads_close(fit(2)[0], plain, atol=1e-6, rtol=1e-5)


@one_model
def test_a_folder_serves_later_runs_and_damaged_files_are_recomputed(fit, tmp_path, caplog):
    folder = tmp_path / "store"
    first, encoded = fit(store=str(folder))
    assert encoded == [IMAGES]
    again, encoded = fit(store=str(folder))
    assert encoded == [0]
    assert_heads_close(first, again, atol=0, rtol=0)
    for path in sorted(folder.rglob("*.safetensors"))[:3]:
        content = bytearray(path.read_bytes())
        content[-9] ^= 0xFF
        path.write_bytes(content)
    again, encoded = fit(store=str(folder))
    assert encoded == [3]
    assert caplog.text.count("recomputed") == 3
    assert_heads_close(first, again, atol=0, rtol=0)


class OwnPreProcessor(BackbonePreProcessor):
    """A pre-processor whose effect the store cannot know."""


@one_model
@pytest.mark.parametrize("obstacle", ["augmentations", "pre-processor", "memory"])
def test_the_store_is_off_where_features_would_be_wrong_or_too_large(fit, monkeypatch, make_model, caplog, obstacle):
    caplog.set_level(logging.INFO)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    if obstacle == "memory":
        memory = SimpleNamespace(available=10**4)
        monkeypatch.setattr(training_features.psutil, "virtual_memory", lambda: memory)
    options = {"train_augmentations": RandomHorizontalFlip()} if obstacle == "augmentations" else {}
    model = make_model(pre_processor=OwnPreProcessor(64)) if obstacle == "pre-processor" else None
    _, encoded = fit(2, model=model, steps_per_epoch=2, **options)
    queries = 2 * (4 + 2)  # steps of balanced and one-class queries
    assert encoded == [queries * (1 + 2)] * 2
    assert "The feature store is off" in caplog.text
    assert obstacle in caplog.text
