# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The detector, compared with anomalib's engine where both do the same."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_inctrl import Detector, InCTRL, InCTRLv2, predictor
from anomalib_inctrl.errors import ImageFileError, PromptError
from anomalib_inctrl.io.images import read_image
from tests.shared import DEMO

both = pytest.mark.parametrize("kind", [InCTRL, InCTRLv2])


def trained(kind, **options):
    """A model whose heads count as trained; random heads are as good as any for comparing."""
    model = kind(**DEMO, visualizer=False, **options).eval()
    model.model.heads_trained = True
    return model


def with_prompts(detector, images):
    detector.set_prompts(images, class_name="washer")
    return detector


def scores(predictions):
    return [prediction.score for prediction in predictions]


@pytest.fixture(scope="module")
def make_detector():
    def make(weights=None, **options):
        return Detector(weights, **DEMO | {"device": "cpu"} | options)

    return make


@pytest.fixture(scope="module")
def detector(make_detector, good):
    """A detector with four prompts; tests do not change it."""
    detector = make_detector()
    detector.set_prompts(good[:4], class_name="washer")
    return detector


@pytest.fixture(scope="module")
def odd_images(tmp_path_factory, queries):
    """Queries of several sizes and shapes in one folder."""
    folder = tmp_path_factory.mktemp("odd")
    for index, size in enumerate([(240, 240), (300, 200), (97, 181)]):
        Image.open(queries[index]).resize(size).save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize(("kind", "resize_mode"), [(InCTRL, "squash"), (InCTRLv2, "center_crop")])
def test_scores_and_maps_are_those_of_anomalibs_predict(kind, resize_mode, good, odd_images, make_engine):
    prompts = {"prompts": [str(path) for path in good[:3]], "class_name": "washer"}
    module = trained(kind, resize_mode=resize_mode, **prompts)
    detector = with_prompts(Detector(trained(kind, resize_mode=resize_mode), device="cpu", batch_size=2), good[:3])
    predictions = detector.predict(odd_images)
    assert [prediction.name for prediction in predictions] == sorted(str(path) for path in odd_images.iterdir())
    assert len({round(score, 6) for score in scores(predictions)}) == len(predictions)
    for prediction in predictions:
        # One image at a time: anomalib brings a batch of several sizes to one of them.
        (batch,) = make_engine().predict(module, data_path=prediction.name)
        assert prediction.score == pytest.approx(float(batch.pred_score), abs=1e-5)
        assert prediction.components["text_score"] == pytest.approx(float(batch.components.text_score), abs=1e-5)
        expected = batch.anomaly_map.squeeze().as_subclass(torch.Tensor)
        torch.testing.assert_close(prediction._map, expected, atol=1e-5, rtol=0)


@both
def test_bf16_scores_as_the_engine_does_and_its_prompts_serve_in_float32(kind, good, queries, make_engine, tmp_path):
    detector = with_prompts(Detector(trained(kind), device="cpu", precision="bf16"), good[:3])
    exact = with_prompts(Detector(trained(kind), device="cpu"), good[:3])
    found, expected = detector.predict(queries[:2]), exact.predict(queries[:2])
    module = trained(kind, prompts=[str(path) for path in good[:3]], class_name="washer")
    for prediction, other in zip(found, expected, strict=True):
        assert 0 < abs(prediction.score - other.score) < 0.02
        (batch,) = make_engine(precision="bf16-mixed").predict(module, data_path=prediction.name)
        assert prediction.score == pytest.approx(float(batch.pred_score), abs=2e-3)
    assert 0 < np.abs(np.subtract(detector.held_out_scores(good[:3]), exact.held_out_scores(good[:3]))).max() < 0.02
    restored = Detector(detector.save(tmp_path / "bf16.ckpt"), device="cpu")
    assert scores(restored.predict(queries[:2])) == pytest.approx(scores(expected), abs=0.02)


