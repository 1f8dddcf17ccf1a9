# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import hashlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.engine import Engine
from rich.console import Console

from anomalib_inctrl import GeneralistDataModule, InCTRL, InCTRLDemo, InCTRLv2
from anomalib_inctrl.backbones.packaged import packaged_weights
from anomalib_inctrl.data import DataSource

QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
VARIANTS = [
    ("InCTRL", {}),
    ("InCTRLv2", {}),
    ("InCTRLv2", {"score_map": "fused", "adapter_per_block": True, "empty_mask": "literal", "use_patch": False}),
]


def fresh(trainer, **schedule):
    """A trainer that has trained nothing yet."""
    return replace(trainer, schedule=replace(trainer.schedule, **schedule), _parts={})


@pytest.fixture(scope="session", params=VARIANTS, ids=lambda variant: f"{variant[0]}-{len(variant[1])}")
def pair(request, setup, world, tmp_path_factory):
    """The same model, trained by the engine on images and here on what was encoded."""
    name, options = request.param
    cls = {"InCTRL": InCTRL, "InCTRLv2": InCTRLv2}[name]
    by_engine = cls(backbone=setup.backbone, pretrained=None, k_shot=setup.k_shot, seed=1, **options)
    datamodule = GeneralistDataModule(
        auxiliary=[DataSource("InCTRLDemo", setup.data_root, setup.auxiliary, setup.data_options)],
        k_shot=setup.k_shot,
        train_batch_size=setup.batch_size,
        steps_per_epoch=setup.steps,
        num_workers=0,
        seed=1,
        feature_store=None,  # the engine keeps features in half precision, the table does not
    )
    engine = Engine(max_epochs=1, default_root_dir=tmp_path_factory.mktemp("engine"), **QUIET)

    def descend(module):
        # Adam would take the rounding of a gradient next to zero for as much as any gradient.
        return torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=1e-3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cls, "configure_optimizers", descend)
        engine.fit(by_engine, datamodule=datamodule)
        here, _ = fresh(world.trainer).train(name, options, seed=1)
    return by_engine, here


def test_training_on_features_gives_the_weights_of_the_engine(pair, world):
    by_engine, here = pair
    untrained = world.trainer.build(type(here).__name__, {}, seed=1).model.state_dict()
    expected, found = by_engine.model.state_dict(), here.model.state_dict()
    heads = [key for key, value in expected.items() if torch.is_tensor(value) and not key.startswith("bank.")]
    assert len(heads) > 10
    moved = 0.0
    for key in heads:
        # Batch normalisation of next to equal values makes much of the last bits: the way a weight goes is compared.
        way = (expected[key] - untrained[key]).float().norm() if key in untrained else torch.zeros(())
        torch.testing.assert_close(found[key], expected[key], atol=1e-5 + 0.01 * float(way), rtol=1e-4)
        moved += float(way)
    assert moved > 0.01


def test_metrics_are_those_of_the_engine(pair, setup, world, tmp_path):
    by_engine, here = pair
    target = InCTRLDemo(root=setup.data_root, category="washer", **setup.data_options)
    by_engine.visualizer = None
    expected = Engine(default_root_dir=tmp_path, **QUIET).test(by_engine, datamodule=target)[0]
    components = world.unseen.score(here.model, "washer", seed=1)
    found = world.unseen.measure("washer", components.score, components.anomaly_map)
    names = {"image_AUROC": "image_AUROC", "pixel_AUROC": "pixel_AUROC", "AUPRO": "pixel_AUPRO"}
    for own, anomalibs in names.items():
        assert found[own] == pytest.approx(expected[anomalibs], abs=1e-5)


@pytest.mark.parametrize("options", [{"alpha": 0.1}, {"residual": "concat"}, {"use_oasl": False}, {"use_text": False}])
def test_shared_parts_are_what_training_everything_would_give(world, options):
    trainer = fresh(world.trainer)
    trainer.train("InCTRLv2", {}, seed=0)
    shared, courses = trainer.train("InCTRLv2", options, seed=0)
    alone, expected = fresh(world.trainer).train("InCTRLv2", options, seed=0)
    assert courses.keys() == expected.keys()
    for term, course in expected.items():
        assert courses[term] == pytest.approx(course, abs=1e-5)
    expected = alone.model.state_dict()
    for key, value in shared.model.state_dict().items():
        if torch.is_tensor(value):
            torch.testing.assert_close(value, expected[key], atol=1e-5, rtol=1e-4)


def test_the_table_takes_nothing_away_from_the_model(world):
    model = world.trainer.build("InCTRLv2", {}, seed=0).model
    with world.trainer.table.replace_backbone_of(model):
        assert "encode_pairs" in vars(model)
    assert "encode_pairs" not in vars(model)
    assert model.backbone.image_size == (64, 64)


def test_small_masks_keep_the_share_of_abnormal_pixels(world):
    from features import TrainingTable

    small = TrainingTable(world.auxiliary, 32)._masks.float().mean(dim=(1, 2))
    torch.testing.assert_close(small, world.auxiliary.masks.float().mean(dim=(1, 2)), atol=0.02, rtol=0)


