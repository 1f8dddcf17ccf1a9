# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_inctrl.errors import ImageDataError, ImageFileError
from anomalib_inctrl.io.images import UNREADABLE, read_image
from anomalib_inctrl.io.inputs import list_inputs


def read(images):
    return [picture.read() for picture in list_inputs(images)]


FORMS = {
    "path": lambda pixels, file: file,
    "text": lambda pixels, file: str(file),
    "folder": lambda pixels, file: file.parent,
    "pillow": lambda pixels, file: Image.fromarray(pixels),
    "pillow, lazy": lambda pixels, file: Image.open(file),
    "rgba": lambda pixels, file: Image.fromarray(pixels).convert("RGBA"),
    "uint8": lambda pixels, file: pixels,
    "uint8, alpha": lambda pixels, file: np.dstack([pixels, pixels[..., 0]]),
    "uint8, reversed": lambda pixels, file: pixels[::-1].copy()[::-1],
    "uint16": lambda pixels, file: pixels.astype(np.uint16) * 257,
    "uint16, foreign": lambda pixels, file: (pixels.astype(np.uint16) * 257).astype(">u2"),
    "int64": lambda pixels, file: pixels.astype(np.int64),
    "float32": lambda pixels, file: pixels.astype(np.float32) / 255,
    "float64": lambda pixels, file: pixels / 255,
    "tensor": lambda pixels, file: torch.from_numpy(pixels).permute(2, 0, 1),
    "float tensor": lambda pixels, file: torch.from_numpy(pixels).permute(2, 0, 1) / 255,
    "uint16 tensor": lambda pixels, file: torch.from_numpy(pixels.astype(np.uint16) * 257).permute(2, 0, 1),
    "batch": lambda pixels, file: pixels[None],
    "tensor batch": lambda pixels, file: torch.from_numpy(pixels).permute(2, 0, 1)[None],
    "list": lambda pixels, file: [pixels],
    "generator": lambda pixels, file: (item for item in [file]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_picture(form, pixels, picture_file):
    before = pixels.copy()
    (found,) = read(FORMS[form](pixels, picture_file))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, read_image(picture_file), atol=1e-6, rtol=0)
    assert (pixels == before).all()


@pytest.mark.parametrize("form", [lambda grey: grey, lambda grey: grey[..., None], torch.from_numpy, Image.fromarray])
def test_grey_is_repeated(form, pixels):
    grey = pixels[..., 0].copy()
    (found,) = read(form(grey))
    assert (found * 255).round().numpy().astype(np.uint8).tolist() == [grey.tolist()] * 3


def test_names_are_paths_or_places(pixels, picture_file):
    found = list_inputs([pixels, str(picture_file), picture_file.parent, pixels])
    assert [picture.name for picture in found] == ["images[0]", str(picture_file), str(picture_file), "images[3]"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "images: found no pictures"),
        (7, "images: found int"),
        ([np.zeros((4, 4)), None], r"images\[1\]: found NoneType"),
        (np.zeros((3, 40, 50)), r"images\[0\]: found an array \(3, 40, 50\).*transpose\(1, 2, 0\)"),
        (torch.zeros(40, 50, 3), r"images\[0\]: found a tensor \(40, 50, 3\).*permute\(2, 0, 1\)"),
        (np.zeros(9), r"found an array \(9,\)"),
        ([np.zeros((2, 2, 4, 4, 3))], r"found an array \(2, 2, 4, 4, 3\)"),
        (np.zeros((7, 4, 5)), r"found an array \(7, 4, 5\); expected \(H, W, 3\) or \(H, W\)\.$"),
        (np.zeros((0, 4, 3)), r"is empty, \(0, 4\) pixels"),
        (np.full((4, 4, 3), np.nan), "NaN"),
        (np.full((4, 4, 3), 200.0), r"from 200 to 200; expected 0 to 1\."),
        (torch.linspace(-2, 2, 48).view(3, 4, 4), r"from -2 to 2; expected 0 to 1\."),
        (np.full((4, 4, 3), 300), "from 300 to 300; expected 0 to 255"),
        (np.full((4, 4, 3), -1), "from -1 to -1"),
        (np.zeros((4, 4, 3), dtype=bool), "an array of bool"),
        (np.zeros((4, 4, 3), dtype=complex), "an array of complex"),
        (torch.zeros(3, 4, 4, dtype=torch.bool), "a tensor of torch.bool"),
    ],
)
def test_what_is_no_picture_is_told(wrong, message):
    with pytest.raises(ImageDataError, match=message):
        read(wrong)


def test_files_that_are_none_are_named(tmp_path):
    with pytest.raises(ImageFileError, match=r"none\.png: no such file or folder"):
        list_inputs(tmp_path / "none.png")
    with pytest.raises(ImageFileError, match="holds no images"):
        list_inputs(tmp_path)
    broken = tmp_path / "broken.png"
    Image.effect_noise((64, 64), 90).save(broken)
    broken.write_bytes(broken.read_bytes()[:900])
    with pytest.raises(ImageDataError, match=r"images\[1\]: the pixels of this Pillow image cannot be read"):
        read([np.zeros((4, 4)), Image.open(broken)])
    with pytest.raises(ImageFileError, match=r"broken\.png: 900 bytes"):
        read(tmp_path)


@pytest.mark.parametrize("error", UNREADABLE, ids=lambda error: error.__name__)
def test_whatever_pillow_raises_of_a_broken_image_is_told(error, monkeypatch):
    image = Image.new("L", (4, 4))
    monkeypatch.setattr(image, "load", lambda: (_ for _ in ()).throw(error("broken")))
    with pytest.raises(ImageDataError, match=r"images\[0\]: the pixels"):
        list_inputs(image)[0].read()