@pytest.mark.parametrize("size", [(301, 500), (480, 240)])
def test_with_a_centre_crop_the_map_is_nan_outside_the_crop(make_detector, good, size):
    height, width = size
    ramp = torch.arange(width).div(width).expand(3, height, width)
    (prediction,) = with_prompts(make_detector(resize_mode="center_crop"), good[:2]).predict(ramp)
    seen = np.isfinite(prediction.anomaly_map)
    assert seen.shape == size
    for inside, length in ((np.flatnonzero(seen.any(1)), height), (np.flatnonzero(seen.any(0)), width)):
        assert len(inside) == min(size)
        assert abs(inside[0] - (length - 1 - inside[-1])) <= 1
    assert prediction.heat_map().size == (width, height)


def test_scores_do_not_depend_on_batch_size_order_or_kind_of_input(detector, make_detector, good, queries):
    reference = detector.predict(queries)
    normal = [prediction.score for prediction in reference if "good" in prediction.name]
    assert np.mean(scores(reference)) > np.mean(normal)
    other = with_prompts(make_detector(batch_size=2), [Image.open(path) for path in good[:4]])
    images = [Image.open(queries[0]), np.asarray(Image.open(queries[1])), read_image(queries[2]), *queries[3:]]
    predictions = other.predict(images[::-1])[::-1]
    assert scores(predictions) == pytest.approx(scores(reference), abs=1e-5)
    for prediction, expected in zip(predictions, reference, strict=True):
        np.testing.assert_allclose(prediction.anomaly_map, expected.anomaly_map, atol=1e-5)
    assert predictions[0].name == f"images[{len(queries) - 1}]"


def test_a_stream_gives_the_same_predictions_before_all_files_are_read(make_detector, good, queries, tmp_path):
    detector = with_prompts(make_detector(batch_size=2), good[:4])
    broken = tmp_path / "broken.png"
    broken.write_bytes(queries[0].read_bytes()[:100])
    expected, found = detector.predict(queries), detector.stream([*queries, broken])
    for prediction in expected[:-1]:
        one = next(found)
        assert (one.name, one.score) == (prediction.name, prediction.score)
    with pytest.raises(ImageFileError, match=r"broken\.png"):
        list(found)


@pytest.mark.parametrize(("kind", "prompt_shifts"), [(InCTRL, 1), (InCTRLv2, 2)])
def test_held_out_scores_compare_each_image_with_the_others(kind, prompt_shifts, good):
    detector = Detector(trained(kind), device="cpu", batch_size=2, prompt_shifts=prompt_shifts)
    found = detector.held_out_scores(good[:3], class_name="washer")
    assert detector.class_names == []
    for row, score in enumerate(found):
        with_prompts(detector, [path for path in good[:3] if path != good[row]])
        assert scores(detector.predict(good[row])) == pytest.approx([score], abs=1e-6)
    with pytest.raises(PromptError, match="1 image cannot be compared with the others"):
        detector.held_out_scores(good[0])


def test_several_classes_are_kept_apart(make_detector, good, queries):
    detector = with_prompts(make_detector(), good[:2])
    first = scores(detector.predict(queries[0]))
    detector.set_prompts(queries[-2:], class_name="broken washer")
    assert detector.class_names == ["washer", "broken washer"]
    assert detector.predict(queries[0])[0].class_name == "broken washer"
    assert scores(detector.predict(queries[0], class_name="washer")) == first
    for name in ("nut", ""):
        with pytest.raises(PromptError, match=f"class_name='{name}'"):
            detector.predict(queries[0], class_name=name)
    detector.clear_prompts()
    with pytest.raises(PromptError, match=r"No prompts are set.*set_prompts\(images, class_name\)"):
        detector.predict("not even there.png")


