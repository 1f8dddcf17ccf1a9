# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The five lines, against anomalib's engine where both do the same."""

import copy
import pickle

import numpy as np
import pytest
import torch
from anomalib.engine import Engine
from PIL import Image

from anomalib_inctrl import Detector, InCTRL, InCTRLv2
from anomalib_inctrl.errors import BackboneError, CheckpointError, ImageFileError, PretrainedWeightsError, PromptError
from anomalib_inctrl.io.images import read_image

DEMO = {"backbone": "mini-clip-16-240", "pretrained": "demo"}


def engine(folder):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    return Engine(**quiet, default_root_dir=folder)


def trained(kind, **options):
    """A model whose heads count as trained; random heads are as good as any for comparing."""
    model = kind(**DEMO | options).eval()
    model.model.heads_trained = True
    return model


@pytest.fixture(scope="module")
def odd_pictures(tmp_path_factory, queries):
    """Queries of several sizes and shapes in one folder, as people have them."""
    folder = tmp_path_factory.mktemp("odd")
    for index, size in enumerate([(240, 240), (300, 200), (97, 181)]):
        Image.open(queries[index]).resize(size).save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize(("kind", "resize_mode"), [(InCTRL, "squash"), (InCTRLv2, "center_crop")])
def test_scores_and_maps_are_those_of_anomalibs_predict(kind, resize_mode, good, odd_pictures, tmp_path):
    options = {"resize_mode": resize_mode, "prompts": [str(path) for path in good[:3]], "class_name": "washer"}
    module = trained(kind, visualizer=False, **options)
    expected = {}
    # One picture at a time: anomalib brings a batch of several sizes to one of them.
    for path in sorted(odd_pictures.glob("*.png")):
        (batch,) = engine(tmp_path).predict(module, data_path=path)
        expected[batch.image_path[0]] = batch
    detector = Detector(trained(kind, resize_mode=resize_mode), device="cpu", batch_size=2)
    detector.set_prompts(good[:3], class_name="washer")
    results = detector.predict(odd_pictures)
    assert [result.name for result in results] == sorted(expected)
    assert len({round(result.score, 6) for result in results}) == len(results)
    for result in results:
        batch = expected[result.name]
        assert result.score == pytest.approx(float(batch.pred_score), abs=1e-5)
        assert result.components["text_score"] == pytest.approx(float(batch.components.text_score), abs=1e-5)
        torch.testing.assert_close(
            result._map, batch.anomaly_map.squeeze().as_subclass(torch.Tensor), atol=1e-5, rtol=0
        )


def test_the_map_lies_on_the_picture(detector, good, queries):
    """A black square in a corner of a wide picture is found in that corner of the map."""
    picture = np.asarray(Image.open(good[5]).convert("RGB").resize((480, 240))).copy()
    picture[160:220, 380:460] = (255, 0, 255)
    (result,) = detector.predict(picture)
    found = result.anomaly_map
    assert found.shape == picture.shape[:2] == result.size
    assert found.dtype == np.float32
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert 140 < row < 240
    assert 350 < column < 480
    # At the model's own size the map is the model's.
    (same,) = detector.predict(queries[0])
    assert (same.anomaly_map == same._map.numpy()).all()


@pytest.mark.parametrize("size", [(240, 480), (480, 240), (301, 500), (97, 240), (50, 1000)])
def test_with_a_centre_crop_the_map_says_where_it_did_not_look(make_detector, good, size):
    detector = make_detector(resize_mode="center_crop")
    detector.set_prompts(good[:2], class_name="washer")
    height, width = size
    column = torch.arange(width).div(width).expand(3, height, width)
    (result,) = detector.predict(column)
    seen = np.isfinite(result.anomaly_map)
    assert result.anomaly_map.shape == size
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    assert abs(len(rows) - min(size)) <= 1
    assert abs(len(columns) - min(size)) <= 1
    assert abs(rows[0] - (height - 1 - rows[-1])) <= 2
    assert abs(columns[0] - (width - 1 - columns[-1])) <= 2
    # What the preprocessing cut out has the colours of the columns that count as seen.
    transform = detector.module.pre_processor.transform.transforms[0]
    kept = transform(column[None])[0, 0].mean(0)
    shorter = min(size)
    assert float(kept[0]) * width == pytest.approx(columns[0], abs=shorter / 240 + 3)
    assert float(kept[-1]) * width == pytest.approx(columns[-1], abs=shorter / 240 + 3)
    assert result.heat_map().size == (width, height)


