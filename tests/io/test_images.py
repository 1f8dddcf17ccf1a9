# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import logging
import struct
import zlib
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from anomalib_inctrl.errors import ImageFileError
from anomalib_inctrl.io import images
from anomalib_inctrl.io.images import FORMATS, image_size, list_images, open_image, read_header, read_image, read_mask
from anomalib_inctrl.io.inputs import list_inputs
from tests.io.turned import write_turned

RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
GREY = Image.fromarray(RAMP)
COLOURS = np.dstack([RAMP, RAMP.T, 255 - RAMP])
SIXTEEN = RAMP.astype(np.uint16) * 256 + 128
DARK = (RAMP // 8).astype(np.uint16) * 16 + 7  # of 12 bits, and the largest value is 503: as if of 9


@pytest.fixture(autouse=True)
def _as_in_a_new_process(monkeypatch):
    monkeypatch.setattr(images, "_WARNED", set())
    monkeypatch.setattr(images, "_DEPTHS_SEEN", {})


def close(path, expected, tolerance=1):
    """Whether a file is read as these levels of 0 to 255."""
    pixels = read_image(path)
    assert pixels.shape == (3, *np.shape(expected)[-2:])
    return np.abs(pixels.numpy() * 255 - expected).max() <= tolerance


def lossless(path):
    return {"lossless": True, "exact": True} if path.suffix == ".webp" else {}


@pytest.mark.parametrize(
    ("name", "mode", "tolerance"),
    [
        *((f"grey.{ending}", "L", 1) for ending in ("png", "bmp", "pgm", "jp2")),
        *(("grey.jpg", "L", 12), ("grey_alpha.png", "LA", 1), ("palette.png", "P", 1), ("palette.gif", "P", 4)),
        *((f"rgb.{ending}", "RGB", 1) for ending in ("png", "ppm", "webp")),
        *(("rgba.png", "RGBA", 1), ("rgba.tif", "RGBA", 1), ("cmyk.tif", "CMYK", 1), ("ycbcr.tif", "YCbCr", 1)),
    ],
)
def test_every_mode_reads_as_rgb(tmp_path, name, mode, tolerance):
    path = tmp_path / name
    image = GREY.convert("RGB").convert(mode) if mode in {"CMYK", "YCbCr"} else GREY.convert(mode)
    image.save(path, **lossless(path))
    assert close(path, RAMP, tolerance)


def test_lab_black_and_white_and_losslessly_compressed_colours(tmp_path):
    Image.merge("LAB", [GREY] + [Image.new("L", (8, 8), 128)] * 2).save(tmp_path / "lab.tif")
    assert close(tmp_path / "lab.tif", RAMP, 25)  # L* is not linear in the grey value
    Image.fromarray(RAMP > 100).save(tmp_path / "1.tif")
    assert close(tmp_path / "1.tif", (RAMP > 100) * 255, 0.1)
    for name, options in {"a.webp": {"lossless": True}, "a.tif": {"compression": "tiff_lzw"}, "a.png": {}}.items():
        Image.fromarray(COLOURS).save(tmp_path / name, **options)
        assert close(tmp_path / name, COLOURS.transpose(2, 0, 1), 0.1)


def test_of_several_pages_or_frames_the_first_is_read_and_that_is_reported_once(tmp_path, caplog):
    pages = [GREY, Image.fromarray(255 - RAMP), Image.fromarray(RAMP.T.copy())]
    for name, kind in {"pages.tif": "TIFF", "frames.gif": "GIF", "frames.apng": "PNG", "frames.webp": "WEBP"}.items():
        path = tmp_path / name
        pages[0].save(path, save_all=True, append_images=pages[1:], format=kind, **lossless(path))
        assert close(path, RAMP)
        assert f"{name} holds several pages or frames: the first is read" in caplog.text
    caplog.clear()
    pages[1].save(tmp_path / "more.tif", save_all=True, append_images=pages)
    read_image(tmp_path / "more.tif")
    pages[0].convert("RGB").save(tmp_path / "phone.mpo", save_all=True, append_images=[pages[1].convert("RGB")])
    assert close(tmp_path / "phone.mpo", RAMP, 12)
    assert not caplog.text  # phones add a preview to every photo


# ---------------------------------------------------------------------- more than 8 bits


def write_png(path, values, bits):
    """A 16-bit PNG that states the number of bits in use."""
    write_by_opencv(path, values)
    whole, data = path.read_bytes(), b"sBIT" + bytes([bits] * (3 if values.ndim == 3 else 1))
    chunk = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    path.write_bytes(whole[:33] + chunk + whole[33:])  # behind IHDR


def write_pgm(path, values, largest=65535):
    path.write_bytes(f"P5\n8 8\n{largest}\n".encode() + values.astype(">u2").tobytes())


def write_by_pillow(path, values):
    kinds = {"big-endian.tif": ">u2", "float.tif": np.float32, "integer.tif": np.int32}
    Image.fromarray(values.astype(kinds.get(path.name, np.uint16))).save(path)


def write_by_opencv(path, values):
    colours = {"colour": [values] * 3, "alpha": [values] * 3 + [np.full_like(values, 65535)]}
    cv2.imwrite(str(path), np.dstack(colours[path.stem]) if path.stem in colours else values)


WRITERS = dict.fromkeys(("big-endian.tif", "float.tif", "integer.tif", "grey.tif", "grey.jp2"), write_by_pillow)
WRITERS |= dict.fromkeys(("grey.png", "colour.png", "alpha.png", "colour.tif", "colour.ppm"), write_by_opencv)
WRITERS["grey.pgm"] = write_pgm


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("name", WRITERS)
def test_values_of_more_than_8_bits_fill_the_range(tmp_path, name, bits):
    values = (RAMP.astype(np.uint16) << (bits - 8)) + 2 ** (bits - 9)
    WRITERS[name](tmp_path / name, values)
    assert close(tmp_path / name, RAMP)
    (item,) = list_inputs(values)
    assert np.abs(item.read().numpy() * 255 - RAMP).max() <= 1


STATED = {
    "max.tif": {281: 4095},
    "most.tif": {281: 3900},  # of the largest value there was
    "smax.tif": {341: 4095},
    "ome.tif": {270: '<Pixels Type="uint16" SignificantBits="12"/>'},
}


@pytest.mark.parametrize("name", [*STATED, "grey.png", "colour.png", "grey.pgm"])
def test_the_bits_that_a_file_states_keep_a_dark_image_dark(tmp_path, name):
    path = tmp_path / name
    if name in STATED:
        Image.fromarray(DARK).save(path, tiffinfo=STATED[name])
    else:
        write_pgm(path, DARK, 4095) if name == "grey.pgm" else write_png(path, DARK, 12)
    assert close(path, RAMP // 8)


def test_tiff_white_as_zero_and_other_numbers(tmp_path):
    Image.fromarray(SIXTEEN).save(tmp_path / "white.tif", tiffinfo={262: 0})
    assert close(tmp_path / "white.tif", 255 - RAMP)
    for name, values in {
        "unit.tif": RAMP.astype(np.float32) / 255,
        "bytes.tif": RAMP.astype(np.int32),
        "hounsfield.tif": RAMP.astype(np.int32) * 16 - 1000,
        "density.tif": RAMP.astype(np.float32) / 80 + 1,
        "counts.tif": RAMP.astype(np.int32) * 1000,
    }.items():
        Image.fromarray(values).save(tmp_path / name)
        low, high = {"unit.tif": (0, 1), "bytes.tif": (0, 255)}.get(name, (values.min(), values.max()))
        assert close(tmp_path / name, (values.astype(float) - low) / (high - low) * 255)


def test_images_of_two_depths_are_reported_once(tmp_path, caplog):
    for name, bits in {"a": 16, "c": 16}.items():
        write_png(tmp_path / f"{name}.png", DARK if name == "c" else SIXTEEN, bits)
        read_image(tmp_path / f"{name}.png")
    assert not caplog.text
    for name, values in {"a": SIXTEEN, "b": SIXTEEN, "c": DARK, "d": DARK, "e": SIXTEEN // 16}.items():
        Image.fromarray(values).save(tmp_path / f"{name}.png")
        read_image(tmp_path / f"{name}.png")
    assert caplog.text.count("they come from one camera") == 1
    assert "a.png is read as an image of 16 bits and" in caplog.text
    assert "c.png of 10" in caplog.text


# ---------------------------------------------------------------------- transparency


@pytest.mark.parametrize("name", ["rgba.png", "grey.png", "rgba.tif", "rgba.webp", "palette.gif", "deep.png"])
def test_transparency_is_laid_over_black(tmp_path, name):
    path = tmp_path / name
    alpha = np.zeros((8, 8), dtype=np.uint8)
    alpha[2:6, 2:6] = 255
    image = GREY.convert("LA" if name == "grey.png" else "RGBA")
    image.putalpha(Image.fromarray(alpha))
    if name == "deep.png":
        cv2.imwrite(str(path), np.dstack([SIXTEEN] * 3 + [alpha.astype(np.uint16) * 257]))
    else:
        image.save(path, **lossless(path))
    assert close(path, RAMP * (alpha > 0), 3)


@pytest.mark.parametrize(("alpha", "share"), [(128, 128 / 255), (255, 1), (0, 1)])
def test_half_transparent_opaque_and_unused_alpha(tmp_path, alpha, share):
    path, image = tmp_path / "image.png", GREY.convert("RGBA")
    image.putalpha(alpha)
    image.save(path)
    assert close(path, RAMP * share)
    for given in (image, np.array(image)):
        (item,) = list_inputs(given)
        assert np.abs(item.read().numpy() * 255 - RAMP * share).max() <= 1


# ---------------------------------------------------------------------- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "photo.tif", "photo.webp", "deep.png", "deep.tif"])
def test_images_are_upright_as_pillow_turns_them(tmp_path, name, orientation):
    grid = np.random.default_rng(0).integers(0, 256, (3, 5), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    path = tmp_path / name
    values = grid.astype(np.uint16) * 257 if name.startswith("deep") else grid
    exif = write_turned(path, Image.fromarray(values), orientation, **lossless(path))
    reference = Image.fromarray(grid)
    reference.info["exif"] = exif.tobytes()
    expected = np.asarray(ImageOps.exif_transpose(reference))
    assert close(path, expected, 6 if name.endswith("jpg") else 0.1)
    assert image_size(path) == expected.shape == open_image(path).size[::-1]
    (item,) = list_inputs(Image.open(BytesIO(path.read_bytes())))
    assert (item.read() == read_image(path)).all()
    header = read_header(path)
    assert header.plain_size == (expected.shape if name.endswith("tif") else grid.shape)
    assert header.plain == (name.startswith("photo") and orientation == 1)


@pytest.mark.parametrize(("orientation", "quarters"), [(3, 2), (6, -1), (8, 1)])
def test_a_mask_of_the_stored_size_is_turned_with_its_image(tmp_path, orientation, quarters):
    stored = np.zeros((24, 40), dtype=np.uint8)
    stored[:6, :10] = 1  # the corner at the top left
    displayed = np.rot90(stored, quarters)
    write_turned(tmp_path / "photo.jpg", Image.fromarray(stored * 200), orientation)
    Image.fromarray(displayed * 255).save(tmp_path / "displayed.png")
    Image.fromarray(stored).save(tmp_path / "stored.png")
    write_turned(tmp_path / "turned.png", Image.fromarray(stored), orientation)
    # Half a turn leaves the size as it is, and a mask is taken as the image is displayed.
    masks = {"displayed": displayed, "turned": displayed, "stored": stored if orientation == 3 else displayed}
    for name, expected in masks.items():
        assert (read_mask(tmp_path / f"{name}.png", tmp_path / "photo.jpg").numpy() == expected).all()


@pytest.mark.parametrize("values", [RAMP > 8, (RAMP > 8).astype(np.uint8), (RAMP > 8).astype(np.uint16), COLOURS > 8])
def test_every_value_of_a_mask_but_0_is_marked(tmp_path, values):
    GREY.save(tmp_path / "image.png")
    Image.fromarray(values if values.ndim == 2 else values.astype(np.uint8)).save(tmp_path / "mask.png")
    expected = values.any(-1) if values.ndim == 3 else values > 0
    assert (read_mask(tmp_path / "mask.png", tmp_path / "image.png").numpy() == expected).all()


# ---------------------------------------------------------------------- files


def test_files_that_cannot_be_read_are_named(tmp_path):
    cut, planes = tmp_path / "cut.png", tmp_path / "planes.tif"
    Image.effect_noise((64, 64), 90).save(cut)
    cut.write_bytes(cut.read_bytes()[:900])
    cv2.imwrite(str(planes), COLOURS.astype(np.uint16))
    pixel_by_pixel = struct.pack("<HHII", 284, 3, 1, 1)
    assert pixel_by_pixel in planes.read_bytes()
    planes.write_bytes(planes.read_bytes().replace(pixel_by_pixel, struct.pack("<HHII", 284, 3, 1, 2)))
    messages = {cut: r"cut\.png: 900 bytes", tmp_path / "none.png": r"none\.png: no such file", planes: r"planes\.tif"}
    for path, message in messages.items():
        with pytest.raises(ImageFileError, match=message):
            read_image(path)


def test_list_images_is_sorted_and_reports_files_it_leaves_out(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    names = ["a.jpeg", "b.PNG", "c.tiff", "d.jp2", "e.gif", "f.jfif", "g.mpo", "h.bmp"]
    names += ["i.avif"] if "AVIF" in FORMATS else []
    for name in (*names, "notes.txt", "x.heic", "y.HEIC", "film.mpg", "paper.pdf", "README", "._a.jpeg", ".DS_Store"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == names
    list_images(tmp_path)
    (record,) = caplog.records
    wanted = "6 files are not read, by their endings (2 .heic, 1 .mpg, 1 .pdf, 1 .txt, 1 without ending)"
    assert wanted in record.getMessage()
