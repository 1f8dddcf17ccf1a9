# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import pytest
from anomalib.engine import Engine

from anomalib_inctrl import InCTRL, InCTRLv2
from tests.shared import COUNTS, DEMO, QUIET, SMALL, TARGETS


@pytest.fixture(scope="session")
def checkpoints(generalist, tmp_path_factory):
    """Heads of both models after a few steps, one of them with a metric of its own, changed enough to be seen."""
    found = {}
    for kind, metric in ((InCTRL, "cosine"), (InCTRLv2, "learned")):
        engine = Engine(max_epochs=1, default_root_dir=tmp_path_factory.mktemp("trained"), **QUIET)
        model = kind(**SMALL, k_shot=2, patch_metric=metric, learning_rate=0.01)
        engine.fit(model, datamodule=generalist(["gear"], None, steps_per_epoch=3))
        found[kind.__name__] = str(engine.best_model_path)
    return found


@pytest.fixture
def packaged_model():
    """For workers, processes of their own, which do not know the small backbone."""
    return {"class_path": "InCTRL", "init_args": DEMO | {"blocks": [1]}}


@pytest.fixture
def make_config(data, tmp_path):
    def make(**changes):
        target = {"datamodule": "InCTRLDemo", "root": str(data), "categories": TARGETS, "options": COUNTS}
        return {
            "output": str(tmp_path / "results"),
            "models": {name: {"class_path": name, "init_args": dict(SMALL)} for name in ("InCTRL", "InCTRLv2")},
            "targets": {"Demo": target},
            "k_shots": [1, 2],
            "seeds": [0],
            "batch_size": 4,
            "device": "cpu",
        } | changes

    return make
