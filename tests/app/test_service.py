# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The app without its page."""

import csv
import io
import re
import socket
import threading
from pathlib import Path

import pytest

from anomalib_inctrl import Detector
from anomalib_inctrl.app import run
from anomalib_inctrl.app.service import UNTRAINED, PredictionService, score_table, to_csv
from anomalib_inctrl.app.uploads import Limits, check_picture
from anomalib_inctrl.errors import CheckpointError, ImageFileError, PromptError


@pytest.fixture(scope="module")
def judge(checkpoints):
    return PredictionService([checkpoints], device="cpu", limits=Limits(prompts=3, queries=5, megabytes=1, letters=20))


def test_what_is_on_offer(judge):
    assert judge.models == ["InCTRLv2", "InCTRL"]
    assert judge.weights_of("InCTRLv2") == [UNTRAINED, "model.ckpt"]
    # Files are sorted; those called alike are told apart by their folders.
    assert judge.weights_of("InCTRL") == [UNTRAINED, "model.ckpt", "InCTRL/model.ckpt"]


@pytest.mark.parametrize(("model", "weights"), [("InCTRLv2", UNTRAINED), ("InCTRL", "model.ckpt")])
def test_it_says_what_the_detector_says(judge, checkpoints, good, queries, model, weights):
    done = judge.judge(good[:3], queries[:5], "  steel\n washer ", model, weights)
    path = None if weights == UNTRAINED else checkpoints / model / "model.ckpt"
    detector = Detector(path, backbone="mini-clip-16-240", pretrained="demo", device="cpu")
    detector.set_prompts(good[:3], class_name="steel washer")
    expected = {result.name: result for result in detector.predict(queries[:5])}
    assert {result.name for result in done.results} == expected.keys()
    for result in done.results:
        assert result.score == pytest.approx(expected[result.name].score, abs=1e-6)
    scores = [result.score for result in done.results]
    assert scores == sorted(scores, reverse=True)
    assert done.highest_normal == pytest.approx(max(detector.held_out_scores(good[:3], "steel washer")), abs=1e-6)
    assert done.left_out == []
    # Nothing of a visitor stays.
    assert judge.detector(model, weights).class_names == []


def test_normal_pictures_are_seen_at_as_many_offsets_as_it_was_told(good, queries):
    shifted = PredictionService(device="cpu", prompt_shifts=2).judge(
        good[:2], queries[:2], "washer", "InCTRLv2", UNTRAINED
    )
    detector = Detector(backbone="mini-clip-16-240", pretrained="demo", device="cpu", prompt_shifts=2)
    detector.set_prompts(good[:2], class_name="washer")
    expected = sorted((result.score for result in detector.predict(queries[:2])), reverse=True)
    assert [result.score for result in shifted.results] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="prompt_shifts=0: give a whole number"):
        PredictionService(prompt_shifts=0).detector("InCTRLv2", UNTRAINED)


def test_one_normal_picture_gives_no_threshold_to_start_from(judge, good, queries):
    assert judge.judge(good[:1], queries[:1], "washer", "InCTRL", UNTRAINED).highest_normal is None


def test_visitors_at_the_same_time_do_not_meet(judge, good, queries):
    asked = [(good[:1], "washer"), (queries[-1:], "ring"), (good[1:3], "washer")]
    alone = [judge.judge(prompts, queries[:4], name, "InCTRLv2", UNTRAINED) for prompts, name in asked]
    together = [None] * len(asked)

    def ask(index):
        prompts, name = asked[index]
        together[index] = judge.judge(prompts, queries[:4], name, "InCTRLv2", UNTRAINED)

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(alone, together, strict=True):
        assert [(r.name, r.score) for r in one.results] == [(r.name, r.score) for r in other.results]
    assert alone[0].results[0].score != alone[1].results[0].score


