# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The kinds of images that are accepted and refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_inctrl.errors import ImageDataError, ImageFileError
from anomalib_inctrl.io.images import read_image
from anomalib_inctrl.io.inputs import list_inputs

RAMP = np.linspace(0, 200, 50)[None, :, None] + np.linspace(0, 40, 30)[:, None, None]
PIXELS = (RAMP + np.random.default_rng(0).integers(0, 12, (30, 50, 3)) * [0, 1, 1]).astype(np.uint8)
TENSOR = torch.from_numpy(PIXELS).permute(2, 0, 1)
DEEP = PIXELS.astype(np.uint16) * 257
KINDS = {
    "path": lambda file: file,
    "folder": lambda file: file.parent,
    "pillow, lazy": Image.open,
    "generator": lambda file: (item for item in [file]),
    "pillow": lambda _: Image.fromarray(PIXELS),
    "rgba": lambda _: Image.fromarray(PIXELS).convert("RGBA"),
    "uint8": lambda _: PIXELS,
    "batch": lambda _: PIXELS[None],
    "uint8, alpha": lambda _: np.dstack([PIXELS, np.full_like(PIXELS[..., 0], 255)]),
    "uint8, unused alpha": lambda _: np.dstack([PIXELS, np.zeros_like(PIXELS[..., 0])]),
    "uint16, alpha": lambda _: np.dstack([DEEP, np.full_like(DEEP[..., 0], 65535)]),
    "uint16": lambda _: DEEP,
    "float32": lambda _: PIXELS.astype(np.float32) / 255,
    "tensor": lambda _: TENSOR,
    "float tensor": lambda _: (TENSOR / 255).requires_grad_(),
    "uint16 tensor": lambda _: torch.from_numpy(DEEP).permute(2, 0, 1),
}


def read(images):
    return [item.read() for item in list_inputs(images)]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(PIXELS).save(path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_image(kind, file):
    before = PIXELS.copy()
    (found,) = read(KINDS[kind](file))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.detach(), read_image(file), atol=1e-6, rtol=0)
    assert (before == PIXELS).all()


def test_grey_is_repeated():
    grey = PIXELS[..., 0].copy()
    for found in read([grey, grey[..., None], torch.from_numpy(grey), Image.fromarray(grey)]):
        assert (found * 255).round().numpy().astype(np.uint8).tolist() == [grey.tolist()] * 3


def test_names_are_paths_or_positions(file):
    found = list_inputs([PIXELS, str(file), file.parent, PIXELS])
    assert [item.name for item in found] == ["images[0]", str(file), str(file), "images[3]"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "images: found no images"),
        (7, "images: found int"),
        ([np.zeros((4, 4)), None], r"images\[1\]: found NoneType"),
        (np.zeros((3, 40, 50)), r"images\[0\]: found an array \(3, 40, 50\).*transpose\(1, 2, 0\)"),
        (torch.zeros(40, 50, 3), r"images\[0\]: found a tensor \(40, 50, 3\).*permute\(2, 0, 1\)"),
        (np.zeros(9), r"found an array \(9,\)"),
        (np.zeros((0, 4, 3)), r"is empty, found an array \(0, 4, 3\)"),
        (np.full((4, 4, 3), np.nan), "NaN"),
        (np.full((4, 4, 3), 200.0), r"from 200 to 200; expected 0 to 1\."),
        (torch.linspace(-2, 2, 48).view(3, 4, 4), r"from -2 to 2; expected 0 to 1\."),
        (np.full((4, 4, 3), 300), "from 300 to 300; expected 0 to 255"),
        (np.zeros((4, 4, 3), dtype=bool), "an array of bool"),
    ],
)
def test_other_inputs_are_refused_by_name(wrong, message):
    with pytest.raises(ImageDataError, match=message):
        read(wrong)


def test_missing_and_broken_files_are_named(tmp_path):
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
