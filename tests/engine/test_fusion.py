# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The fusion is fitted in training, on categories that the heads are kept from, and kept in the checkpoint.

So is a learned metric, which is trained with the heads.
"""

import logging

import pytest
import torch

from anomalib_inctrl import InCTRL, InCTRLDemo
from tests.shared import generalist_data

COUNTS = {"train_count": 3, "test_normal_count": 1, "test_anomalous_count": 2}
PRODUCTS = [f"product-{number:03}" for number in range(6)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("products")
    for name in PRODUCTS:
        InCTRLDemo(root=root, category=name, **COUNTS).prepare_data()
    return root


@pytest.fixture
def fit(make_model, make_engine, root, monkeypatch):
    """Train; returns the model, the model of its checkpoint, the classes trained on and those held out."""

    def run(products=PRODUCTS, epochs=1, feature_store="memory", **options):
        model, engine, classes = make_model(**options), make_engine(max_epochs=epochs), []
        step = type(model).training_step

        def recorded(self, batch, index):
            classes.extend(batch.class_name)
            return step(self, batch, index)

        datamodule = generalist_data(root, products, None, COUNTS, feature_store=feature_store)
        with monkeypatch.context() as patch:
            patch.setattr(type(model), "training_step", recorded)
            engine.fit(model, datamodule=datamodule)
        restored = type(model).load_from_checkpoint(engine.best_model_path)
        return model.model, restored.model, set(classes), datamodule.held_out_classes()

    return run


def test_it_is_fitted_on_classes_that_no_batch_of_training_has(fit, kind):
    fusion, feature_store = ("logistic", "memory") if kind is InCTRL else ("standardized", None)
    model, restored, trained, held_out = fit(fusion=fusion, feature_store=feature_store, patch_metric="learned")
    assert len(held_out) == 2
    assert trained
    assert not trained & set(held_out)
    assert model.fusion.fitted
    assert restored.fusion.fitted
    assert model.patch_metric.weight.abs().max() > 0
    for name in ("fusion", "patch_metric"):
        expected, found = (getattr(each, name).state_dict() for each in (model, restored))
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_the_paper_s_weights_train_on_all_classes_and_stay_where_those_are_few(fit, caplog):
    model, _, _, held_out = fit(fusion="paper")
    assert model.fusion is None
    assert held_out == []
    with caplog.at_level(logging.WARNING):
        model, *_ = fit(PRODUCTS[:3], epochs=2)
    assert caplog.text.count("fewer than six") == 1
    assert not model.fusion.fitted


def test_the_same_seed_gives_the_same_fusion(fit):
    one, other = (fit()[0].fusion.state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
