# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Both models in anomalib's engine: training, weights, checkpoints, prompts."""

import json
import logging
from pathlib import Path

import pandas as pd
import pytest
import torch
from anomalib import LearningType
from anomalib.data import Folder, MVTecAD
from anomalib.pipelines.benchmark.generator import BenchmarkJobGenerator
from sklearn.metrics import average_precision_score, roc_auc_score

from anomalib_inctrl.errors import CheckpointError, DatasetError, PretrainedWeightsError, PromptError


def heads(model):
    return {
        name: value.clone()
        for name, value in model.model.state_dict().items()
        if not name.startswith(("backbone", "bank", "_"))
    }


def same(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(one[key], other[key]) if torch.is_tensor(one[key]) else one[key] == other[key] for key in one
    )


def test_training_moves_the_heads_and_tests_every_target_with_its_own_prompts(make_model, make_engine, generalist):
    model = make_model()
    before = heads(model)
    engine = make_engine(max_epochs=1)
    metrics = engine.train(model, datamodule=generalist())[0]
    assert not same(before, heads(model))
    assert set(metrics) >= {"image_AUROC", "image_AUPR", "image_F1Score", "pixel_AUROC", "pixel_AUPR", "pixel_AUPRO"}
    folder = Path(engine.trainer.default_root_dir)
    prompts = json.loads((folder / "prompts.json").read_text())
    assert set(prompts) == {"washer", "brick"}
    assert all(
        len(files) == 2 and all(f"{name}/train/good" in file for file in files) for name, files in prompts.items()
    )
    scores = pd.read_csv(folder / "scores.csv")
    assert scores.class_name.value_counts().to_dict() == {"brick": 9, "washer": 9}
    assert len(list((folder / "explanations").rglob("*.png"))) == 18


def test_metrics_are_those_of_the_raw_scores(make_model, make_engine, target, trained):
    engine = make_engine()
    metrics = engine.test(make_model(weights=trained), datamodule=target())[0]
    scores = pd.read_csv(Path(engine.trainer.default_root_dir) / "scores.csv")
    assert scores.pred_score.to_list() != pytest.approx(scores.score.to_list())
    truth = scores.gt_label.astype(int)
    assert metrics["image_AUROC"] == pytest.approx(roc_auc_score(truth, scores.score), abs=1e-6)
    assert metrics["image_AUPR"] == pytest.approx(average_precision_score(truth, scores.score), abs=1e-6)


def test_checkpoint_is_small_and_needs_nothing_said(kind, make_model, make_engine, target, trained):
    saved = torch.load(trained, weights_only=True)
    assert not [key for key in saved["state_dict"] if ".network." in key]
    assert Path(trained).stat().st_size < 1e6
    # A model of the default backbone, whose weights are not to be had here: the checkpoint says which to use.
    model = kind(k_shot=2, visualizer=False)
    make_engine().test(model, datamodule=target(), ckpt_path=trained)
    assert model.model.backbone.name == "test-vit-16-96"
    assert model.pre_processor.image_size == 96
    assert model.model.heads_trained
    assert same(heads(kind.load_from_checkpoint(trained)), heads(model))


def test_saved_prompts_and_thresholds_need_no_training_data(kind, make_model, make_engine, target, trained, tmp_path):
    engine = make_engine()
    engine.train(make_model(weights=trained, visualizer=False), datamodule=target())
    checkpoint = engine.best_model_path
    reference = pd.read_csv(Path(engine.trainer.default_root_dir) / "scores.csv").sort_values("image_path")
    folder = Path(reference.image_path.iloc[0]).parent
    loose = kind(visualizer=False)
    engine = make_engine(default_root_dir=tmp_path / "predicted")
    engine.predict(loose, data_path=folder, ckpt_path=checkpoint)
    found = pd.read_csv(Path(engine.trainer.default_root_dir) / "scores.csv").sort_values("image_path")
    expected = reference[reference.image_path.isin(found.image_path)]
    assert len(found) > 0
    assert found.class_name.unique().tolist() == ["washer"]
    assert found.score.to_list() == pytest.approx(expected.score.to_list(), abs=1e-6)
    assert found.pred_label.to_list() == expected.pred_label.to_list()


