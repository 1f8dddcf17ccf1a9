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
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from anomalib_inctrl.errors import ImageFileError
from anomalib_inctrl.io import images
from anomalib_inctrl.io.images import FORMATS, image_size, list_images, open_image, read_header, read_image, read_mask
from anomalib_inctrl.io.inputs import list_inputs

RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
COLOURS = np.dstack([RAMP, RAMP.T, 255 - RAMP])
SIXTEEN = RAMP.astype(np.uint16) * 256 + 128
ORIENTATION = 274


def levels(path):
    return (read_image(path) * 255).round().numpy().astype(int)


def with_alpha(alpha, mode="RGBA"):
    image = Image.fromarray(RAMP).convert(mode)
    image.putalpha(Image.fromarray(np.asarray(alpha, dtype=np.uint8)))
    return image


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("grey.png", Image.fromarray(RAMP)),
        ("grey.jpg", Image.fromarray(RAMP)),
        ("grey.bmp", Image.fromarray(RAMP)),
        ("grey.pgm", Image.fromarray(RAMP)),
        ("grey.jp2", Image.fromarray(RAMP)),
        ("rgb.png", Image.fromarray(RAMP).convert("RGB")),
        ("rgb.ppm", Image.fromarray(RAMP).convert("RGB")),
        ("rgba.png", Image.fromarray(RAMP).convert("RGBA")),
        ("rgba.tif", Image.fromarray(RAMP).convert("RGBA")),
        ("grey_alpha.png", Image.fromarray(RAMP).convert("LA")),
        ("palette.png", Image.fromarray(RAMP).convert("P")),
        ("palette.gif", Image.fromarray(RAMP).convert("P")),
        ("cmyk.tif", Image.fromarray(RAMP).convert("RGB").convert("CMYK")),
        ("ycbcr.tif", Image.fromarray(RAMP).convert("RGB").convert("YCbCr")),
        ("lab.tif", Image.merge("LAB", [Image.fromarray(RAMP)] + [Image.new("L", (8, 8), 128)] * 2)),
        ("sixteen.png", Image.fromarray(SIXTEEN)),
        ("sixteen.tif", Image.fromarray(SIXTEEN)),
        ("sixteen.jp2", Image.fromarray(SIXTEEN)),
        ("integer.tif", Image.fromarray(RAMP.astype(np.int32))),
        ("float.tif", Image.fromarray(RAMP.astype(np.float32) / 255)),
    ],
)
def test_every_mode_reads_as_rgb(tmp_path, name, image):
    image.save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    pixels = read_image(tmp_path / name)
    assert pixels.shape == (3, 8, 8)
    # L* is not linear in the grey value; the other two are lossy.
    tolerance = {"grey.jpg": 12, "lab.tif": 25, "palette.gif": 4}.get(name, 1)
    assert np.abs(pixels.numpy() * 255 - RAMP).max() <= tolerance


def test_black_and_white_and_losslessly_compressed_colours(tmp_path):
    Image.fromarray(RAMP > 100).save(tmp_path / "1.tif")
    assert (levels(tmp_path / "1.tif") == (RAMP > 100) * 255).all()
    for name, options in {"a.webp": {"lossless": True}, "a.tif": {"compression": "tiff_lzw"}, "a.png": {}}.items():
        Image.fromarray(COLOURS).save(tmp_path / name, **options)
        assert (levels(tmp_path / name) == COLOURS.transpose(2, 0, 1)).all()


def test_of_several_pages_or_frames_the_first_is_read_and_that_is_told_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(images, "_WARNED", set())
    pages = [Image.fromarray(RAMP), Image.fromarray(255 - RAMP), Image.fromarray(RAMP.T.copy())]
    for name in ("pages.tif", "frames.gif", "frames.apng", "frames.webp"):
        options = {"format": "PNG"} if name.endswith("apng") else {"lossless": True} if name.endswith("webp") else {}
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:], **options)
        assert np.abs(levels(tmp_path / name) - RAMP).max() <= 1
        assert f"{name} holds several pages or frames: the first is read" in caplog.text
    caplog.clear()
    pages[1].save(tmp_path / "more.tif", save_all=True, append_images=pages)
    read_image(tmp_path / "more.tif")
    pages[0].convert("RGB").save(tmp_path / "phone.mpo", save_all=True, append_images=[pages[1].convert("RGB")])
    assert np.abs(levels(tmp_path / "phone.mpo") - RAMP).max() <= 12
    assert not caplog.text  # phones add a preview to every photo