def test_defects_score_higher(detector, queries):
    results = detector.predict(queries)
    normal = [result.score for result in results if "good" in result.name]
    defect = [result.score for result in results if "good" not in result.name]
    assert np.mean(defect) > np.mean(normal)


def test_batches_order_and_forms_change_nothing(detector, make_detector, good, queries):
    reference = detector.predict(queries)
    other = make_detector(batch_size=2)
    other.set_prompts([Image.open(path) for path in good[:4]], class_name="washer")
    pictures = [Image.open(queries[0]), np.asarray(Image.open(queries[1])), read_image(queries[2]), *queries[3:]]
    results = other.predict(pictures[::-1])[::-1]
    assert [result.score for result in results] == pytest.approx([result.score for result in reference], abs=1e-5)
    for result, expected in zip(results, reference, strict=True):
        np.testing.assert_allclose(result.anomaly_map, expected.anomaly_map, atol=1e-5)
    assert results[0].name == f"images[{len(queries) - 1}]"


def test_labels_follow_the_threshold(make_detector, good, queries):
    detector = make_detector()
    detector.set_prompts(good[:2], class_name="washer")
    results = detector.predict(queries)
    assert {result.label for result in results} == {None}
    detector.threshold = float(np.median([result.score for result in results]))
    again = detector.predict(queries)
    assert [result.label for result in again] == [result.score > detector.threshold for result in results]
    assert {result.label for result in again} == {True, False}


@pytest.mark.parametrize("prompt_shifts", [1, 2])
@pytest.mark.parametrize("kind", [InCTRL, InCTRLv2])
def test_held_out_scores_are_those_of_each_picture_by_the_others(kind, prompt_shifts, good):
    detector = Detector(trained(kind), device="cpu", batch_size=2, prompt_shifts=prompt_shifts)
    found = detector.held_out_scores(good[:3], class_name="washer")
    assert detector.class_names == []
    for row, score in enumerate(found):
        detector.set_prompts([path for path in good[:3] if path != good[row]], class_name="washer")
        assert detector.predict(good[row])[0].score == pytest.approx(score, abs=1e-6)
    with pytest.raises(PromptError, match="1 picture cannot be judged by the others"):
        detector.held_out_scores(good[0])


def test_several_classes_live_side_by_side(make_detector, good, queries):
    detector = make_detector()
    detector.set_prompts(good[:2], class_name="washer")
    first = detector.predict(queries[0])[0].score
    detector.set_prompts(queries[-2:], class_name="broken washer")
    assert detector.class_names == ["washer", "broken washer"]
    assert detector.predict(queries[0])[0].class_name == "broken washer"
    assert detector.predict(queries[0], class_name="washer")[0].score == first
    with pytest.raises(PromptError, match="class_name='nut'"):
        detector.predict(queries[0], class_name="nut")
    with pytest.raises(PromptError, match="class_name=''"):
        detector.predict(queries[0], class_name="")
    detector.clear_prompts()
    with pytest.raises(PromptError, match="set_prompts"):
        detector.predict(queries[0])


def test_text_prompts_alone(make_detector, queries):
    detector = make_detector()
    detector.set_prompts(None, class_name="washer")
    (result,) = detector.predict(queries[0])
    assert result.score == result.components["text_score"]
    assert result.k_shot == 0


def test_the_forgotten_call_is_named(make_detector, tmp_path):
    with pytest.raises(PromptError, match=r"detector\.set_prompts\(images, class_name="):
        make_detector().predict(tmp_path / "not even there.png")


def test_mistakes_are_told_by_name(make_detector, detector, queries, tmp_path):
    with pytest.raises(PromptError, match="class_name=''"):
        detector.held_out_scores(queries, class_name="")
    with pytest.raises(PromptError, match="class_name=' '"):
        make_detector().set_prompts(queries[:1], class_name=" ")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    with pytest.raises(ImageFileError, match=r"broken\.png: 12 bytes"):
        detector.predict([*queries[:3], broken])
    with pytest.raises(ValueError, match=r"images\[1\]"):
        detector.predict([queries[0], np.zeros((3, 5, 5))])
    with pytest.raises(ValueError, match="model='WinClip'"):
        make_detector(model="WinClip")
    with pytest.raises(ValueError, match="device='gpu'"):
        make_detector(device="gpu")
    with pytest.raises(ValueError, match="batch_size=0"):
        make_detector(batch_size=0)
    with pytest.raises(BackboneError, match="backbone='ViT-X'"):
        Detector(backbone="ViT-X")
    with pytest.raises(PretrainedWeightsError, match=r"none\.ckpt: no such weights file"):
        make_detector(tmp_path / "none.ckpt")


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("code from a checkpoint was run",))


