# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The app without its page: predictions, uploads and their limits, and what keeps the app from starting."""

import csv
import io
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from anomalib_inctrl import Detector
from anomalib_inctrl.app import run
from anomalib_inctrl.app.service import (
    UNTRAINED,
    PredictionService,
    check_prompts,
    render_example,
    score_table,
    summary,
    to_csv,
)
from anomalib_inctrl.errors import CheckpointError, ImageFileError, PromptError
from tests.shared import DEMO


@pytest.fixture(scope="module")
def service(checkpoints):
    return PredictionService([checkpoints], device="cpu")


@pytest.fixture
def ask(service):
    def ask(prompts, queries, class_name="washer", model="InCTRLv2", weights=UNTRAINED):
        return service.predict(prompts, queries, class_name, model, weights)

    return ask


def scores(result):
    return [prediction.score for prediction in result.predictions]


def test_checkpoints_of_equal_names_are_offered_with_their_folders(service):
    assert service.models == ["InCTRLv2", "InCTRL"]
    assert service.weights_of("InCTRLv2") == [UNTRAINED, "model.ckpt"]
    assert service.weights_of("InCTRL") == [UNTRAINED, "model.ckpt", "InCTRL/model.ckpt"]


@pytest.mark.parametrize(
    ("model", "weights", "shifts"),
    [("InCTRLv2", UNTRAINED, None), ("InCTRL", "model.ckpt", None), ("InCTRLv2", UNTRAINED, 2)],
)
def test_predictions_are_those_of_the_detector(checkpoints, good, queries, model, weights, shifts):
    service = PredictionService([checkpoints], device="cpu", prompt_shifts=shifts)
    result = service.predict(good[:3], queries[:5], "  steel\n washer ", model, weights)
    path = None if weights == UNTRAINED else checkpoints / model / "model.ckpt"
    detector = Detector(path, **DEMO, device="cpu", prompt_shifts=shifts)
    detector.set_prompts(good[:3], class_name="steel washer")
    expected = {prediction.name: prediction.score for prediction in detector.predict(queries[:5])}
    assert {found.name: found.score for found in result.predictions} == pytest.approx(expected, abs=1e-6)
    assert scores(result) == sorted(scores(result), reverse=True)
    normals = detector.held_out_scores(good[:3], "steel washer")
    for prediction in result.predictions:
        assert prediction.threshold == pytest.approx(max(normals), abs=1e-6)
        assert prediction.label == (prediction.score > prediction.threshold)
        assert prediction.p_value == (1 + sum(normal >= prediction.score for normal in normals)) / 4
    assert result.left_out == []
    assert service.detector(model, weights).class_names == []  # the prompts of a request do not stay


def test_requests_at_the_same_time_do_not_share_prompts(ask, good, queries):
    requests = [(good[:1], queries[:4], "washer"), (queries[-1:], queries[:4], "ring"), (good[1:3], queries[:4])]
    alone = [scores(ask(*request)) for request in requests]
    with ThreadPoolExecutor(len(requests)) as pool:
        assert alone == [scores(result) for result in pool.map(lambda request: ask(*request), requests)]
    assert alone[0] != alone[1]


def test_images_that_cannot_be_read_are_left_out_and_named(ask, good, queries, hostile):
    folder, messages = hostile
    names = ["page.png", "cut.jpg"]
    broken = [str(folder / name) for name in names]
    result = ask(good[:1], [broken[0], queries[0], broken[1], queries[1]])
    assert len(result.predictions) == 2
    for message, name in zip(result.left_out, names, strict=True):
        assert re.match(messages[name], message)
    for prompts, images in ((good[:1], broken), ([*broken, good[0]], queries)):
        with pytest.raises(ImageFileError) as found:
            ask(prompts, images)
        assert [line.split(":")[0] for line in str(found.value).splitlines()] == names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": []}, "No normal references yet. Drop 1 to 8."),
        ({"prompts": ["x.png"] * 9}, "9 normal references are too many. Drop 1 to 8."),
        ({"queries": None}, "No images to inspect yet. Drop 1 to 64."),
        ({"class_name": " \n"}, "Name what the images show, in 1 to 80 letters."),
        ({"class_name": "x" * 81}, "Name what the images show"),
        ({"model": "WinClip"}, "no weights 'training-free' for WinClip"),
        ({"weights": "/etc/passwd"}, "no weights '/etc/passwd' for InCTRLv2"),
    ],
)
def test_requests_outside_the_limits_are_refused(ask, good, queries, change, message):
    with pytest.raises((ImageFileError, PromptError, CheckpointError), match=re.escape(message)):
        ask(**{"prompts": good[:1], "queries": queries[:1]} | change)


