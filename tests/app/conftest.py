# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import struct
import zlib

import pytest
from PIL import Image

from anomalib_inctrl import Detector, InCTRL, InCTRLDemo, InCTRLv2


@pytest.fixture(scope="session")
def washers(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    InCTRLDemo(root=root, train_count=4, test_normal_count=2, test_anomalous_count=4).prepare_data()
    return root / "washer"


@pytest.fixture(scope="session")
def good(washers):
    return [str(path) for path in sorted((washers / "train" / "good").glob("*.png"))]


@pytest.fixture(scope="session")
def queries(washers):
    return [str(path) for path in sorted((washers / "test").rglob("*.png"))]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """A folder with a checkpoint of each model and a second one of InCTRL, in the folders of anomalib's runs."""
    folder = tmp_path_factory.mktemp("results")
    for kind, run in ((InCTRL, "InCTRL"), (InCTRL, "InCTRL/again"), (InCTRLv2, "InCTRLv2")):
        module = kind(backbone="mini-clip-16-240", pretrained="demo")
        module.model.heads_trained = True
        Detector(module, device="cpu").save(folder / run / "model.ckpt")
    return folder


def png_of(width, height):
    """A PNG whose header names a size that its few bytes do not hold."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture(scope="session")
def hostile(tmp_path_factory):
    """Files whose content does not match their name, and the message about each."""
    folder = tmp_path_factory.mktemp("hostile")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(x) = showpage\n"
    files = {
        "page.png": (b"<html><script>alert(1)</script></html>", "page.png: 38 bytes, not readable"),
        "postscript.png": (eps, "postscript.png: .* bytes, not readable"),
        "bomb.png": (png_of(30000, 30000), "bomb.png: .* not readable as an image|bomb.png: 30000 x 30000 pixels"),
        "large.png": (png_of(9000, 9000), "large.png: 9000 x 9000 pixels; at most 40 million"),
        "cut.png": (png_of(100, 100), "cut.png: .* bytes, not readable as an image"),
        "heavy.png": (b"0" * (20 * 2**20 + 1), r"heavy\.png: 20\.0 MB; at most 20 MB"),
        "drawing.svg": (b"<svg/>", "drawing.svg: not one of the formats"),
    }
    for name, (content, _) in files.items():
        (folder / name).write_bytes(content)
    image = folder / "truncated.jpg"
    Image.effect_noise((200, 200), 90).save(image)
    image.write_bytes(image.read_bytes()[:2000])
    messages = {name: message for name, (_, message) in files.items()}
    return folder, messages | {"truncated.jpg": "truncated.jpg: 2000 bytes, not readable as an image"}
