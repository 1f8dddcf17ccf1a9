# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The app without its page: predictions, uploads and their limits, and what keeps the app from starting."""

import csv
import io
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from anomalib_inctrl import Detector
from anomalib_inctrl.app import run
from anomalib_inctrl.app.service import UNTRAINED, PredictionService, score_table, to_csv
from anomalib_inctrl.app.uploads import Limits, check_image
from anomalib_inctrl.errors import CheckpointError, ImageFileError, PromptError


@pytest.fixture(scope="module")
def service(checkpoints):
    return PredictionService([checkpoints], device="cpu", limits=Limits(prompts=3, queries=5, megabytes=1, letters=20))


def scores(result):
    return [prediction.score for prediction in result.predictions]


def test_checkpoints_of_equal_names_are_offered_with_their_folders(service):
    assert service.models == ["InCTRLv2", "InCTRL"]
    assert service.weights_of("InCTRLv2") == [UNTRAINED, "model.ckpt"]
    assert service.weights_of("InCTRL") == [UNTRAINED, "model.ckpt", "InCTRL/model.ckpt"]


@pytest.mark.parametrize(
    ("model", "weights", "prompt_shifts"),
    [("InCTRLv2", UNTRAINED, None), ("InCTRL", "model.ckpt", None), ("InCTRLv2", UNTRAINED, 2)],
)
def test_predictions_are_those_of_the_detector(checkpoints, good, queries, model, weights, prompt_shifts):
    service = PredictionService([checkpoints], device="cpu", prompt_shifts=prompt_shifts)
    result = service.predict(good[:3], queries[:5], "  steel\n washer ", model, weights)
    path = None if weights == UNTRAINED else checkpoints / model / "model.ckpt"
    detector = Detector(path, backbone="mini-clip-16-240", pretrained="demo", device="cpu", prompt_shifts=prompt_shifts)
    detector.set_prompts(good[:3], class_name="steel washer")
    expected = {prediction.name: prediction for prediction in detector.predict(queries[:5])}
    assert {prediction.name for prediction in result.predictions} == expected.keys()
    for prediction in result.predictions:
        assert prediction.score == pytest.approx(expected[prediction.name].score, abs=1e-6)
    assert scores(result) == sorted(scores(result), reverse=True)
    assert result.highest_normal == pytest.approx(max(detector.held_out_scores(good[:3], "steel washer")), abs=1e-6)
    assert result.left_out == []
    assert service.detector(model, weights).class_names == []  # the prompts of a request do not stay


def test_requests_at_the_same_time_do_not_share_prompts(service, good, queries):
    asked = [(good[:1], "washer"), (queries[-1:], "ring"), (good[1:3], "washer")]

    def ask(request):
        return service.predict(request[0], queries[:4], request[1], "InCTRLv2", UNTRAINED)

    alone = [ask(request) for request in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(ask, asked))
    assert [scores(result) for result in alone] == [scores(result) for result in together]
    assert scores(alone[0]) != scores(alone[1])
    assert alone[0].highest_normal is None  # one reference has no other to be compared with


def test_images_that_cannot_be_read_are_left_out_and_named(service, good, queries, hostile):
    folder, messages = hostile
    broken = [str(folder / name) for name in ("page.png", "cut.png")]
    result = service.predict(good[:1], [broken[0], queries[0], broken[1], queries[1]], "washer", "InCTRLv2", UNTRAINED)
    assert len(result.predictions) == 2
    for message, name in zip(result.left_out, ("page.png", "cut.png"), strict=True):
        assert re.match(messages[name], message)
    for prompts, images in ((good[:1], broken), ([good[0], broken[0]], queries[:1])):
        with pytest.raises(ImageFileError, match=r"page\.png"):
            service.predict(prompts, images, "washer", "InCTRLv2", UNTRAINED)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": None}, "No normal references yet. Drop 1 to 3."),
        ({"prompts": 4}, "4 normal references are too many. Drop 1 to 3."),
        ({"queries": []}, "No images to inspect yet. Drop 1 to 5."),
        ({"queries": 6}, "6 images to inspect are too many. Drop 1 to 5."),
        ({"class_name": " \n"}, "Name what the images show, in 1 to 20 letters."),
        ({"class_name": None}, "Name what the images show"),
        ({"class_name": "x" * 21}, "Name what the images show"),
        ({"model": "WinClip"}, "no weights 'training-free' for WinClip"),
        ({"weights": "/etc/passwd"}, "no weights '/etc/passwd' for InCTRLv2"),
    ],
)
def test_requests_outside_the_limits_are_refused(service, good, queries, change, message):
    request = {"prompts": 1, "queries": 1, "class_name": "washer", "model": "InCTRLv2", "weights": UNTRAINED} | change
    for name, source in (("prompts", good), ("queries", queries)):
        if isinstance(request[name], int):
            request[name] = source[: request[name]]
    with pytest.raises((ImageFileError, PromptError, CheckpointError), match=re.escape(message)):
        service.predict(**request)


