# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The page of the app: the real command, and requests as the browser makes them."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from anomalib_inctrl import Detector
from tests.shared import DEMO

gradio_client = pytest.importorskip("gradio_client")
pytest.importorskip("gradio")
ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "anomalib_inctrl.cli", "app", "--device", "cpu", "--port"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"}


@pytest.fixture(scope="module")
def server(checkpoints, tmp_path_factory):
    """Address and log of the running app."""
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [*COMMAND, port, "--weights", str(checkpoints)]
    with log.open("w") as file:
        process = subprocess.Popen(command, env=ENVIRONMENT, cwd=log.parent, stdout=file, stderr=subprocess.STDOUT)
    try:
        for _ in range(480):
            assert process.poll() is None, log.read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}", log
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)


@pytest.fixture
def client(server):
    return gradio_client.Client(server[0], verbose=False)


def upload(paths):
    return [gradio_client.handle_file(str(path)) for path in paths]


@pytest.mark.parametrize(("model", "weights"), [("InCTRLv2", "training-free"), ("InCTRL", "model.ckpt")])
def test_prompts_images_threshold_table_and_figure(client, server, good, queries, hostile, checkpoints, model, weights):
    folder, _messages = hostile
    broken = ["postscript.png", "large.png", "cut.jpg"]
    prompts = upload(good[:3])
    assert len(client.predict(prompts, api_name="/show_prompts")["value"]) == 3
    images = upload([queries[0], *(folder / name for name in broken), *queries[1:]])
    left_out, threshold = client.predict(prompts, images, "washer", model, weights, api_name="/predict")
    assert {line.split(":")[0] for line in left_out["value"].splitlines()} == set(broken)

    path = None if weights == "training-free" else checkpoints / "InCTRL" / "again" / weights
    detector = Detector(path, **DEMO, device="cpu")
    detector.set_prompts(good[:3], class_name="washer")
    scores = sorted((prediction.score for prediction in detector.predict(queries)), reverse=True)
    highest = max(detector.held_out_scores(good[:3], "washer"))
    assert threshold["value"] == pytest.approx(highest, abs=2e-4)

    for at, word in ((max(scores[0] - 0.01, 0), "anomalous"), (scores[0] + 0.01, "normal")):
        counts, gallery, heat_map, label, components, table, file, figure = client.predict(at, api_name="/show_result")
        anomalous = sum(score > at for score in scores)
        assert counts.startswith(f"### {anomalous} anomalous, {len(scores) - anomalous} normal, 3 unreadable.")
        assert [image["caption"].split()[:2] for image in gallery["value"]] == [
            [f"{score:.3f}", "anomalous" if score > at else "normal"] for score in scores
        ]
        frame = Image.open(gallery["value"][0]["image"]).convert("RGB").getpixel((3, 3))
        assert (frame[0] > frame[2]) == (word == "anomalous")  # red or blue
        assert min(Path(drawn).stat().st_size for drawn in (heat_map, figure)) > 1000
        assert ("head score" in [row[0] for row in components["data"]]) == (model == "InCTRL")
        assert label.startswith(f"## {word}\nscore **{scores[0]:.3f}**")
        assert [row[2] for row in table["data"]] == [f"{score:.3f}" for score in scores]
        assert table["data"][0][3] == word
    rows = list(csv.DictReader(Path(file["value"]).read_text().splitlines()))
    assert [float(row["score"]) for row in rows] == pytest.approx(scores, abs=1e-5)
    assert {row["pred_label"] for row in rows} == {"0"}
    assert "Traceback" not in server[1].read_text()


def test_wrong_input_is_a_warning_and_no_failure(client, server, good, hostile):
    client.predict(upload([good[0], hostile[0] / "page.png"]), api_name="/show_prompts")
    client.predict([], [], "washer", "InCTRLv2", "training-free", api_name="/predict")
    assert "Traceback" not in server[1].read_text()


def test_the_example_is_filled_in_and_predicted(client):
    prompts, name, queries = client.predict(api_name="/example")
    assert (len(prompts), name, len(queries)) == (4, "washer", 8)
    steps = {step["id"]: step for step in client.config["dependencies"]}
    after = {step["trigger_after"]: step["api_name"] for step in steps.values() if step["trigger_after"] is not None}
    (example,) = [number for number, step in steps.items() if step["api_name"] == "example"]
    assert after[example].startswith("predict")


@pytest.mark.parametrize("path", ["/etc/passwd", str(ROOT / "README.md")])
def test_files_of_the_server_are_not_served(server, client, path):
    with pytest.raises(urllib.error.HTTPError, match=r"40[34]"):
        urllib.request.urlopen(f"{server[0]}/gradio_api/file={path}")
    with pytest.raises(gradio_client.exceptions.AppError):
        client.predict([{"path": path, "meta": {"_type": "gradio.FileData"}}], api_name="/show_prompts")


def test_a_port_in_use_is_reported(server):
    port = server[0].rsplit(":", 1)[1]
    found = subprocess.run([*COMMAND, port], env=ENVIRONMENT, capture_output=True, text=True)
    assert found.returncode == 1
    assert "Choose another with --host and --port" in found.stderr
