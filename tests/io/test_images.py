# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from PIL import Image

from anomalib_inctrl.errors import ImageFileError
from anomalib_inctrl.io.images import list_images, read_image

RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("grey.png", Image.fromarray(RAMP)),
        ("grey.jpg", Image.fromarray(RAMP)),
        ("rgb.png", Image.fromarray(RAMP).convert("RGB")),
        ("rgba.png", Image.fromarray(RAMP).convert("RGBA")),
        ("grey_alpha.png", Image.fromarray(RAMP).convert("LA")),
        ("palette.png", Image.fromarray(RAMP).convert("P")),
        ("cmyk.tif", Image.fromarray(RAMP).convert("RGB").convert("CMYK")),
        ("sixteen.png", Image.fromarray(RAMP.astype(np.uint16) * 256 + 128)),
        ("sixteen.tif", Image.fromarray(RAMP.astype(np.uint16) * 256 + 128)),
        ("integer.tif", Image.fromarray(RAMP.astype(np.int32))),
        ("float.tif", Image.fromarray(RAMP.astype(np.float32) / 252)),
    ],
)
def test_every_mode_reads_as_rgb(tmp_path, name, image):
    image.save(tmp_path / name)
    pixels = read_image(tmp_path / name)
    assert pixels.shape == (3, 8, 8)
    tolerance = {"grey.jpg": 12, "float.tif": 4}.get(name, 1)
    assert np.abs(pixels.numpy() * 255 - RAMP).max() <= tolerance


def test_truncated_and_missing_files_are_named(tmp_path):
    path = tmp_path / "cut.png"
    Image.effect_noise((64, 64), 90).save(path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ImageFileError, match=r"cut\.png: 900 bytes"):
        read_image(path)
    with pytest.raises(ImageFileError, match=r"none\.png: no such file"):
        read_image(tmp_path / "none.png")


def test_list_images_is_sorted_and_leaves_other_files_out(tmp_path):
    for name in ("b.PNG", "a.jpeg", "notes.txt", "c.tiff"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.jpeg", "b.PNG", "c.tiff"]