@both
def test_a_saved_detector_predicts_the_same(kind, good, queries, make_engine, tmp_path):
    detector = with_prompts(Detector(trained(kind, resize_mode="center_crop"), device="cpu"), good[:2])
    detector.threshold = 0.4
    before = detector.predict(queries)
    path = detector.save(tmp_path / "new folder" / "washer.ckpt")
    assert [file.name for file in path.parent.iterdir()] == ["washer.ckpt"]
    # The model, the backbone and the settings are in the file.
    loaded = Detector(path, device="cpu")
    assert type(loaded.module) is kind
    assert loaded.class_names == ["washer"]
    after = loaded.predict(queries)
    assert scores(after) == scores(before)
    assert [prediction.label for prediction in after] == [prediction.label for prediction in before]
    # anomalib reads it too, thresholds included.
    (batch,) = make_engine().predict(kind(visualizer=False), data_path=queries[0], ckpt_path=path)
    assert float(batch.raw_score) == pytest.approx(before[0].score, abs=1e-5)
    assert bool(batch.pred_label) == before[0].label
    other = "InCTRL" if kind is InCTRLv2 else "InCTRLv2"
    with pytest.raises(ValueError, match=f"model='{other}': the weights given are of {kind.__name__}"):
        Detector(path, model=other)


def test_a_saved_threshold_holds_for_its_own_prompts_only(good, queries, tmp_path):
    detector = with_prompts(Detector(trained(InCTRLv2), device="cpu", threshold=0.2), good[:2])
    loaded = Detector(detector.save(tmp_path / "a.ckpt"), device="cpu")
    assert loaded.predict(queries[0])[0].threshold == pytest.approx(0.2)
    assert with_prompts(loaded, good[2:4]).predict(queries[0])[0].label is None
    again = Detector(loaded.save(tmp_path / "b.ckpt"), device="cpu")
    assert again.predict(queries[0])[0].label is None


def test_heat_maps_and_explanation_figures(detector, good, odd_images, tmp_path):
    predictions = detector.predict(odd_images)
    for prediction in predictions:
        path = prediction.save(tmp_path / "heat" / f"{prediction.size}.png")
        assert Image.open(path).size == prediction.size[::-1]
    assert max(predictions[1].heat_map(side=90).size) == 90
    # A range beyond all values leaves the plain image; one below them colours all of it.
    plain = np.asarray(predictions[0].heat_map(map_range=(10, 11)))
    assert (plain == np.asarray(predictions[0].image)).all()
    assert (np.asarray(predictions[0].heat_map(map_range=(-2, -1))) != plain).mean() > 0.9
    assert predictions[0].explain(good[:4], dpi=30).tobytes() != predictions[0].explain(dpi=30).tobytes()
    with pytest.raises(ValueError, match=r"heat\.xyz.*\.png"):
        predictions[0].save(tmp_path / "heat.xyz")
    assert not (tmp_path / "heat.xyz").exists()


@pytest.fixture
def drawn(monkeypatch):
    """Arguments of the explanation figures of predictions."""
    calls = []
    monkeypatch.setattr(predictor, "explanation_figure", lambda image, **arguments: calls.append(arguments))
    return calls


@pytest.mark.parametrize("calibrated", [False, True])
def test_figures_have_the_threshold_and_the_scores_of_normal_images(make_detector, good, queries, drawn, calibrated):
    detector, others = make_detector(threshold="auto"), with_prompts(make_detector(), good[:3])
    detector.set_prompts(good[:3], "washer", calibration=good[3:] if calibrated else None)
    normals = scores(others.predict(good[3:])) if calibrated else others.held_out_scores(good[:3], "washer")
    assert detector.normal_scores == {"washer": pytest.approx(normals, abs=1e-6)}
    prediction = detector.predict(queries[0])[0]
    prediction.explain()
    (shown,) = drawn
    assert shown["score"] == prediction.score
    assert shown["threshold"] == pytest.approx(max(normals), abs=1e-6)
    assert shown["normal_scores"] == pytest.approx(normals, abs=1e-6)
    if calibrated:
        peak = max(float(normal._map.max()) for normal in others.predict(good[3:]))
        assert shown["maps"]["anomaly map"][1:] == pytest.approx((0, 2 * peak, None), abs=1e-6)
    detector.clear_prompts()
    assert detector.normal_scores == {}