def test_weights_keep_heads_and_set_prompts_and_thresholds_anew(make_model, make_engine, target, trained):
    model = make_model(weights=trained, visualizer=False)
    assert model.learning_type == LearningType.FEW_SHOT
    before = heads(model)
    make_engine().train(model, datamodule=target())
    assert same(before, heads(model))
    assert model.model.bank.class_names == ["washer"]
    assert not torch.isnan(model.post_processor.image_threshold)


def test_stock_datamodule_adapts_prompts_and_thresholds_only(kind, make_model, make_engine, data, caplog):
    model = make_model(visualizer=False)
    before = heads(model)
    engine = make_engine()
    datamodule = MVTecAD(root=data, category="washer", num_workers=0, train_batch_size=2)
    with caplog.at_level(logging.WARNING, "anomalib_inctrl"):
        engine.train(model, datamodule=datamodule)
    assert "heads stay as they are" in caplog.text
    assert "training-free floor" in caplog.text
    assert same(before, heads(model))
    assert not torch.isnan(model.post_processor.image_threshold)
    restored = kind.load_from_checkpoint(engine.best_model_path)
    assert restored.model.bank.class_names == ["washer"]
    assert not restored.model.heads_trained


def test_folder_without_category(make_model, make_engine, data, trained):
    datamodule = Folder(
        name="my_parts", root=data / "washer", normal_dir="train/good", abnormal_dir="test/scratch", num_workers=0
    )
    model = make_model(weights=trained, visualizer=False)
    make_engine().test(model, datamodule=datamodule)
    assert model.model.bank.class_names == ["object"]
    model = make_model(weights=trained, visualizer=False, class_name="steel washer")
    make_engine().test(model, datamodule=datamodule)
    assert model.model.bank.class_names == ["steel washer"]


def test_other_class_than_the_checkpoints_gets_prompts_from_its_train_split(
    kind, make_engine, target, trained, generalist
):
    model = kind(k_shot=2, visualizer=False)
    make_engine().test(model, datamodule=target("brick"), ckpt_path=trained)
    assert model.model.bank.class_names == ["brick"]


def test_given_prompts_are_used_exactly_and_can_be_given_back(make_model, make_engine, target, data, trained, tmp_path):
    files = [str(data / "washer/train/good" / name) for name in ("003.png", "001.png", "004.png")]
    model = make_model(weights=trained, visualizer=False, prompts=files)
    engine = make_engine()
    engine.test(model, datamodule=target())
    assert model.prompt_files == {"washer": files}
    expected = pd.read_csv(Path(engine.trainer.default_root_dir) / "scores.csv").score.to_list()
    written = Path(engine.trainer.default_root_dir) / "prompts.json"
    engine = make_engine(default_root_dir=tmp_path / "again")
    engine.test(make_model(weights=trained, visualizer=False, prompts=str(written)), datamodule=target())
    assert pd.read_csv(Path(engine.trainer.default_root_dir) / "scores.csv").score.to_list() == expected


def test_a_list_that_leaves_out_the_runs_class_is_not_passed_over_silently(
    make_model, make_engine, target, data, tmp_path, caplog
):
    (tmp_path / "prompts.json").write_text(json.dumps({"Washer": [str(data / "washer/train/good/003.png")]}))
    model = make_model(visualizer=False, prompts=str(tmp_path / "prompts.json"))
    with caplog.at_level(logging.WARNING, "anomalib_inctrl"):
        make_engine().test(model, datamodule=target())
    assert caplog.text.count("names images of ['Washer'], none of 'washer'") == 1
    assert model.model.bank.select("washer").k_shot == 2