def test_what_cannot_be_read_is_left_out_and_told(judge, good, queries, hostile):
    folder, messages = hostile
    broken = [str(folder / name) for name in ("page.png", "cut.png")]
    done = judge.judge(good[:1], [broken[0], queries[0], broken[1], queries[1]], "washer", "InCTRLv2", UNTRAINED)
    assert len(done.results) == 2
    for message, name in zip(done.left_out, ("page.png", "cut.png"), strict=True):
        assert re.match(messages[name], message)
    with pytest.raises(ImageFileError, match=r"page\.png"):
        judge.judge(good[:1], broken, "washer", "InCTRLv2", UNTRAINED)
    with pytest.raises(ImageFileError, match=r"page\.png"):
        judge.judge([good[0], broken[0]], queries[:1], "washer", "InCTRLv2", UNTRAINED)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": None}, "No normal pictures yet. Drop 1 to 3."),
        ({"prompts": 4}, "4 normal pictures are too many. Drop 1 to 3."),
        ({"queries": []}, "No pictures to judge yet. Drop 1 to 5."),
        ({"queries": 6}, "6 pictures to judge are too many. Drop 1 to 5."),
        ({"class_name": " \n"}, "Name what the pictures show, in 1 to 20 letters."),
        ({"class_name": None}, "Name what the pictures show"),
        ({"class_name": "x" * 21}, "Name what the pictures show"),
        ({"model": "WinClip"}, "no weights 'training-free' for WinClip"),
        ({"weights": "/etc/passwd"}, "no weights '/etc/passwd' for InCTRLv2"),
    ],
)
def test_requests_that_ask_too_much_or_too_little(judge, good, queries, change, message):
    request = {"prompts": 1, "queries": 1, "class_name": "washer", "model": "InCTRLv2", "weights": UNTRAINED} | change
    for name, source in (("prompts", good), ("queries", queries)):
        if isinstance(request[name], int):
            request[name] = source[: request[name]]
    with pytest.raises((ImageFileError, PromptError, CheckpointError), match=re.escape(message)):
        judge.judge(**request)


def test_hostile_files_get_a_message_without_the_servers_folders(hostile):
    folder, messages = hostile
    for name, message in messages.items():
        with pytest.raises(ImageFileError, match=message) as found:
            check_picture(folder / name, Limits())
        assert str(folder) not in str(found.value)


def test_large_files_are_refused_unread(tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(b"0" * (2**20 + 1))
    with pytest.raises(ImageFileError, match=r"large\.png: 1\.0 MB; at most 1 MB"):
        check_picture(path, Limits(megabytes=1))


def test_the_table_is_safe_to_open_and_keeps_the_numbers(judge, good, queries, tmp_path):
    path = tmp_path / "=HYPERLINK(1),2.png"
    path.write_bytes(Path(queries[0]).read_bytes())
    results = judge.judge(good[:1], [str(path), queries[1]], "@washer", "InCTRLv2", UNTRAINED).results
    between = (results[0].score + results[1].score) / 2
    rows = list(csv.DictReader(io.StringIO(to_csv(score_table(results, between)))))
    names = {row["image_path"] for row in rows}
    assert names == {"'=HYPERLINK(1),2.png", Path(queries[1]).name}
    assert {row["class_name"] for row in rows} == {"'@washer"}
    assert [row["pred_label"] for row in rows] == ["1", "0"]
    assert [float(row["score"]) for row in rows] == pytest.approx([result.score for result in results], rel=1e-8)
    assert {"text_score", "patch_score"} <= rows[0].keys()
    assert to_csv(score_table([], 0.5)).strip() == ""


@pytest.fixture
def with_gradio(monkeypatch):
    """Whatever is tested here is told before Gradio is needed."""
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "")


def test_without_gradio_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)
    assert run.main([]) == 1
    assert "pip install 'anomalib-inctrl[app]'" in capsys.readouterr().err


def test_what_keeps_the_app_from_starting_is_told_in_the_terminal(with_gradio, tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert run.main(["--port", str(taken.getsockname()[1])]) == 1
    assert "Choose another with --host and --port" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.ckpt").write_text("not a checkpoint")
    for argument, message in [("none.ckpt", "no such weights file"), ("notes.ckpt", "refused"), ("empty", "no .ckpt")]:
        assert run.main(["--weights", str(tmp_path / argument)]) == 1
        assert message in capsys.readouterr().err
    assert run.main(["--backbone", "ViT-X"]) == 1
    assert "backbone='ViT-X'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("example.org", False)],
)
def test_loopback(host, loopback):
    assert run._is_loopback(host) is loopback
    assert run._parse([]).host == "127.0.0.1"
