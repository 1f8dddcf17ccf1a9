# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The app in a browser: the real command, a real Chromium, real clicks."""

import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from anomalib_inctrl import Detector

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server(checkpoints, tmp_path_factory):
    """Address and log of the running app."""
    pytest.importorskip("gradio")
    log, port = tmp_path_factory.mktemp("server") / "log.txt", free_port()
    command = [sys.executable, "-m", "anomalib_inctrl.cli", "app", "--port", str(port), "--device", "cpu"]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--weights", str(checkpoints)],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"},
            cwd=log.parent,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(480):
            if process.poll() is not None:
                pytest.fail(log.read_text())
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail(f"The app does not answer: {log.read_text()}")
        yield address, log
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        own = Path(running.chromium.executable_path)
        if not own.is_file() and CHROMIUM is None:
            pytest.skip("no Chromium: playwright install chromium, or the system's")
        path = str(own) if own.is_file() else CHROMIUM
        launched = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def page(browser, server):
    page = browser.new_page(viewport={"width": 1500, "height": 1300}, accept_downloads=True)
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    page.set_default_timeout(60_000)
    page.goto(server[0])
    page.wait_for_selector("#predict")
    yield page
    page.close()


def drop(page, where, files):
    page.set_input_files(f"#{where} input[type=file]", [str(file) for file in files])


def fill_in(page, prompts, queries, class_name="washer"):
    drop(page, "prompts", prompts)
    page.wait_for_selector("#prompt-gallery img")
    page.fill("#class-name textarea, #class-name input", class_name)
    drop(page, "queries", queries)
    page.wait_for_function(f"document.querySelectorAll('#queries tr.file').length == {len(queries)}")


def predict(page):
    page.click("#predict")
    page.wait_for_function("document.querySelector('#pred-label').innerText.includes('score')")
    page.wait_for_selector("#heat-map img")
    page.wait_for_selector("#table [role=row][data-index]")


def rows(page):
    return page.eval_on_selector_all(
        "#table [role=row][data-index]",
        "rows => rows.map(row => [...row.querySelectorAll('[role=gridcell]')].map(cell => cell.innerText.trim()))",
    )


def choose(page, where, name):
    page.click(f"#{where} input")
    page.get_by_role("option", name=name, exact=True).click()


def toast(page):
    page.wait_for_selector(".toast-body")
    text = page.inner_text(".toast-body")
    page.click(".toast-close")
    page.wait_for_selector(".toast-body", state="detached")
    return text


def expected_scores(good, queries, weights=None):
    detector = Detector(weights, backbone="mini-clip-16-240", pretrained="demo", device="cpu")
    detector.set_prompts(good, class_name="washer")
    return sorted((prediction.score for prediction in detector.predict(queries)), reverse=True)


def download(page, folder):
    with page.expect_download() as started:
        page.click("#download")
    path = folder / "scores.csv"
    started.value.save_as(path)
    return list(csv.DictReader(path.open()))


@pytest.fixture(scope="module")
def named(queries, tmp_path_factory):
    """The queries under different names."""
    folder = tmp_path_factory.mktemp("named")
    paths = [folder / f"{Path(query).parent.name}-{Path(query).name}" for query in queries]
    for query, path in zip(queries, paths, strict=True):
        shutil.copyfile(query, path)
    return paths