def test_predict_on_a_folder_with_a_folder_of_prompts(make_model, make_engine, data, caplog):
    engine = make_engine()
    model = make_model(prompts=str(data / "washer/train/good"), class_name="washer")
    with caplog.at_level(logging.WARNING, "anomalib_inctrl"):
        predictions = engine.predict(model, data_path=data / "washer/test/scratch")
    assert all(torch.isfinite(batch.raw_score).all() for batch in predictions)
    assert model.model.bank.select().k_shot == 6
    # Nothing has said above which score a picture is defective.
    assert "No threshold is known" in caplog.text
    assert "pred_label" not in pd.read_csv(Path(engine.trainer.default_root_dir) / "scores.csv")
    assert list((Path(engine.trainer.default_root_dir) / "explanations").rglob("*.png"))


def test_prompts_set_by_hand_stay(make_model, make_engine, target):
    model = make_model(visualizer=False)
    model.model.set_prompts(torch.zeros(1, 3, 96, 96), "washer")
    make_engine().test(model, datamodule=target())
    assert model.model.bank.select("washer").k_shot == 1


def test_prompts_follow_the_datamodule_within_one_process(make_model, make_engine, target, data):
    model = make_model(visualizer=False)
    make_engine().test(model, datamodule=target("washer"))
    make_engine().test(model, datamodule=target("brick"))
    assert model.model.bank.class_names == ["washer", "brick"]
    # Another dataset under the same class name is not judged by the first one's prompts.
    other = Folder(name="x", root=data / "brick", normal_dir="train/good", abnormal_dir="test/scratch", num_workers=0)
    model = make_model(visualizer=False, class_name="washer")
    make_engine().test(model, datamodule=target("washer"))
    make_engine().test(model, datamodule=other)
    assert all("brick" in file for file in model.prompt_files["washer"])


def test_zero_shot(make_model, make_engine, target):
    engine = make_engine()
    engine.test(make_model(k_shot=0, visualizer=False), datamodule=target())
    scores = pd.read_csv(Path(engine.trainer.default_root_dir) / "scores.csv")
    assert scores.score.to_list() == pytest.approx(scores.text_score.to_list())


def test_resumed_training_equals_an_uninterrupted_one(make_model, make_engine, generalist, tmp_path):
    whole = make_model()
    make_engine(max_epochs=3, default_root_dir=tmp_path / "whole").fit(whole, datamodule=generalist(targets=False))
    engine = make_engine(max_epochs=1, default_root_dir=tmp_path / "first")
    engine.fit(make_model(), datamodule=generalist(targets=False))
    resumed = make_model()
    torch.manual_seed(99)  # nothing may hang on the global state
    make_engine(max_epochs=3, default_root_dir=tmp_path / "second").fit(
        resumed, datamodule=generalist(targets=False), ckpt_path=engine.best_model_path
    )
    assert same(heads(whole), heads(resumed))


def test_training_and_testing_again_in_one_process(make_model, make_engine, generalist, target):
    model = make_model(visualizer=False)
    make_engine(max_epochs=1).fit(model, datamodule=generalist())
    make_engine().test(model, datamodule=target())
    make_engine(max_epochs=1).fit(model, datamodule=generalist())
    assert all(torch.isfinite(value).all() for value in heads(model).values())


# ---------------------------------------------------------------------- the host's traps


def test_test_before_any_train_leaves_train_working(make_model, make_engine, target):
    make_engine().test(make_model(visualizer=False), datamodule=target())
    make_engine().train(make_model(visualizer=False), datamodule=target())


@pytest.mark.parametrize(("given", "expected"), [({}, 10), ({"max_epochs": 2}, 2), ({"max_steps": 3}, -1)])
def test_number_of_epochs_is_finite_and_the_users_goes_first(make_model, make_engine, generalist, given, expected):
    engine = make_engine(**given)
    engine.fit(make_model(visualizer=False), datamodule=generalist(targets=False, steps_per_epoch=1, k_shot=1))
    assert engine.trainer.max_epochs == expected
    assert engine.trainer.global_step == given.get("max_steps", expected)


def test_the_models_own_seed_decides_its_heads(make_model):
    torch.manual_seed(1)
    first = heads(make_model(seed=5))
    torch.manual_seed(2)
    assert same(first, heads(make_model(seed=5)))
    assert not same(first, heads(make_model(seed=6)))


