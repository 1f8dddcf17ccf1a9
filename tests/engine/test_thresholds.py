# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Labels, masks and metrics only where a threshold is known; thresholds from normal images; metrics on raw scores."""

import pytest
import torch
from anomalib.data import ImageBatch, PredictDataset
from anomalib.metrics import AUPRO
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from anomalib_inctrl.errors import PromptError
from anomalib_inctrl.io.images import read_image
from anomalib_inctrl.models.components.evaluator import generalist_evaluator
from tests.engine.conftest import scores_of


def test_without_a_threshold_there_is_no_label_and_no_f1(make_model, make_engine, folder, washers, caplog):
    engine, model = make_engine(), make_model()
    (results,) = engine.test(model, datamodule=folder())
    assert "image_AUROC" in results
    assert results.keys() & {"image_F1Score", "pixel_AUROC"} == set()
    assert "No threshold is known" in caplog.text
    assert "pred_label" not in scores_of(engine)
    for batch in engine.predict(model, dataset=PredictDataset(washers)):
        assert batch.pred_label is None
        assert batch.pred_mask is None


def test_one_class_only_has_no_auroc(make_model, make_engine, target):
    datamodule = target()
    datamodule.setup()
    normal = datamodule.test_data.samples.label_index == 0
    datamodule.test_data.samples = datamodule.test_data.samples[normal].reset_index(drop=True)
    datamodule.setup = lambda stage=None: None
    (results,) = make_engine().test(make_model(), datamodule=datamodule)
    assert torch.tensor([results["image_AUROC"], results["image_AUPR"], results["pixel_AUROC"]]).isnan().all()


def test_maps_of_found_defects_are_not_blank_without_masks(make_model, make_engine, folder, washers, trained):
    engine = make_engine()
    engine.train(make_model(weights=str(trained)), datamodule=folder())
    post_processor = engine.model.post_processor
    assert post_processor.known() == (True, False)
    assert torch.isnan(post_processor.pixel_threshold)
    batches = engine.predict(engine.model, dataset=PredictDataset(washers.parent))
    maps = torch.cat([batch.anomaly_map.flatten(1) for batch in batches])
    assert maps.max() > 0.9  # of a normalised map, in which the largest value of the validation images is 1
    assert all(batch.pred_mask is None and batch.pred_label is not None for batch in batches)


def test_a_threshold_from_the_prompts_labels_images_and_pixels(make_model, make_engine, target):
    engine, model = make_engine(), make_model(k_shot=6, threshold="auto")
    (results,) = engine.test(model, datamodule=target())
    assert "image_F1Score" in results
    images = [model.pre_processor.transform(read_image(path)[None]) for path in model.prompt_files["washer"]]
    normal = model.model.held_out(torch.cat(images), "washer")
    assert float(model.post_processor.image_threshold) == pytest.approx(float(normal.score.max()))
    assert float(model.post_processor.pixel_threshold) == pytest.approx(float(normal.anomaly_map.max()))
    table = scores_of(engine)
    assert table.pred_label.to_list() == (table.score > float(normal.score.max())).to_list()
    expected = [(1 + sum(normal.score >= score).item()) / 7 for score in table.score]
    assert table.p_value.to_list() == pytest.approx(expected)


def test_a_number_is_the_threshold_of_images_alone(make_model, make_engine, target):
    engine, model = make_engine(), make_model(threshold=0.4)
    engine.test(model, datamodule=target())
    assert model.post_processor.known() == (True, False)
    table = scores_of(engine)
    assert table.pred_label.to_list() == (table.score > 0.4).to_list()


def test_thresholds_that_cannot_be_had_are_refused(make_model, make_engine, target, generalist, prompts):
    with pytest.raises(ValueError, match="threshold=7"):
        make_model(threshold=7)
    with pytest.raises(ValueError, match="calibration has no effect"):
        make_model(calibration=prompts["prompts"])
    with pytest.raises(PromptError, match=r"false_alarm_rate=0.05 needs 19 normal images"):
        make_engine().test(make_model(threshold="auto", false_alarm_rate=0.05), datamodule=target())
    with pytest.raises(PromptError, match="one class"):
        make_engine().test(make_model(threshold="auto"), datamodule=generalist(auxiliary=None))
    calibrated = make_model(threshold="auto", false_alarm_rate=0.15, calibration=prompts["prompts"])
    make_engine().test(calibrated, datamodule=target())
    assert calibrated.post_processor.known() == (True, True)


@pytest.mark.parametrize("sizes", [[12], [5, 5, 2]])
def test_metrics_equal_scikit_learns(sizes):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(12) % 2 == 1
    scores = (0.3 * labels + 0.7 * torch.rand(12, generator=generator)).clamp(0, 1)
    masks = torch.zeros(12, 8, 8, dtype=torch.bool)
    masks[labels, 2:5, 3:6] = True
    maps = (0.3 * masks + 0.7 * torch.rand(12, 8, 8, generator=generator)).clamp(0, 1)
    images = torch.zeros(12, 3, 8, 8)
    evaluator = generalist_evaluator()
    for rows in torch.arange(12).split(sizes):
        batch = ImageBatch(
            image=images[rows], gt_label=labels[rows], gt_mask=masks[rows], pred_label=scores[rows] > 0.4
        )
        batch.raw_score, batch.raw_map = scores[rows], maps[rows]
        # What the post-processor leaves of the scores: clamped, and another order.
        batch.pred_score, batch.anomaly_map = ((raw[rows].flip(0) * 3).clamp(0, 1) for raw in (scores, maps))
        for metric in evaluator.test_metrics:
            metric.update(batch)
    aupro = AUPRO(fields=("anomaly_map", "gt_mask"))
    aupro.update(ImageBatch(image=images, anomaly_map=maps, gt_mask=masks))
    expected = {
        "image_AUROC": roc_auc_score(labels, scores),
        "image_AUPR": average_precision_score(labels, scores),
        "image_F1Score": f1_score(labels, scores > 0.4),
        "pixel_AUROC": roc_auc_score(masks.flatten(), maps.flatten()),
        "pixel_AUPR": average_precision_score(masks.flatten(), maps.flatten()),
        "pixel_AUPRO": float(aupro.compute()),
    }
    found = {metric.name: float(metric.compute()) for metric in evaluator.test_metrics}
    assert found == pytest.approx(expected, abs=1e-6)