def test_messages_about_hostile_files_do_not_name_the_servers_folders(hostile):
    folder, messages = hostile
    for name, message in messages.items():
        with pytest.raises(ImageFileError, match=message) as found:
            check_prompts([str(folder / name)])
        assert str(folder) not in str(found.value)


def test_the_table_holds_no_formulas_and_keeps_the_numbers(ask, good, queries, tmp_path):
    path = tmp_path / "=HYPERLINK(1),2.png"
    path.write_bytes(Path(queries[0]).read_bytes())
    result = ask(good[:1], [str(path), queries[1]], "@washer")
    known, unknown = (
        list(csv.DictReader(io.StringIO(to_csv(score_table(result.predictions, threshold)))))
        for threshold in (sum(scores(result)) / 2, None)
    )
    assert {row["image_path"] for row in known} == {"'=HYPERLINK(1),2.png", Path(queries[1]).name}
    assert {row["class_name"] for row in known} == {"'@washer"}
    assert [row["pred_label"] for row in known] == ["1", "0"]
    assert {row[name] for row in unknown for name in ("threshold", "pred_label", "p_value")} == {""}
    assert [float(row["score"]) for row in known] == pytest.approx(scores(result), rel=1e-8)
    assert {"text_score", "patch_score"} <= known[0].keys()


@pytest.mark.parametrize(
    ("count", "rank", "words"),
    [
        (4, None, "At most about 1 in 5 normal images"),
        (4, 0, "About 1 in 5 normal images will be labelled anomalous, by your 4 normal references."),
        (4, 2, "About 3 in 5 normal images"),
        (2, 0, "About 1 in 3 normal images"),
    ],
)
def test_labels_are_counted_and_false_alarms_are_put_in_words(ask, good, queries, count, rank, words):
    predictions = ask(good[:count], queries).predictions
    normals = sorted(predictions[0].normal_scores, reverse=True)
    threshold = normals[0] + 0.05 if rank is None else normals[rank]
    anomalous = sum(prediction.score > threshold for prediction in predictions)
    text = summary(predictions, 2, threshold)
    assert text.startswith(f"{anomalous} anomalous, {len(queries) - anomalous} normal, 2 unreadable. {words}")
    table = score_table(predictions, threshold)
    assert table.pred_label.tolist() == [1] * anomalous + [0] * (len(queries) - anomalous)


def test_a_single_reference_gives_scores_and_no_labels(ask, good, queries):
    predictions = ask(good[:1], queries).predictions
    assert {prediction.threshold for prediction in predictions} == {None}
    assert summary(predictions, 0, None).startswith(f"{len(queries)} scored, 0 unreadable. A single reference")


def test_the_example_has_references_and_images_of_different_names(tmp_path):
    prompts, name, queries = render_example(tmp_path)
    assert (name, len(prompts), len({Path(path).name for path in queries}), len(queries)) == ("washer", 4, 8, 8)
    assert check_prompts(prompts)
    assert check_prompts(queries)


@pytest.mark.parametrize(
    ("gradio", "arguments", "message"),
    [
        (False, [], "pip install 'anomalib-inctrl[app]'"),
        (True, ["--weights", "none.ckpt"], "no such weights file"),
        (True, ["--weights", "notes.ckpt"], "refused"),
        (True, ["--weights", "."], "no .ckpt"),
        (True, ["--backbone", "ViT-X"], "backbone='ViT-X'"),
        (True, ["--prompt_shifts", "0"], "prompt_shifts=0"),
    ],
)
def test_what_keeps_the_app_from_starting_is_reported(tmp_path, monkeypatch, capsys, gradio, arguments, message):
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: object() if gradio else None)
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"):
        monkeypatch.setenv(name, "")
    monkeypatch.chdir(tmp_path)
    if "notes.ckpt" in arguments:
        Path("notes.ckpt").write_text("not a checkpoint")
    assert run.main(arguments) == 1
    assert message in capsys.readouterr().err