# ---------------------------------------------------------------------- more than 8 bits


def write_png16(path, values, bits=None):
    """A 16-bit PNG of grey or RGB values, with the number of bits in use if given."""
    height, width = values.shape[:2]
    colour = 2 if values.ndim == 3 else 0
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))]
    chunks += [(b"sBIT", bytes([bits] * (3 if colour else 1)))] if bits else []
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
             for kind, data in chunks]  # fmt: skip
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def write_tiff16(path, values, **tags):
    directory = ImageFileDirectory_v2()
    for tag, value in tags.items():
        directory[int(tag[1:])] = value
    Image.fromarray(values).save(path, tiffinfo=directory)


WRITERS = {
    "grey.png": write_png16,
    "colour.png": lambda path, values: write_png16(path, np.dstack([values] * 3)),
    "grey.tif": write_tiff16,
    "big-endian.tif": lambda path, values: path.write_bytes(
        b"MM\0*"
        + struct.pack(">I", 8)
        + struct.pack(">H", 8)
        + b"".join(
            struct.pack(">HHIHH", tag, 3, 1, value, 0)
            for tag, value in ((256, 8), (257, 8), (258, 16), (259, 1), (262, 1), (273, 110), (278, 8), (279, 128))
        )
        + struct.pack(">I", 0)
        + values.astype(">u2").tobytes()
    ),
    "colour.tif": lambda path, values: cv2.imwrite(str(path), np.dstack([values] * 3)),
    "alpha.png": lambda path, values: cv2.imwrite(str(path), np.dstack([values] * 3 + [np.full_like(values, 65535)])),
    "grey.pgm": lambda path, values: path.write_bytes(b"P5\n8 8\n65535\n" + values.astype(">u2").tobytes()),
    "colour.ppm": lambda path, values: cv2.imwrite(str(path), np.dstack([values] * 3)),
    "float.tif": lambda path, values: Image.fromarray(values.astype(np.float32)).save(path),
    "integer.tif": lambda path, values: Image.fromarray(values.astype(np.int32)).save(path),
}


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("name", WRITERS)
def test_values_of_more_than_8_bits_fill_the_range(tmp_path, name, bits):
    values = (RAMP.astype(np.uint16) << (bits - 8)) + 2 ** (bits - 9)
    WRITERS[name](tmp_path / name, values)
    assert np.abs(levels(tmp_path / name) - RAMP).max() <= 1
    (item,) = list_inputs(values)
    assert np.abs(item.read().numpy() * 255 - RAMP).max() <= 1


