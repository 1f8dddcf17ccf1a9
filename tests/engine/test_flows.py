# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Both models in anomalib's engine: training, weights, checkpoints, prompts."""

import json
import logging
from pathlib import Path

import pytest
import timm
import torch
from anomalib import LearningType
from anomalib.data import MVTecAD
from anomalib.pipelines.benchmark.generator import BenchmarkJobGenerator
from safetensors.torch import save_file

from anomalib_inctrl.errors import CheckpointError, DatasetError, PretrainedWeightsError, PromptError
from anomalib_inctrl.visualization import visualizer
from tests.engine.conftest import results, scores_of
from tests.shared import BACKBONE, COUNTS


def heads(model):
    return {name: value.clone() for name, value in model.model.head_tensors().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_training_changes_the_heads_and_tests_each_target_with_its_prompts(make_model, make_engine, generalist):
    model, engine = make_model(), make_engine(max_epochs=1)
    before = heads(model)
    metrics = engine.train(model, datamodule=generalist())[0]
    assert not same(before, heads(model))
    assert set(metrics) >= {"image_AUROC", "image_AUPR", "image_F1Score", "pixel_AUROC", "pixel_AUPR", "pixel_AUPRO"}
    prompts = json.loads(results(engine, "prompts.json").read_text())
    assert set(prompts) == {"washer", "brick"}
    for name, files in prompts.items():
        assert len(files) == 2
        assert all(f"{name}/train/good" in file for file in files)
    assert scores_of(engine).class_name.value_counts().to_dict() == {"brick": 9, "washer": 9}


def test_resumed_training_equals_an_uninterrupted_one(make_model, make_engine, generalist, tmp_path):
    def fit(name, epochs, **options):
        model, engine = make_model(), make_engine(max_epochs=epochs, default_root_dir=tmp_path / name)
        engine.fit(model, datamodule=generalist(targets=None), **options)
        return model, engine

    whole, _ = fit("whole", 3)
    _, engine = fit("first", 1)
    torch.manual_seed(99)  # the global state must not matter
    resumed, _ = fit("second", 3, ckpt_path=engine.best_model_path)
    assert same(heads(whole), heads(resumed))


def test_a_timm_backbone_trains_and_its_checkpoint_tests(kind, make_model, make_engine, generalist, target, tmp_path):
    weights = tmp_path / "vit.safetensors"
    save_file(timm.create_model("test_vit", img_size=64).state_dict(), weights)
    model, engine = make_model(backbone="timm/test_vit", pretrained=str(weights), image_size=64), make_engine()
    before = heads(model)
    engine.fit(model, datamodule=generalist(targets=None, steps_per_epoch=1))
    assert not same(before, heads(model))
    restored = kind.load_from_checkpoint(engine.best_model_path)
    assert same(heads(model), heads(restored))
    assert restored.model.backbone.image_size == (64, 64)
    test = make_engine(default_root_dir=tmp_path / "test")
    test.test(make_model(weights=engine.best_model_path), datamodule=target())
    found = scores_of(test)
    assert "text_score" not in found
    assert found.score.nunique() > 1


def test_a_stock_datamodule_adapts_prompts_and_thresholds_only(kind, make_model, make_engine, data, caplog):
    model, engine = make_model(), make_engine()
    before = heads(model)
    datamodule = MVTecAD(root=data, category="washer", num_workers=0, train_batch_size=2)
    with caplog.at_level(logging.WARNING, "anomalib_inctrl"):
        engine.train(model, datamodule=datamodule)
    assert "heads stay as they are" in caplog.text
    assert "training-free baseline" in caplog.text
    assert same(before, heads(model))
    assert not torch.isnan(model.post_processor.image_threshold)
    restored = kind.load_from_checkpoint(engine.best_model_path)
    assert restored.model.bank.class_names == ["washer"]
    assert not restored.model.heads_trained


def test_a_checkpoint_is_small_read_once_and_decides_the_backbone(kind, make_engine, target, trained, monkeypatch):
    saved = torch.load(trained, weights_only=True)
    assert not [key for key in saved["state_dict"] if ".network." in key]
    assert Path(trained).stat().st_size < 1e6
    # A model of the default backbone, whose weights are not available here.
    model = kind(k_shot=2, visualizer=False)
    make_engine().test(model, datamodule=target("brick"), ckpt_path=trained)
    assert model.model.backbone.name == BACKBONE
    assert model.pre_processor.image_size == 64
    assert model.model.heads_trained
    assert model.model.bank.class_names == ["brick"]  # prompts from the train split of a class without saved ones
    reads, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda file, **options: reads.append(str(file)) or load(file, **options))
    assert same(heads(kind.load_from_checkpoint(trained)), heads(model))
    assert reads == [str(trained)]


def test_weights_adapt_to_a_target_and_its_checkpoint_needs_no_training_data(
    kind, make_model, make_engine, target, trained, tmp_path
):
    model, engine = make_model(weights=trained), make_engine()
    assert model.learning_type == LearningType.FEW_SHOT
    before = heads(model)
    engine.train(model, datamodule=target())
    assert same(before, heads(model))
    assert model.model.bank.class_names == ["washer"]
    expected = scores_of(engine).set_index("image_path").sort_index()
    checkpoint = engine.best_model_path
    engine = make_engine(default_root_dir=tmp_path / "predicted")
    engine.predict(kind(visualizer=False), data_path=Path(expected.index[0]).parent, ckpt_path=checkpoint)
    found = scores_of(engine).set_index("image_path").sort_index()
    assert set(found.class_name) == {"washer"}
    assert found.score.to_list() == pytest.approx(expected.score[found.index].to_list(), abs=1e-6)
    assert found.pred_label.to_list() == expected.pred_label[found.index].to_list()


