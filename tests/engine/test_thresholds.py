# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Labels, masks and metrics only where a threshold is known; thresholds from normal images."""

import csv
from pathlib import Path

import pytest
import torch
from anomalib.data import Folder, PredictDataset
from anomalib.deploy import TorchInferencer

from anomalib_inctrl import InCTRLv2
from anomalib_inctrl.errors import PromptError
from anomalib_inctrl.io.images import read_image

QUIET = {"visualizer": False}


def folder(data, **options):
    """A labelled folder without masks, all of its images in one test set."""
    options = {"num_workers": 0, "val_split_mode": "same_as_test"} | options
    root = data / "washer"
    kinds = [f"test/{path.name}" for path in (root / "test").iterdir() if path.name != "good"]
    return Folder(
        name="washer", root=root, normal_dir="train/good", abnormal_dir=kinds, normal_test_dir="test/good", **options
    )


def rows(engine):
    return list(csv.DictReader(Path(engine.trainer.default_root_dir, "scores.csv").open()))


def test_without_a_threshold_there_is_no_label_and_no_f1(make_model, make_engine, data):
    engine, model = make_engine(), make_model(**QUIET)
    (results,) = engine.test(model, datamodule=folder(data))
    assert "image_AUROC" in results
    assert results.keys() & {"image_F1Score", "pixel_AUROC"} == set()
    assert "pred_label" not in rows(engine)[0]
    for batch in engine.predict(model, dataset=PredictDataset(data / "washer" / "test" / "good")):
        assert batch.pred_label is None
        assert batch.pred_mask is None


def test_one_class_only_has_no_auroc(make_model, make_engine, target):
    datamodule = target()
    datamodule.setup()
    normal = datamodule.test_data.samples.label_index == 0
    datamodule.test_data.samples = datamodule.test_data.samples[normal].reset_index(drop=True)
    datamodule.setup = lambda stage=None: None
    (results,) = make_engine().test(make_model(**QUIET), datamodule=datamodule)
    assert torch.tensor([results["image_AUROC"], results["image_AUPR"], results["pixel_AUROC"]]).isnan().all()


def test_maps_of_found_defects_are_not_blank_without_masks(make_model, make_engine, data, trained):
    engine = make_engine()
    engine.train(make_model(weights=str(trained), **QUIET), datamodule=folder(data))
    post_processor = engine.model.post_processor
    assert post_processor.known() == (True, False)
    assert torch.isnan(post_processor.pixel_threshold)
    batches = engine.predict(engine.model, dataset=PredictDataset(data / "washer" / "test"))
    maps = torch.cat([batch.anomaly_map.flatten(1) for batch in batches])
    assert maps.max() > 0.9  # of a normalised map, in which the largest value of the validation images is 1
    assert all(batch.pred_mask is None and batch.pred_label is not None for batch in batches)


@pytest.mark.parametrize("export", ["torch", "onnx"])
def test_exports_without_a_threshold_give_no_label(make_model, make_engine, data, tmp_path, export, monkeypatch):
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    model = make_model(prompts=str(data / "washer" / "train" / "good"), class_name="washer", blocks=[1], **QUIET)
    if export == "onnx" and type(model) is not InCTRLv2:
        pytest.skip("takes long, and one model is enough")
    path = make_engine().export(model, export, export_root=tmp_path)
    if export == "torch":
        result = TorchInferencer(path).predict(sorted((data / "washer" / "test" / "good").iterdir())[0])
        assert result.pred_score is not None
        assert result.pred_label is None
        assert result.pred_mask is None
    else:
        import onnx

        assert [output.name for output in onnx.load(path).graph.output] == ["pred_score", "anomaly_map"]


def test_a_threshold_from_the_prompts_labels_images_and_pixels(make_model, make_engine, target, data):
    engine, model = make_engine(), make_model(k_shot=6, threshold="auto", **QUIET)
    (results,) = engine.test(model, datamodule=target())
    assert "image_F1Score" in results
    prompts = model.prompt_files["washer"]
    images = torch.cat([model.pre_processor.transform(read_image(path)[None]) for path in prompts])
    normal = model.model.held_out(images, "washer")
    assert float(model.post_processor.image_threshold) == pytest.approx(float(normal.score.max()))
    assert float(model.post_processor.pixel_threshold) == pytest.approx(float(normal.anomaly_map.max()))
    for row in rows(engine):
        score = float(row["score"])
        assert (row["pred_label"] == "1") == (score > float(normal.score.max()))
        assert float(row["p_value"]) == pytest.approx((1 + sum(normal.score >= score).item()) / 7)


def test_a_number_is_the_threshold_of_images_alone(make_model, make_engine, target):
    engine, model = make_engine(), make_model(threshold=0.4, **QUIET)
    engine.test(model, datamodule=target())
    assert model.post_processor.known() == (True, False)
    assert all((row["pred_label"] == "1") == (float(row["score"]) > 0.4) for row in rows(engine))


def test_thresholds_that_cannot_be_had_are_refused(make_model, make_engine, target, generalist, data):
    with pytest.raises(ValueError, match="threshold=7"):
        make_model(threshold=7)
    with pytest.raises(ValueError, match="calibration has no effect"):
        make_model(calibration=str(data))
    with pytest.raises(PromptError, match=r"false_alarm_rate=0.05 needs 19 normal images"):
        make_engine().test(make_model(threshold="auto", false_alarm_rate=0.05, **QUIET), datamodule=target())
    with pytest.raises(PromptError, match="one class"):
        make_engine().test(make_model(threshold="auto", **QUIET), datamodule=generalist(auxiliary=False))
    calibrated = make_model(
        threshold="auto", false_alarm_rate=0.15, calibration=str(data / "washer/train/good"), **QUIET
    )
    make_engine().test(calibrated, datamodule=target())
    assert calibrated.post_processor.known() == (True, True)
