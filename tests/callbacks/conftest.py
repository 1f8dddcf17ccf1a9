# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from lightning.pytorch import Callback

from anomalib_inctrl import InCTRLv2
from tests.shared import SMALL


class Probe(Callback):
    """Keeps the loss of each batch, and what a test asks for before each backward pass and after each epoch."""

    def __init__(self, at_batch=lambda model: None, at_epoch=lambda model: None):
        self.at_batch, self.at_epoch = at_batch, at_epoch
        self.losses, self.norms, self.batches, self.epochs = [], [], [], []

    def on_before_backward(self, trainer, pl_module, loss):
        self.losses.append(loss.item())

    def on_after_backward(self, trainer, pl_module):
        groups = pl_module.trainable_groups().items()
        self.norms.append({name: sum(value.grad.norm() ** 2 for value in group) ** 0.5 for name, group in groups})

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches.append(self.at_batch(pl_module))

    def on_train_epoch_end(self, trainer, pl_module):
        self.epochs.append(self.at_epoch(pl_module))


def parameters(model):
    """Copies of all trainable parameters by name."""
    return {name: value.detach().clone() for name, value in model.model.named_parameters() if value.requires_grad}


def moved(one, other):
    """Names of the groups that differ."""
    return {name.split(".")[0] for name in one | other if not torch.equal(one[name], other[name])}


@pytest.fixture
def make_model():
    defaults = SMALL | {"k_shot": 2, "visualizer": False}
    return lambda kind=InCTRLv2, **options: kind(**defaults | options)


@pytest.fixture
def fit(make_model, make_engine, generalist):
    """Fit a model with callbacks; returns the model and its trainer."""

    def run(*callbacks, kind=InCTRLv2, model=None, epochs=2, datamodule=None, ckpt_path=None, options=None, **engine):
        model = model or make_model(kind, **options or {})
        engine = make_engine(max_epochs=epochs, callbacks=list(callbacks), **engine)
        engine.fit(model, datamodule=datamodule or generalist(targets=False), ckpt_path=ckpt_path)
        return model, engine.trainer

    return run