@pytest.mark.parametrize("few_shot", [True, False])
def test_anomalib_benchmark(kind, data, trained, few_shot, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"weights": trained} if few_shot else {"backbone": "test-vit-16-96", "pretrained": None}
    config = {
        "seed": 0,
        "model": {"class_path": kind.__name__, "init_args": {**options, "k_shot": {"grid": [1, 2]}}},
        "data": {
            "class_path": "InCTRLDemo",
            "init_args": {
                "root": str(data),
                "category": "washer",
                "train_count": 6,
                "test_normal_count": 3,
                "test_anomalous_count": 6,
            },
        },
    }
    jobs = list(BenchmarkJobGenerator("cpu").generate_jobs(config, None))
    table = jobs[0].collect([job.run() for job in jobs])
    assert table["model.init_args.k_shot"].to_list() == [1, 2]
    assert table["image_AUROC"].between(0, 1).all()


# ---------------------------------------------------------------------- wrong input


def test_wrong_input_is_told(make_model, make_engine, target, data, trained, generalist, tmp_path):
    def testing(datamodule=None, **options):
        make_engine().test(make_model(visualizer=False, **options), datamodule=datamodule or target())

    with pytest.raises(PromptError, match=r"'washer': k_shot=7: only 6 normal images.*washer"):
        testing(k_shot=7)
    with pytest.raises(PromptError, match="no such folder or file"):
        testing(prompts=str(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(PromptError, match="holds no images"):
        testing(prompts=str(tmp_path / "empty"))
    with pytest.raises(PromptError, match=r"prompt_selection='best'.*'representative'"):
        make_model(prompt_selection="best")
    with pytest.raises(PromptError, match="k_shot=-1"):
        make_model(k_shot=-1)
    with pytest.raises(ValueError, match=r"image_size=\(96, 64\)"):
        make_model().configure_pre_processor((96, 64))
    with pytest.raises(PretrainedWeightsError, match=r"none\.ckpt: no such weights file"):
        make_model(weights=str(tmp_path / "none.ckpt"))
    with pytest.raises(PromptError, match="No prompts are set"):
        make_engine().predict(make_model(visualizer=False), data_path=data / "washer/test/scratch")
    with pytest.raises(DatasetError, match="auxiliary"):
        make_engine().fit(make_model(visualizer=False), datamodule=generalist(auxiliary=False))


def test_checkpoint_of_another_model_is_refused_with_its_keys(make_model, make_engine, target, trained, tmp_path):
    saved = torch.load(trained, weights_only=True)
    foreign = {**saved, "hyper_parameters": {"layers": ["layer1"]}}
    torch.save(foreign, tmp_path / "foreign.ckpt")
    with pytest.raises(CheckpointError, match="backbone"):
        make_model(weights=str(tmp_path / "foreign.ckpt"))
    with pytest.raises(CheckpointError, match="backbone"):
        make_engine().test(make_model(visualizer=False), datamodule=target(), ckpt_path=tmp_path / "foreign.ckpt")
    saved["state_dict"].pop("model.image_scorer.head.layers.0.bias")
    torch.save(saved, tmp_path / "lacking.ckpt")
    model = make_model(weights=str(tmp_path / "lacking.ckpt"))
    for _ in range(2):  # the second time as well: there is no model without its heads
        with pytest.raises(CheckpointError, match=r"image_scorer\.head\.layers\.0\.bias"):
            _ = model.model
    with pytest.raises(CheckpointError, match=r"missing keys: \['model\.image_scorer\.head\.layers\.0\.bias'\]"):
        make_engine().test(make_model(visualizer=False), datamodule=target(), ckpt_path=tmp_path / "lacking.ckpt")
    with pytest.raises(CheckpointError, match=r"image_scorer\.head\.layers\.0\.bias"):
        make_engine().test(make_model(weights=str(tmp_path / "lacking.ckpt")), datamodule=target())