def test_a_checkpoint_with_code_or_of_something_else_is_refused(make_detector, tmp_path):
    torch.save({"state_dict": {}, "hyper_parameters": Trap()}, tmp_path / "hostile.ckpt")
    with pytest.raises(CheckpointError, match=r"hostile\.ckpt: refused"):
        make_detector(tmp_path / "hostile.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=r"other\.ckpt: found no checkpoint of InCTRL"):
        make_detector(tmp_path / "other.ckpt")


@pytest.mark.parametrize("kind", [InCTRL, InCTRLv2])
def test_saved_and_loaded_it_says_the_same(kind, make_detector, good, queries, tmp_path):
    detector = Detector(trained(kind, resize_mode="center_crop"), device="cpu")
    detector.set_prompts(good[:2], class_name="washer")
    detector.threshold = 0.4
    before = detector.predict(queries)
    path = detector.save(tmp_path / "new folder" / "washer.ckpt")
    assert [file.name for file in path.parent.iterdir()] == ["washer.ckpt"]
    # Which model it is, the backbone and the settings are in the file.
    loaded = Detector(path, device="cpu")
    assert type(loaded.module) is kind
    assert loaded.class_names == ["washer"]
    after = loaded.predict(queries)
    assert [result.score for result in after] == [result.score for result in before]
    assert [result.label for result in after] == [result.label for result in before]
    # anomalib reads it too, thresholds included.
    (batch,) = engine(tmp_path).predict(kind(visualizer=False), data_path=queries[0], ckpt_path=path)
    assert float(batch.raw_score) == pytest.approx(before[0].score, abs=1e-5)
    assert bool(batch.pred_label) == before[0].label
    with pytest.raises(CheckpointError, match=f"a checkpoint of {kind.__name__}"):
        Detector(path, model="InCTRL" if kind is InCTRLv2 else "InCTRLv2")


def test_a_checkpoints_threshold_is_for_its_own_prompts(good, queries, tmp_path):
    module = trained(InCTRLv2)
    detector = Detector(module, device="cpu")
    detector.set_prompts(good[:2], class_name="washer")
    detector.threshold = 0.2
    detector.save(tmp_path / "a.ckpt")
    loaded = Detector(tmp_path / "a.ckpt", device="cpu")
    assert loaded.predict(queries[0])[0].threshold == pytest.approx(0.2)
    loaded.set_prompts(good[2:4], class_name="washer")
    assert loaded.predict(queries[0])[0].label is None
    # Nor does it come back by way of a file.
    loaded.save(tmp_path / "b.ckpt")
    assert Detector(tmp_path / "b.ckpt", device="cpu").predict(queries[0])[0].label is None


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))], ids=["copy", "pickle"])
def test_copies_say_the_same(clone, detector, queries):
    expected = detector.predict(queries[:2])
    assert [result.score for result in clone(detector).predict(queries[:2])] == [result.score for result in expected]
    (copied, _) = clone(expected)
    assert (copied.anomaly_map == expected[0].anomaly_map).all()


def test_drawings(detector, good, odd_pictures, tmp_path):
    results = detector.predict(odd_pictures)
    for result in results:
        path = result.save(tmp_path / "heat" / f"{result.size}.png")
        assert Image.open(path).size == result.size[::-1]
    assert max(results[1].heat_map(side=90).size) == 90
    # A range beyond all values leaves the plain picture; one below them paints it all.
    plain = np.asarray(results[0].heat_map(map_range=(10, 11)))
    assert (plain == np.asarray(results[0].picture)).all()
    assert (np.asarray(results[0].heat_map(map_range=(-2, -1))) != plain).mean() > 0.9
    with_prompts, without = results[0].sheet(good[:4]), results[0].sheet()
    assert with_prompts.tobytes() != without.tobytes()
    with pytest.raises(ValueError, match=r"heat\.xyz.*\.png"):
        results[0].save(tmp_path / "heat.xyz")
    assert not (tmp_path / "heat.xyz").exists()


def test_a_picture_that_is_gone_can_no_longer_be_drawn(detector, queries, tmp_path):
    path = tmp_path / "copy.png"
    path.write_bytes(queries[0].read_bytes())
    (result,) = detector.predict(path)
    path.unlink()
    assert result.anomaly_map.shape == (240, 240)
    with pytest.raises(ImageFileError, match=r"copy\.png: no such file"):
        result.heat_map()


def test_the_training_free_floor_says_so(make_detector, caplog):
    make_detector()
    assert "training-free floor" in caplog.text
