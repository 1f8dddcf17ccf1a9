# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Training from stored features is training, without the backbone."""

import logging

import pytest
import torch
from torch.testing import assert_close
from torchvision.transforms.v2 import RandomHorizontalFlip

from anomalib_inctrl import InCTRL, InCTRLv2
from anomalib_inctrl.data import feature_store
from anomalib_inctrl.models.components import stored_features
from tests.engine.test_flows import heads


@pytest.fixture(scope="session")
def kind():
    return InCTRLv2


@pytest.fixture
def fit(make_model, make_engine, generalist, monkeypatch):
    """Train; gives the model and, by epoch, the number of images encoded."""

    def run(epochs=2, datamodule=None, store="memory", model=None, **options):
        datamodule = datamodule or generalist(targets=False, feature_store=store, **options)
        model = model or make_model(k_shot=1)
        encoded = []
        original = model.model.backbone.encode_image

        def count(images):
            encoded.append((model.trainer.current_epoch, len(images)))
            return original(images)

        monkeypatch.setattr(model.model.backbone, "encode_image", count)
        make_engine(max_epochs=epochs).fit(model, datamodule=datamodule)
        return model, [sum(number for at, number in encoded if at == epoch) for epoch in range(epochs)]

    return run


def weights(model):
    return {name: value for name, value in heads(model).items() if torch.is_tensor(value)}


@pytest.fixture
def steps():
    # Enough for an epoch to draw every image.
    return {"steps_per_epoch": 9}


@pytest.fixture(params=["memory", "folder"])
def place(request, tmp_path):
    return "memory" if request.param == "memory" else str(tmp_path / "store")


@pytest.mark.parametrize("kind", [InCTRL, InCTRLv2], scope="session")
def test_no_backbone_from_the_second_epoch_on_and_nothing_else_changes(fit, make_model, kind, place, steps):
    # Slowly: Adam follows a gradient's sign where it is next to nothing, and so weights would drift apart.
    options = {"k_shot": 1, "learning_rate": 1e-5}
    plain, encoded_plain = fit(store=None, model=make_model(**options), **steps)
    stored, encoded = fit(store=place, model=make_model(**options), **steps)
    images = 2 * 15  # two categories
    assert encoded == [images, 0]
    assert encoded_plain[0] == encoded_plain[1] > 2 * images
    assert stored._stored is None
    # Rounded to half precision, features give almost the same losses; without rounding the same weights, see below.
    expected = plain.trainer.callback_metrics
    losses = {name: value for name, value in stored.trainer.callback_metrics.items() if name.startswith("train_")}
    assert len(losses) > 2
    for name, value in losses.items():
        assert_close(value, expected[name], atol=5e-3, rtol=5e-2)


