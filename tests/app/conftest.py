# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import pytest
from PIL import Image

from anomalib_inctrl import Detector, InCTRL, InCTRLv2
from tests.shared import DEMO


@pytest.fixture(scope="session")
def good(good):
    """As Gradio names files."""
    return [str(path) for path in good]


@pytest.fixture(scope="session")
def queries(queries):
    return [str(path) for path in queries]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """A folder with a checkpoint of each model and a second one of InCTRL, in the folders of anomalib's runs."""
    folder = tmp_path_factory.mktemp("results")
    for kind, run in ((InCTRL, "InCTRL"), (InCTRL, "InCTRL/again"), (InCTRLv2, "InCTRLv2")):
        module = kind(**DEMO)
        module.model.heads_trained = True
        Detector(module, device="cpu").save(folder / run / "model.ckpt")
    return folder


@pytest.fixture(scope="session")
def hostile(tmp_path_factory):
    """A folder of files that are refused, and the message about each."""
    folder = tmp_path_factory.mktemp("hostile")
    Image.effect_noise((200, 200), 90).save(folder / "cut.jpg")
    Image.new("1", (9000, 9000)).save(folder / "large.png")
    files = {
        "page.png": (b"<html><script>alert(1)</script></html>", "page.png: 38 bytes, not readable"),
        "postscript.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "postscript.png: .* not readable"),
        "cut.jpg": ((folder / "cut.jpg").read_bytes()[:2000], "cut.jpg: 2000 bytes, not readable as an image"),
        "large.png": ((folder / "large.png").read_bytes(), "large.png: 9000 x 9000 pixels; at most 40 million"),
        "heavy.png": (b"0" * (20 * 2**20 + 1), r"heavy\.png: 20\.0 MB; at most 20 MB"),
        "drawing.svg": (b"<svg/>", "drawing.svg: not one of the formats"),
    }
    for name, (content, _) in files.items():
        (folder / name).write_bytes(content)
    return folder, {name: message for name, (_, message) in files.items()}