def test_named_prompts_are_used_and_their_list_can_be_named_again(make_model, make_engine, target, data, tmp_path):
    files = [str(data / "washer/train/good" / name) for name in ("003.png", "001.png", "004.png")]
    model, engine = make_model(prompts=files), make_engine()
    engine.test(model, datamodule=target())
    assert model.prompt_files == {"washer": files}
    again = make_engine(default_root_dir=tmp_path / "again")
    again.test(make_model(prompts=str(results(engine, "prompts.json"))), datamodule=target())
    assert scores_of(again).score.to_list() == scores_of(engine).score.to_list()


def test_prompts_follow_the_datamodule_unless_set_in_python(make_model, make_engine, target):
    model = make_model()
    model.model.set_prompts(torch.zeros(1, 3, 64, 64), "washer")
    for category in ("washer", "brick"):
        make_engine().test(model, datamodule=target(category))
    assert model.model.bank.class_names == ["washer", "brick"]
    assert [model.model.bank.select(name).k_shot for name in ("washer", "brick")] == [1, 2]


def test_anomalib_benchmark(kind, data, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"weights": trained, "k_shot": {"grid": [1, 2]}, "visualizer": False}
    config = {
        "seed": 0,
        "model": {"class_path": kind.__name__, "init_args": options},
        "data": {"class_path": "InCTRLDemo", "init_args": {"root": str(data), "category": "washer", **COUNTS}},
    }
    jobs = list(BenchmarkJobGenerator("cpu").generate_jobs(config, None))
    table = jobs[0].collect([job.run() for job in jobs])
    assert table["model.init_args.k_shot"].to_list() == [1, 2]
    assert table["image_AUROC"].between(0, 1).all()


def test_runs_that_lack_weights_prompts_or_data_are_refused(make_model, make_engine, target, washers, generalist):
    with pytest.raises(PretrainedWeightsError, match=r"none\.ckpt: no such weights file"):
        make_model(weights="none.ckpt")
    with pytest.raises(PromptError, match=r"'washer': k_shot=7: only 6 normal images.*washer"):
        make_engine().test(make_model(k_shot=7), datamodule=target())
    with pytest.raises(PromptError, match="No prompts are set"):
        make_engine().predict(make_model(), data_path=washers)
    with pytest.raises(DatasetError, match="auxiliary"):
        make_engine().fit(make_model(), datamodule=generalist(auxiliary=None))


def test_a_checkpoint_of_another_model_is_refused_with_its_keys(make_model, make_engine, target, trained, tmp_path):
    saved, foreign, lacking = torch.load(trained, weights_only=True), tmp_path / "foreign.ckpt", tmp_path / "part.ckpt"
    torch.save({**saved, "hyper_parameters": {"layers": ["layer1"]}}, foreign)
    key = "image_scorer.head.layers.0.bias"
    saved["state_dict"].pop(f"model.{key}")
    torch.save(saved, lacking)
    with pytest.raises(CheckpointError, match="backbone"):
        make_model(weights=str(foreign))
    model = make_model(weights=str(lacking))
    for _ in range(2):  # the second time as well: there is no model without its heads
        with pytest.raises(CheckpointError, match=rf"part\.ckpt: .*missing keys: \['{key}'\]"):
            _ = model.model
    for path, message in ((foreign, "backbone"), (lacking, rf"part\.ckpt: .*missing keys: \['model\.{key}'\]")):
        with pytest.raises(CheckpointError, match=message):
            make_engine().test(make_model(), datamodule=target(), ckpt_path=path)


def test_figures_show_the_scores_of_the_normal_images(make_model, make_engine, washers, prompts, monkeypatch):
    drawn = []
    monkeypatch.setattr(visualizer, "explanation_figure", lambda image, **shown: drawn.append(shown) or image)
    model = make_model(**prompts, threshold="auto", visualizer=True)
    assert model.normal_components is None
    make_engine().predict(model, data_path=washers)
    normals = model.normal_components.score.tolist()
    assert len(normals) == COUNTS["train_count"]
    pixel = float(model.normal_components.anomaly_map.max())
    for shown in drawn:
        assert shown["normal_scores"] == normals
        assert shown["threshold"] == pytest.approx(max(normals), abs=1e-6)
        assert shown["pred_label"] == (shown["score"] > max(normals))
        assert shown["maps"]["anomaly map"][1:] == pytest.approx((0, 2 * pixel, pixel), abs=1e-6)


@pytest.mark.parametrize(("given", "expected"), [({}, 10), ({"max_epochs": 2}, 2), ({"max_steps": 3}, -1)])
def test_the_number_of_epochs_is_the_users_or_finite(make_model, make_engine, generalist, given, expected):
    engine = make_engine(**given)
    engine.fit(make_model(), datamodule=generalist(targets=None, steps_per_epoch=1, k_shot=1))
    assert engine.trainer.max_epochs == expected
    assert engine.trainer.global_step == given.get("max_steps", expected)


def test_zero_shot_scores_by_text_alone_and_leaves_train_working(make_model, make_engine, target):
    engine = make_engine()
    engine.test(make_model(k_shot=0), datamodule=target())
    scores = scores_of(engine)
    assert scores.score.to_list() == pytest.approx(scores.text_score.to_list())
    make_engine().train(make_model(), datamodule=target())  # anomalib's test creates a folder where it wants a link