DARK = (RAMP // 8).astype(np.uint16) * 16 + 7  # of 12 bits, and the largest value is 503: as if of 9


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("max.tif", lambda path: write_tiff16(path, DARK, t281=4095)),
        ("most.tif", lambda path: write_tiff16(path, DARK, t281=3900)),  # of the largest value there was
        ("smax.tif", lambda path: write_tiff16(path, DARK, t341=4095)),
        ("ome.tif", lambda path: write_tiff16(path, DARK, t270='<Pixels Type="uint16" SignificantBits="12"/>')),
        ("grey.png", lambda path: write_png16(path, DARK, bits=12)),
        ("colour.png", lambda path: write_png16(path, np.dstack([DARK] * 3), bits=12)),
        ("grey.pgm", lambda path: path.write_bytes(b"P5\n8 8\n4095\n" + DARK.astype(">u2").tobytes())),
    ],
)
def test_the_bits_that_a_file_states_keep_a_dark_image_dark(tmp_path, name, write):
    write(tmp_path / name)
    assert np.abs(levels(tmp_path / name) - RAMP // 8).max() <= 1


def test_tiff_packed_12_bits_white_as_zero_and_other_numbers(tmp_path):
    write_tiff16(tmp_path / "white.tif", SIXTEEN, t262=0)
    assert np.abs(levels(tmp_path / "white.tif") - (255 - RAMP)).max() <= 1
    for name, values in {
        "unit.tif": RAMP.astype(np.float32) / 255,
        "hounsfield.tif": RAMP.astype(np.int32) * 16 - 1000,
        "density.tif": RAMP.astype(np.float32) / 80 + 1,
        "counts.tif": RAMP.astype(np.int32) * 1000,
    }.items():
        Image.fromarray(values).save(tmp_path / name)
        low, high = (0, 1) if name == "unit.tif" else (values.min(), values.max())
        expected = (values.astype(float) - low) / (high - low) * 255
        assert np.abs(levels(tmp_path / name) - expected).max() <= 1


def test_images_of_two_depths_are_told_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(images, "_DEPTHS_SEEN", {})
    for name, values in {"a": SIXTEEN, "b": SIXTEEN, "c": DARK, "d": DARK, "e": SIXTEEN // 16}.items():
        Image.fromarray(values).save(tmp_path / f"{name}.png")
        read_image(tmp_path / f"{name}.png")
    assert caplog.text.count("they come from one camera") == 1
    assert "a.png is read as an image of 16 bits and" in caplog.text
    assert "c.png of 10" in caplog.text
    monkeypatch.setattr(images, "_DEPTHS_SEEN", {})
    caplog.clear()
    for name, bits in {"a": 16, "c": 16}.items():
        write_png16(tmp_path / f"{name}.png", DARK if name == "c" else SIXTEEN, bits)
        read_image(tmp_path / f"{name}.png")
    assert not caplog.text


# ---------------------------------------------------------------------- transparency


@pytest.mark.parametrize("name", ["rgba.png", "grey.png", "rgba.tif", "rgba.webp", "palette.gif", "deep.png"])
def test_transparency_is_laid_over_black(tmp_path, name):
    alpha = np.zeros((8, 8), dtype=np.uint8)
    alpha[2:6, 2:6] = 255
    image = with_alpha(alpha, "LA" if name == "grey.png" else "RGBA")
    if name == "deep.png":
        cv2.imwrite(str(tmp_path / name), np.dstack([SIXTEEN] * 3 + [alpha.astype(np.uint16) * 257]))
    else:
        image.save(tmp_path / name, **({"lossless": True, "exact": True} if name.endswith("webp") else {}))
    found = levels(tmp_path / name)
    assert np.abs(found - RAMP * (alpha > 0)).max() <= 3


def test_half_transparent_opaque_and_unused_alpha(tmp_path):
    path = tmp_path / "image.png"
    for alpha, share in ((128, 128 / 255), (255, 1), (0, 1)):
        with_alpha(np.full((8, 8), alpha)).save(path)
        assert np.abs(levels(path) - RAMP * share).max() <= 1
        for given in (Image.open(path), np.array(Image.open(path))):
            (item,) = list_inputs(given)
            assert np.abs(item.read().numpy() * 255 - RAMP * share).max() <= 1


# ---------------------------------------------------------------------- orientation


def write_turned(path, image, orientation, **options):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image.save(path, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "photo.tif", "photo.webp", "deep.png", "deep.tif"])
def test_images_are_upright_as_pillow_turns_them(tmp_path, name, orientation):
    grid = np.random.default_rng(0).integers(0, 256, (3, 5), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    values = grid.astype(np.uint16) * 257 if name.startswith("deep") else grid
    path = tmp_path / name
    write_turned(path, Image.fromarray(values), orientation, **({"lossless": True} if "webp" in name else {}))
    if name == "deep.png":
        assert Image.Image.getexif(Image.open(path)).get(ORIENTATION) == orientation
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    reference = Image.fromarray(grid)
    reference.info["exif"] = exif.tobytes()
    expected = np.asarray(ImageOps.exif_transpose(reference))
    assert np.abs(levels(path) - expected).max() <= (6 if name.endswith("jpg") else 0)
    assert image_size(path) == expected.shape == open_image(path).size[::-1]
    (item,) = list_inputs(Image.open(BytesIO(path.read_bytes())))
    assert (item.read() == read_image(path)).all()
    header = read_header(path)
    assert header.plain_size == (expected.shape if name.endswith("tif") else grid.shape)
    assert header.plain == (name.startswith("photo") and orientation == 1)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_mask_of_the_stored_size_is_turned_with_its_image(tmp_path, orientation):
    stored = np.zeros((24, 40), dtype=np.uint8)
    stored[:6, :10] = 1  # the corner at the top left
    displayed = np.rot90(stored, {3: 2, 6: -1, 8: 1}[orientation])
    write_turned(tmp_path / "photo.jpg", Image.fromarray(stored * 200), orientation)
    Image.fromarray(displayed * 255).save(tmp_path / "displayed.png")
    Image.fromarray(stored).save(tmp_path / "stored.png")
    write_turned(tmp_path / "turned.png", Image.fromarray(stored), orientation)
    assert (read_mask(tmp_path / "displayed.png", tmp_path / "photo.jpg").numpy() == displayed).all()
    assert (read_mask(tmp_path / "turned.png", tmp_path / "photo.jpg").numpy() == displayed).all()
    # Half a turn leaves the size as it is, and a mask is taken as the image is displayed.
    found = read_mask(tmp_path / "stored.png", tmp_path / "photo.jpg").numpy()
    assert (found == (stored if orientation == 3 else displayed)).all()


@pytest.mark.parametrize("values", [RAMP > 8, (RAMP > 8).astype(np.uint8), (RAMP > 8).astype(np.uint16), COLOURS > 8])
def test_every_value_of_a_mask_but_0_is_marked(tmp_path, values):
    Image.fromarray(RAMP).save(tmp_path / "image.png")
    Image.fromarray(values if values.ndim == 2 else values.astype(np.uint8)).save(tmp_path / "mask.png")
    expected = values.any(-1) if values.ndim == 3 else values > 0
    assert (read_mask(tmp_path / "mask.png", tmp_path / "image.png").numpy() == expected).all()


# ---------------------------------------------------------------------- files


def test_truncated_and_missing_files_are_named(tmp_path):
    path = tmp_path / "cut.png"
    Image.effect_noise((64, 64), 90).save(path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ImageFileError, match=r"cut\.png: 900 bytes"):
        read_image(path)
    with pytest.raises(ImageFileError, match=r"none\.png: no such file"):
        read_image(tmp_path / "none.png")
    planes = tmp_path / "planes.tif"
    cv2.imwrite(str(planes), np.dstack([SIXTEEN] * 3))
    content = planes.read_bytes()
    assert struct.pack("<HHII", 284, 3, 1, 1) in content
    planes.write_bytes(content.replace(struct.pack("<HHII", 284, 3, 1, 1), struct.pack("<HHII", 284, 3, 1, 2)))
    with pytest.raises(ImageFileError, match=r"planes\.tif"):
        read_image(planes)


def test_list_images_is_sorted_and_tells_of_files_it_leaves_out(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    names = ["a.jpeg", "b.PNG", "c.tiff", "d.jp2", "e.gif", "f.jfif", "g.mpo", "h.bmp", "i.avif"]
    for name in (*names, "notes.txt", "x.heic", "y.HEIC", "film.mpg", "paper.pdf", "README", "._a.jpeg", ".DS_Store"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    wanted = [name for name in names if name != "i.avif" or "AVIF" in FORMATS]
    assert [path.name for path in list_images(tmp_path)] == wanted
    list_images(tmp_path)
    (record,) = [record for record in caplog.records if str(tmp_path) in record.getMessage()]
    assert f"{6 + ('AVIF' not in FORMATS)} files are not read" in record.getMessage()
    assert "(2 .heic, 1 .mpg, 1 .pdf, 1 .txt, 1 without ending)" in record.getMessage().replace("1 .avif, ", "")