def test_figures_without_normal_images_do_not_invent_them(make_detector, good, queries, drawn):
    detector = make_detector()
    assert detector.normal_scores == {}
    for prompts in (good[:1], None):
        with_prompts(detector, prompts).predict(queries[0])[0].explain()
    one, zero = drawn
    assert list(one["normal_scores"]) == list(zero["normal_scores"]) == []
    assert one["threshold"] is zero["threshold"] is None
    assert one["maps"]["anomaly map"][1:] == (0, 0.3, None)
    assert set(one["components"]) == {"text score", "patch score"}
    assert set(zero["components"]) == {"text score"}  # a patch score would compare with nothing


def test_decisions_from_normal_images_keep_their_rate_and_survive_saving(make_detector, good, queries, tmp_path):
    detector = with_prompts(make_detector(threshold="auto", false_alarm_rate=0.5), good[:4])
    threshold = sorted(detector.normal_scores["washer"])[-2]  # the second of four: p-values up to 2/5
    found = detector.predict(queries)
    table = found.to_pandas()
    assert table["threshold"].tolist() == [threshold] * len(queries)
    assert table["label"].tolist() == [score > threshold for score in table["score"]]
    assert table["label"].tolist() == [value <= 0.5 for value in table["p_value"]]
    assert table["name"].tolist() == [str(path) for path in queries]
    assert table["patch_score"].tolist() == [prediction.components["patch_score"] for prediction in found]
    again = Detector(detector.save(tmp_path / "washer.ckpt"), device="cpu").predict(queries)
    assert [prediction.label for prediction in again] == table["label"].tolist()


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({"threshold": "auto"}, {"images": 1}, "found 1"),
        ({"threshold": "auto", "false_alarm_rate": 0.05}, {"images": 4}, "needs 19 normal images"),
        ({"threshold": "auto", "false_alarm_rate": 0.1}, {"images": 2, "calibration": 3}, "needs 9 normal images"),
        ({}, {"images": 2, "calibration": 3}, "calibration has no effect"),
    ],
)
def test_too_few_normal_images_are_refused(make_detector, good, options, arguments, message):
    detector = make_detector(**options)
    with pytest.raises(ValueError, match=message):
        detector.set_prompts(class_name="washer", **{name: good[:count] for name, count in arguments.items()})
    assert detector.class_names == []


def test_text_prompts_are_examined_logged_and_shown(detector, good, queries, caplog):
    with caplog.at_level("INFO"):
        with_prompts(detector, good[:4])
    for part in ("does not know 'washer'", "cosine of the text prototypes"):
        assert sum(part in message for message in caplog.messages) == 1
    alignment = detector.text_alignment()
    assert (alignment.class_name, alignment.unknown_words) == ("washer", ("washer",))
    expected = [prediction.components["text_score"] for prediction in detector.predict(good[:4])]
    assert alignment.normal_scores == pytest.approx(expected, abs=1e-5)
    prediction = detector.predict(queries[0])[0]
    assert prediction.explain() != dataclasses.replace(prediction, text_alignment=None).explain()


def test_automatic_text_prompts_stay_with_a_saved_detector_and_in_an_export(good, queries, tmp_path):
    module = InCTRLv2(**DEMO, text_prompts="automatic")
    detector = with_prompts(Detector(module, device="cpu"), good[:3])
    first = detector.predict(queries[:2])
    again = Detector(detector.save(tmp_path / "washer.ckpt"), device="cpu")
    assert again.module.hparams["text_prompts"] == "automatic"
    assert [item.components for item in again.predict(queries[:2])] == [item.components for item in first]
    exported = torch.load(module.to_torch(tmp_path), weights_only=False)["model"]
    assert torch.equal(exported.model.bank.select().prototypes, module.model.bank.select().prototypes)
    assert scores(with_prompts(again, good[:3]).predict(queries[:2])) == scores(first)