def test_features_are_the_backbones_rounded_to_half_precision(make_model, make_engine, generalist, monkeypatch):
    seen = []

    def compare(model, batch):
        query, context = original(model, batch)
        paths = model.trainer.datamodule.train_data.samples.image_path
        images = torch.stack([model._read_prompts([paths[row]])[0] for row in batch.rows.tolist()])
        seen.append((query, model.model.backbone.encode_image(images.as_subclass(torch.Tensor)), context))
        return query, context

    original = InCTRLv2.encode_batch
    monkeypatch.setattr(InCTRLv2, "encode_batch", compare)
    make_engine(max_epochs=1).fit(make_model(), datamodule=generalist(targets=False))
    assert len(seen) == 2
    for query, expected, context in seen:
        assert_close(query.patches, expected.patches, rtol=2**-10, atol=1e-5)
        assert_close(query.embedding, expected.embedding, rtol=2**-10, atol=1e-5)
        assert context.patches.shape[:2] == (6, 2)
        assert_close(context.patches.norm(dim=-1), torch.ones(context.patches.shape[:-1]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", [InCTRL, InCTRLv2], scope="session")
def test_without_rounding_the_weights_are_the_same(fit, steps, monkeypatch, kind):
    plain, _ = fit(1, store=None, **steps)
    monkeypatch.setattr(feature_store, "_half", lambda values: values.detach().clone())
    stored, _ = fit(1, **steps)
    expected = weights(plain)
    for name, value in weights(stored).items():
        assert_close(value, expected[name], atol=1e-5, rtol=1e-4)


def test_only_what_is_drawn_is_encoded(fit):
    _, encoded = fit(steps_per_epoch=1)
    assert 0 < encoded[0] < 2 * 15
    assert 0 < sum(encoded) <= 2 * 15


def test_a_folder_serves_later_runs_and_other_trainings(fit, tmp_path, steps):
    first, encoded = fit(1, store=str(tmp_path / "store"), **steps)
    again, encoded_again = fit(1, store=str(tmp_path / "store"), **steps)
    assert encoded[0] > 0
    assert encoded_again == [0]
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(first).items())


def test_other_weights_or_blocks_are_encoded_anew(fit, tmp_path, make_model, steps):
    fit(1, store=str(tmp_path / "store"), **steps)
    _, encoded = fit(1, store=str(tmp_path / "store"), model=make_model(blocks=[1, 3]), **steps)
    assert encoded == [30]
    model = make_model()
    with torch.no_grad():
        model.model.backbone.network.visual.proj[3, 3] += 1e-3  # a single number
    _, encoded = fit(1, store=str(tmp_path / "store"), model=model, **steps)
    assert encoded == [30]


def test_damaged_files_are_encoded_anew_and_change_nothing(fit, tmp_path, steps, caplog):
    first, _ = fit(1, store=str(tmp_path / "store"), **steps)
    for path in sorted((tmp_path / "store").rglob("*.safetensors"))[:3]:
        content = bytearray(path.read_bytes())
        content[-9] ^= 0xFF
        path.write_bytes(content)
    again, encoded = fit(1, store=str(tmp_path / "store"), **steps)
    assert encoded == [3]
    assert caplog.text.count("made anew") == 3
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(first).items())


def test_a_memory_store_stays_with_the_datamodule(fit, generalist, make_model, steps):
    datamodule = generalist(targets=False, **steps)
    assert fit(1, datamodule)[1] == [30]
    assert fit(1, datamodule)[1] == [0]
    assert fit(1, datamodule, model=make_model(blocks=[2]))[1] == [30]


def test_workers_read_no_pixels(fit, steps):
    model, encoded = fit(num_workers=1, **steps)
    assert encoded == [30, 0]
    alone, _ = fit(num_workers=0, **steps)
    assert all(torch.equal(value, weights(alone)[name]) for name, value in weights(model).items())


@pytest.mark.parametrize("obstacle", ["augmentations", "pre-processor", "memory"])
def test_it_is_off_where_it_cannot_be_right(fit, monkeypatch, make_model, caplog, obstacle):
    class OwnPreProcessor(stored_features.BackbonePreProcessor):
        pass

    caplog.set_level(logging.INFO)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    monkeypatch.setattr(stored_features, "available_memory", lambda: 10**4 if obstacle == "memory" else None)
    options = {"train_augmentations": RandomHorizontalFlip()} if obstacle == "augmentations" else {}
    model = make_model(pre_processor=OwnPreProcessor(96)) if obstacle == "pre-processor" else None
    _, encoded = fit(model=model, **options)
    draws = 2 * (4 + 2)  # steps of balanced and one-class queries
    assert encoded == [draws * (1 + 2)] * 2
    assert "The feature store is off" in caplog.text
    assert obstacle in caplog.text


def test_the_size_is_said_beforehand(fit, steps, monkeypatch):
    said = []
    monkeypatch.setattr(stored_features, "rank_zero_info", said.append)
    monkeypatch.setattr(feature_store.MemoryStore, "_keep", lambda *_: said.append("filled") or None)
    fit(1, **steps)
    # 3 blocks of 36 patches of width 32, and an embedding of 24, two bytes each.
    assert said[0] == "Features of training images are kept in memory: up to 30 images, 6.96 kB each, 209 kB in all."
    assert "filled" in said[1:]