CONFIG = """
setup: {{backbone: benchmark-vit-16-64, data_root: {root}, auxiliary: [gear, tile], unseen: [washer], k_shot: 2,
  data_options: {{train_count: 5, test_normal_count: 3, test_anomalous_count: 4}}, steps: 25, batch_size: 4}}
base: {{InCTRLv2: {{alpha: 0.4}}}}
reference: model
rows:
  - {{name: model}}
  - {{name: floor, kind: floor}}
  - {{name: blind, kind: constant}}
  - {{name: place, kind: position}}
  - {{name: patch, kind: residual}}
  - {{name: words, kind: text}}
"""


@pytest.fixture
def config(tmp_path, data_root):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(root=data_root))
    return path


def test_a_run_is_written_and_goes_on_where_it_stopped(config, tmp_path, monkeypatch):
    import ablate

    output, quiet = tmp_path / "results", Console(quiet=True)
    ablate.run(ablate.read_config(config, ["setup.seeds=[0]"]), output, quiet)
    first = pd.read_csv(output / "results.csv")
    assert len(first) == 6
    calls = []
    original = ablate.World.run
    monkeypatch.setattr(ablate.World, "run", lambda *args: calls.append(args[1].name) or original(*args))
    ablate.main(["--config", str(config), "--output", str(output), "setup.seeds=[0,1]"])
    assert calls == ["model", "floor", "blind", "place", "patch", "words"]
    both = pd.read_csv(output / "results.csv")
    pd.testing.assert_frame_equal(both[both["seed"] == 0].reset_index(drop=True), first)
    assert set(pd.read_csv(output / "losses.csv")["term"]) >= {"image_focal", "pixel_dice", "one_class_focal"}

    calls.clear()
    ablate.run(ablate.read_config(config, ["setup.seeds=[0,1]"]), output, quiet)
    assert not calls
    ablate.run(
        ablate.read_config(config, ["setup.seeds=[0]", "base.InCTRLv2.alpha=0.3", "setup.steps=25"]), output, quiet
    )
    assert calls == ["model", "floor", "blind", "place", "patch", "words"]
    table = (output / "table.md").read_text()
    assert table.count("\n") == 8
    assert "50.0 ± 0.0" in table


def test_results_depend_on_what_the_weights_are_not_on_where_they_lie(setup, tmp_path):
    import ablate

    packaged = packaged_weights("mini-clip-16-240", "demo")
    other = tmp_path / "other.safetensors"
    other.write_bytes(packaged.read_bytes() + b" ")
    told = [
        ablate._content(replace(setup, backbone="mini-clip-16-240", pretrained=tag))
        for tag in ("demo", str(packaged), str(other), "openai", None)
    ]
    assert told[0] == told[1] == hashlib.sha256(packaged.read_bytes()).hexdigest()
    assert told[2] not in {told[0], str(other)}
    assert told[3:] == ["openai", None]


def test_blind_controls_are_at_chance(config, tmp_path):
    import ablate

    results = ablate.run(ablate.read_config(config, ["setup.steps=1"]), tmp_path / "results", Console(quiet=True))
    blind = results[results["row"].isin(["blind", "place"])]
    assert np.allclose(blind["image_AUROC"], 0.5)
    assert np.allclose(results[results["row"] == "blind"]["pixel_AUROC"], 0.5)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("setup.step=3", "unknown step"),
        ("base.InCTRLv2.gamma=3", "unknown gamma"),
        ("reference=other", "reference='other' is no row"),
        ("rows=[{name: a, kind: magic}]", "kind='magic'"),
        ("rows=[{name: a, model: PatchCore}]", "model='PatchCore'"),
        ("rows=[{name: model}, {name: model}]", "used twice"),
        ("rows=[{name: model, option: {}}]", "unknown option"),
    ],
)
def test_wrong_configs_are_told(config, override, message):
    from ablate import read_config

    with pytest.raises(ValueError, match=message):
        read_config(config, [override])


def test_summary_means_over_categories_then_over_seeds():
    from report import summarize, to_markdown
    from scoring import METRICS

    lines = [
        {"row": row, "group": "g", "seed": seed, "category": category, **dict.fromkeys(METRICS, value)}
        for row, seed, category, value in [
            ("a", 0, "x", 0.2), ("a", 0, "y", 0.4), ("a", 1, "x", 0.4), ("a", 1, "y", 0.6),
            ("b", 0, "x", 0.4), ("b", 0, "y", 0.6), ("b", 1, "x", 0.6), ("b", 1, "y", 0.8),
        ]
    ]  # fmt: skip
    summary = summarize(pd.DataFrame(lines), ["b", "a", "absent"], "a")
    assert summary["row"].tolist() == ["b", "a"]
    assert summary["image AUROC"].tolist() == ["60.0 ± 14.1", "40.0 ± 14.1"]
    assert summary["Δ AUPRO"].tolist() == ["+20.0 ± 0.0 *", ""]
    noisy = summarize(pd.DataFrame(lines).replace({"image_AUROC": {0.8: 0.4}}), ["b", "a"], "a")
    assert noisy["Δ image AUROC"].tolist() == ["+10.0 ± 14.1", ""]
    assert to_markdown(summary).splitlines()[2].startswith("| g | b | 60.0 ± 14.1 |")
