# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Images of every mode, size and shape, class names in any script, and values that are not finite."""

import math
from io import BytesIO

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from anomalib_inctrl import InCTRLv2
from anomalib_inctrl.backbones.preprocessing import BicubicResize
from anomalib_inctrl.errors import ImageDataError, ImageFileError, PromptError
from anomalib_inctrl.io.images import read_image

# A TIFF file holds all but PA, RGBX and HSV.
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I", "I;16", "F")
SIDES = st.one_of(st.integers(1, 40), st.sampled_from((239, 240, 241, 1000)))
LONG = st.integers(1000, 8000)
SIZES = st.one_of(st.tuples(SIDES, SIDES), st.tuples(st.integers(1, 3), LONG), st.tuples(LONG, st.integers(1, 3)))
few = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def noise(mode, size, seed):
    """An image of noise over the whole range of its mode; size is (width, height)."""
    rng = np.random.default_rng(seed)
    shape = size[::-1]
    if mode == "F":
        return Image.fromarray(rng.normal(0, 1e3, shape).astype(np.float32))
    if mode in {"I", "I;16"}:
        kind = np.int32 if mode == "I" else np.uint16
        return Image.fromarray(rng.integers(np.iinfo(kind).min, np.iinfo(kind).max, shape, dtype=kind, endpoint=True))
    if mode == "LAB":
        return Image.frombytes("LAB", size, rng.bytes(3 * size[0] * size[1]))
    colours = Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
    return colours.convert({"PA": "P", "LA": "L"}.get(mode, mode)).convert(mode)


@few
@given(mode=st.sampled_from(MODES), size=SIZES, seed=st.integers(0, 9))
@example(mode="1", size=(1, 1), seed=0)
@example(mode="RGBA", size=(8000, 1), seed=0)
@example(mode="I;16", size=(1, 8000), seed=0)
@example(mode="CMYK", size=(1, 1), seed=0)
def test_images_of_every_mode_and_size_in_memory_and_as_files(detector, tmp_path, mode, size, seed):
    image = noise(mode, size, seed)
    before = image.copy()
    (result,) = detector.predict(image)
    assert image == before
    assert 0 <= result.score <= 1
    assert all(0 <= value <= 1 for value in result.components.values())
    assert result.anomaly_map.shape == result.size == size[::-1]
    assert 0 <= result.anomaly_map.min() <= result.anomaly_map.max() <= 1
    assert result.heat_map(side=32).size[0] <= 32
    if mode not in {"PA", "RGBX", "HSV"}:
        path = tmp_path / "image.tif"
        image.save(path)
        (from_file,) = detector.predict(path)
        assert from_file.score == pytest.approx(result.score, abs=1e-6)


def test_of_a_line_only_the_centre_crop_is_computed():
    """Scaled to 240 rows it would have two million columns; the part that is kept is computed, and it is the same."""
    resize = BicubicResize(240, "center_crop")
    line = torch.rand(3, 2, 8000, generator=torch.Generator().manual_seed(0))
    # A shorter line, of the same scale, is resized as a whole.
    for whole, part in ((line, line[..., 3940:4060]), (line.mT, line[..., 3940:4060].mT)):
        levels = (resize(whole) - resize(part)).abs() * 255
        assert levels.max() <= 1.01
        assert levels.gt(0.5).float().mean() < 0.01


@few
@given(st.lists(st.sampled_from((math.nan, math.inf, -math.inf, -3.5, 0.0, 1e-30, 7.0, 3e38, -3e38)), min_size=1))
@example([math.nan])
@example([math.inf, -math.inf])
@example([math.inf, 1.0, 2.0])
@example([0.0, 1e-30])
def test_floating_point_files_with_values_that_are_not_finite(tmp_path, values):
    """NaN counts as the lowest finite value, infinity as the highest: what is finite keeps its order."""
    path = tmp_path / "depth.tif"
    Image.fromarray(np.array([values], dtype=np.float32)).save(path)
    pixels = read_image(path)
    assert 0 <= pixels.min() <= pixels.max() <= 1
    order = sorted((i for i, value in enumerate(values) if math.isfinite(value)), key=values.__getitem__)
    assert (pixels[0, 0, order].diff() >= 0).all()
    low, high = (values[order[0]], values[order[-1]]) if order else (0, 0)
    # From 0 to 1 they are taken as they are.
    if low < high and not 0 <= low < high < 2:
        assert (pixels.min(), pixels.max()) == (0, 1)


@few
@given(class_name=st.text(min_size=1, max_size=300))
@example(class_name="\0")
@example(class_name="🔩" * 50)
@example(class_name="../../etc/passwd")
@example(class_name="{} %s {class_name} \\N{DASH}")
@example(class_name="x" * 100_000)
@example(class_name="\ud800")
def test_class_names_in_any_script(detector, pixels, class_name):
    if not class_name.strip():
        with pytest.raises(PromptError, match="class_name="):
            detector.set_prompts(pixels, class_name=class_name)
        return
    detector.set_prompts(pixels, class_name=class_name)
    (result,) = detector.predict(pixels, class_name)
    assert result.class_name == class_name
    assert class_name in detector.class_names
    assert 0 <= result.score <= 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_tensors_with_values_that_are_not_finite_are_named(value, detector, make_module, pixels):
    wrong = pixels.clone()
    wrong[1, 3, 5] = value
    for give in (detector.predict, detector.set_prompts, detector.held_out_scores):
        with pytest.raises(ImageDataError, match=r"images\[1\]: holds NaN or infinite values"):
            give([pixels, wrong])
    assert detector.class_names == ["washer"]
    # Below the detector the image is named rather than labelled normal, and its neighbours keep their scores.
    module = make_module(InCTRLv2).eval()
    with pytest.raises(ImageDataError, match="holds NaN or infinite values"):
        module.pre_processor.transform(wrong)
    images = module.pre_processor.transform(pixels).repeat(3, 1, 1, 1)
    module.model.set_prompts(images[:1].flip(3), "washer")
    alone = module.model.score_components(images[[0, 2]]).score
    images[1, 0, 0, 0] = value
    scores = module.model.score_components(images).score
    assert not scores[1].isfinite()
    torch.testing.assert_close(scores[[0, 2]], alone)
    batch = ImageBatch(image=images, image_path=["a.png", "b.png", "c.png"])
    with pytest.raises(ImageDataError, match=r"b\.png: its score is not finite, because it holds"):
        module.test_step(batch, 0)
    with pytest.raises(PromptError, match="hold NaN or infinite values"):
        module.model.set_prompts(images, "washer")


def test_an_image_larger_than_the_limit_is_refused_by_its_header(tmp_path, detector):
    content = BytesIO()
    Image.new("RGB", (4, 4)).save(content, format="BMP")
    changed = bytearray(content.getvalue())
    changed[18:26] = (60_000).to_bytes(4, "little") * 2
    (tmp_path / "large.bmp").write_bytes(changed)
    with pytest.raises(ImageFileError, match=r"large\.bmp.*exceeds limit"):
        detector.predict(tmp_path / "large.bmp")
