# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The fusion is fitted in training, on categories that the heads are kept from, and kept in the checkpoint.

So is a learned metric, which is trained with the heads.
"""

import logging

import pytest
import torch

from anomalib_inctrl import GeneralistDataModule, InCTRLDemo
from anomalib_inctrl.data import DataSource

COUNTS = {"train_count": 3, "test_normal_count": 1, "test_anomalous_count": 2}
PRODUCTS = [f"product-{number:03}" for number in range(6)]


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    root = tmp_path_factory.mktemp("products")
    for name in PRODUCTS:
        InCTRLDemo(root=root, category=name, **COUNTS).prepare_data()

    def make(categories=PRODUCTS, **options):
        sources = [DataSource("InCTRLDemo", root=str(root), categories=list(categories), options=COUNTS)]
        options = {"k_shot": 2, "train_batch_size": 4, "steps_per_epoch": 2, "num_workers": 0} | options
        return GeneralistDataModule(auxiliary=sources, **options)

    return make


@pytest.mark.parametrize(("fusion", "feature_store"), [("logistic", "memory"), ("standardized", None)])
def test_it_is_fitted_on_classes_that_no_batch_of_training_has(
    make_model, make_engine, products, fusion, feature_store, monkeypatch
):
    engine, model = make_engine(max_epochs=1), make_model(fusion=fusion, visualizer=False)
    datamodule, trained = products(feature_store=feature_store), []
    step = type(model).training_step

    def recorded(self, batch, index):
        trained.extend(batch.class_name)
        return step(self, batch, index)

    monkeypatch.setattr(type(model), "training_step", recorded)
    engine.fit(model, datamodule=datamodule)
    held_out = datamodule.held_out_classes()
    assert len(held_out) == 2
    assert trained
    assert not set(trained) & set(held_out)
    assert model.model.fusion.fitted
    restored = type(model).load_from_checkpoint(engine.best_model_path)
    assert restored.model.fusion.fitted
    for name, value in model.model.fusion.state_dict().items():
        assert torch.equal(value, restored.model.fusion.state_dict()[name])


def test_the_paper_s_weights_train_on_all_classes(make_model, make_engine, products):
    engine, model, datamodule = make_engine(max_epochs=1), make_model(fusion="paper", visualizer=False), products()
    engine.fit(model, datamodule=datamodule)
    assert model.model.fusion is None
    assert datamodule.held_out_classes() == []


def test_too_few_classes_keep_the_paper_s_weights_with_a_warning(make_model, make_engine, products, caplog):
    engine, model = make_engine(max_epochs=2), make_model(visualizer=False)
    with caplog.at_level(logging.WARNING):
        engine.fit(model, datamodule=products(PRODUCTS[:3]))
    assert caplog.text.count("fewer than six") == 1
    assert not model.model.fusion.fitted


def test_the_same_seed_gives_the_same_fusion(make_model, make_engine, products):
    states = []
    for _ in range(2):
        model = make_model(visualizer=False)
        make_engine(max_epochs=1).fit(model, datamodule=products())
        states.append(model.model.fusion.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_learned_metric_is_trained_and_restored(make_model, make_engine, products):
    engine, model = make_engine(max_epochs=1), make_model(patch_metric="learned", visualizer=False)
    engine.fit(model, datamodule=products())
    assert model.model.patch_metric.weight.abs().max() > 0
    restored = type(model).load_from_checkpoint(engine.best_model_path)
    assert torch.equal(restored.model.patch_metric.weight, model.model.patch_metric.weight)