def test_messages_about_hostile_files_do_not_name_the_servers_folders(hostile):
    folder, messages = hostile
    for name, message in messages.items():
        with pytest.raises(ImageFileError, match=message) as found:
            check_image(folder / name, Limits())
        assert str(folder) not in str(found.value)


def test_large_files_are_refused_unread(tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(b"0" * (2**20 + 1))
    with pytest.raises(ImageFileError, match=r"large\.png: 1\.0 MB; at most 1 MB"):
        check_image(path, Limits(megabytes=1))


def test_the_table_holds_no_formulas_and_keeps_the_numbers(service, good, queries, tmp_path):
    path = tmp_path / "=HYPERLINK(1),2.png"
    path.write_bytes(Path(queries[0]).read_bytes())
    result = service.predict(good[:1], [str(path), queries[1]], "@washer", "InCTRLv2", UNTRAINED)
    between = sum(scores(result)) / 2
    rows = list(csv.DictReader(io.StringIO(to_csv(score_table(result.predictions, between)))))
    assert {row["image_path"] for row in rows} == {"'=HYPERLINK(1),2.png", Path(queries[1]).name}
    assert {row["class_name"] for row in rows} == {"'@washer"}
    assert [row["pred_label"] for row in rows] == ["1", "0"]
    assert [float(row["score"]) for row in rows] == pytest.approx(scores(result), rel=1e-8)
    assert {"text_score", "patch_score"} <= rows[0].keys()
    assert to_csv(score_table([], 0.5)).strip() == ""


def test_the_example_has_references_and_images_of_different_names(tmp_path):
    prompts, name, queries = run.render_example(tmp_path)
    assert name == "washer"
    assert len(prompts) == 4
    assert len({Path(path).name for path in queries}) == len(queries) == 8
    for path in prompts + queries:
        check_image(Path(path), Limits())


@pytest.fixture
def with_gradio(monkeypatch):
    """What is tested here is reported before Gradio is needed."""
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "")


def test_without_gradio_the_command_names_the_package_to_install(monkeypatch, capsys):
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)
    assert run.main([]) == 1
    assert "pip install 'anomalib-inctrl[app]'" in capsys.readouterr().err


@pytest.mark.usefixtures("with_gradio")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "none.ckpt"], "no such weights file"),
        (["--weights", "notes.ckpt"], "refused"),
        (["--weights", "empty"], "no .ckpt"),
        (["--backbone", "ViT-X"], "backbone='ViT-X'"),
        (["--prompt_shifts", "0"], "prompt_shifts=0"),
    ],
)
def test_wrong_arguments_of_the_command_are_reported(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.ckpt").write_text("not a checkpoint")
    assert run.main(arguments) == 1
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("with_gradio")
def test_a_port_in_use_is_reported(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert run.main(["--port", str(taken.getsockname()[1])]) == 1
    assert "Choose another with --host and --port" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("example.org", False)],
)
def test_only_loopback_addresses_are_private(host, loopback):
    assert run._is_loopback(host) is loopback
    assert run._parse([]).host == "127.0.0.1"