def test_prompts_images_threshold_table_and_figure(page, server, good, named, checkpoints, tmp_path):
    fill_in(page, good[:3], named)
    assert page.locator("#prompt-gallery img").count() == 3
    predict(page)

    scores = expected_scores(good[:3], named)
    shown = rows(page)
    assert [row[2] for row in shown] == [f"{score:.3f}" for score in scores]
    assert {row[1] for row in shown} == {path.name for path in named}
    assert page.locator("#gallery img").count() >= len(named)
    assert f"score {scores[0]:.3f}" in page.inner_text("#pred-label")
    assert "text score" in page.inner_text("#components")
    width = page.eval_on_selector("#heat-map img", "image => image.naturalWidth")
    assert width == 720

    # The threshold decides the labels, in the table and of the image shown.
    for threshold, word in ((min(scores) - 0.01, "anomalous"), (max(scores) + 0.01, "normal")):
        page.fill("#threshold input[type=number]", f"{threshold:.3f}")
        page.press("#threshold input[type=number]", "Enter")
        page.wait_for_function(f"document.querySelector('#pred-label').innerText.startsWith('{word}')")
        assert {row[3] for row in rows(page)} == {word}

    # Another image by a click on its row, and by a click on its heat map.
    page.locator("#table [role=gridcell]", has_text=shown[2][1]).first.click()
    page.wait_for_function(f"document.querySelector('#pred-label').innerText.includes('{scores[2]:.3f}')")
    page.locator("#gallery button.thumbnail-item").nth(1).click()
    page.wait_for_function(f"document.querySelector('#pred-label').innerText.includes('{scores[1]:.3f}')")

    found = download(page, tmp_path)
    assert [float(row["score"]) for row in found] == pytest.approx(scores, abs=1e-5)
    assert {row["pred_label"] for row in found} == {"0"}
    assert {row["class_name"] for row in found} == {"washer"}

    page.get_by_text("Everything in one figure").click()
    page.wait_for_selector("#explanation img")
    assert page.eval_on_selector("#explanation img", "image => image.naturalWidth") > 900

    # Another model with trained heads.
    choose(page, "model", "InCTRL")
    choose(page, "weights", "model.ckpt")
    page.click("#predict")
    page.wait_for_function("document.querySelector('#components').innerText.includes('head score')")
    trained = expected_scores(good[:3], named, checkpoints / "InCTRL" / "model.ckpt")
    found = download(page, tmp_path)
    assert [float(row["score"]) for row in found] == pytest.approx(trained, abs=1e-5)

    # The page makes requests to this machine only.
    assert {url.split("/")[2] for url in page.asked if url.startswith("http")} == {server[0].split("/")[2]}
    assert "Traceback" not in server[1].read_text()


def test_the_example_is_filled_in_and_predicted(page):
    page.click("#example")
    page.wait_for_selector("#prompt-gallery img")
    page.wait_for_function("document.querySelectorAll('#queries tr.file').length == 8")
    predict(page)
    assert len({row[1] for row in rows(page)}) == len(rows(page)) > 0
    # At the first threshold the most abnormal image is anomalous.
    assert page.inner_text("#pred-label").startswith("anomalous")


def test_wrong_input_and_hostile_files_are_reported(page, server, good, named, hostile, tmp_path):
    folder, messages = hostile
    page.click("#predict")
    assert "No normal references yet. Drop 1 to 8." in toast(page)

    drop(page, "prompts", [good[0], folder / "page.png"])
    assert re.search(messages["page.png"], toast(page))
    page.click("#prompts button[aria-label='Clear']")
    page.wait_for_selector("#prompts input[type=file]", state="attached")
    drop(page, "prompts", [good[index % 4] for index in range(9)])
    assert "9 normal references are too many" in toast(page)
    page.click("#prompts button[aria-label='Clear']")
    page.wait_for_selector("#prompts input[type=file]", state="attached")

    # Names are shown as text, not as HTML.
    odd = tmp_path / "<img src=x onerror=alert(1)>.png"
    shutil.copyfile(named[0], odd)
    broken = [folder / name for name in ("postscript.png", "large.png", "cut.png", "truncated.jpg")]
    fill_in(page, good[:1], [odd, *broken, named[1]], class_name="<b onclick=alert(2)>washer</b>")
    predict(page)
    left_out = page.input_value("#left-out textarea").splitlines()
    assert len(left_out) == len(broken)
    for line, path in zip(left_out, broken, strict=True):
        assert re.search(messages[path.name], line)
    assert len(rows(page)) == 2
    assert page.locator("#table img").count() == 0
    assert "Traceback" not in server[1].read_text()


def test_files_that_are_too_large_are_refused(page, tmp_path):
    path = tmp_path / "large.bmp"
    Image.new("RGB", (3000, 2500)).save(path)
    assert path.stat().st_size > 20 * 2**20
    drop(page, "prompts", [path])
    assert "20" in toast(page)
    assert page.locator("#prompt-gallery img").count() == 0


@pytest.mark.parametrize("path", ["/etc/passwd", str(ROOT / "README.md")])
def test_files_of_the_server_are_not_served(server, path):
    address = f"{server[0]}/gradio_api"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{address}/file={path}")
    assert refused.value.code in {403, 404}
    files = [{"path": path, "meta": {"_type": "gradio.FileData"}}]
    request = urllib.request.Request(
        f"{address}/call/show_prompts", json.dumps({"data": [files]}).encode(), {"Content-Type": "application/json"}
    )
    event = json.load(urllib.request.urlopen(request))["event_id"]
    answer = urllib.request.urlopen(f"{address}/call/show_prompts/{event}", timeout=60).read().decode()
    assert "event: error" in answer
    assert "root:" not in answer
