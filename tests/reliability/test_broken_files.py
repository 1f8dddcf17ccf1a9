# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Damaged files of every kind the package reads: each works, or gives the documented error that names the file."""

import json
import math
import random
import warnings
from io import BytesIO

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_inctrl import Detector, InCTRLv2
from anomalib_inctrl.app.service import check_prompts
from anomalib_inctrl.benchmark.config import read_config
from anomalib_inctrl.data.datasets.converted import read_manifest
from anomalib_inctrl.errors import (
    BackboneError,
    BenchmarkError,
    CheckpointError,
    DatasetError,
    ImageFileError,
    PromptError,
)
from anomalib_inctrl.io.images import image_size, read_image
from anomalib_inctrl.prompts.selection import read_prompt_list


def damaged(content, count):
    """Damaged versions of a file's content, always the same for the same arguments."""
    rng, size = random.Random(0), len(content)
    found = [b"", content[:1], content[:-1], bytes(size), b"\n" + content, content + b"\0" * 100, content * 2]
    found.append(b"404: Not Found\n")
    while len(found) < count:
        start, length = rng.randrange(size), rng.choice((1, 8, 64, 512))
        before, part, after = content[:start], content[start : start + length], content[start + length :]
        found += [before, before + after, before + part + part + after]  # truncated, removed, doubled
        found += [before + bytes(len(part)) + after, before + rng.randbytes(len(part)) + after]
        for end in (size, min(200, size)):  # formats keep what everything else depends on at the beginning
            flipped = bytearray(content)
            for _ in range(rng.choice((1, 1, 3, 30))):
                flipped[rng.randrange(end)] ^= 1 << rng.randrange(8)
            found.append(bytes(flipped))
    return found[:count]


def read_versions(path, versions, read, *errors, named=None):
    """Write each version to a file and read it: what was read, by number; errors have to name the file."""
    results, wrong = {}, {}
    for number, content in enumerate(versions):
        path.write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow warns of what it then reads or refuses
                results[number] = read(path)
        except Exception as error:  # collected, so that one run shows them all
            if not isinstance(error, errors) or (named or path.name) not in str(error):
                wrong[number] = f"{type(error).__name__}: {error}"[:150]
    assert not wrong
    return results


FORMATS = {
    "RGB": ("png", "jpg", "bmp", "webp", "ppm", "jp2"),
    "RGBA": ("tif",),
    "P": ("png", "gif"),
    "F": ("tif",),
    "I;16": ("png",),
    "16 bits": ("png", "tif"),
}
NO_IMAGES = [b"%PDF-1.4\n", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg></svg>"]


def image_content(mode="RGB", ending="png"):
    values = np.random.default_rng(0).integers(0, 256, (9, 12), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    deep, file = values.astype(np.uint16) * 257, BytesIO()
    if mode == "16 bits":
        return cv2.imencode(f".{ending}", np.dstack([deep] * 3))[1].tobytes()
    image = Image.fromarray(deep) if mode == "I;16" else Image.fromarray(values).convert("RGB").convert(mode)
    image.save(file, format=Image.registered_extensions()[f".{ending}"])
    return file.getvalue()


@pytest.mark.parametrize(("mode", "ending"), [(mode, ending) for mode in FORMATS for ending in FORMATS[mode]])
def test_damaged_images(mode, ending, tmp_path):
    path, content = tmp_path / "image.png", image_content(mode, ending)  # the content decides the format
    path.write_bytes(content)
    assert read_image(path).shape == (3, 36, 48)
    versions = [start * 20 for start in NO_IMAGES] + damaged(content, 48)
    found = read_versions(path, versions, read_image, ImageFileError)
    sizes = read_versions(path, versions, image_size, ImageFileError)
    read_versions(path, versions, lambda path: check_prompts([path]), ImageFileError)
    assert len(found) < 48 - 10
    assert not found.keys() & set(range(len(NO_IMAGES)))
    for version, pixels in found.items():
        assert pixels.shape == (3, *sizes[version])
        assert 0 <= pixels.min() <= pixels.max() <= 1


@pytest.mark.parametrize("name", ["a" * 300 + ".png", "a\0b.png", ".", "/", "no/such/folder/x.png", "000001.png/x.png"])
def test_paths_without_an_image_are_refused(name, tmp_path, detector):
    path = tmp_path / name if name[0] not in "./" else name
    for read in (read_image, image_size, detector.predict):
        with pytest.raises(ImageFileError):
            read(str(path))


@pytest.fixture
def score_with(pixels):
    """The score of an image by a checkpoint."""

    def score(path):
        detector = Detector(path, device="cpu")
        if not detector.class_names:
            detector.set_prompts(pixels)
        (found,) = detector.predict(pixels, detector.class_names[0])
        assert math.isfinite(found.score)
        assert np.isfinite(found.anomaly_map).all()
        return found.score

    return score


def test_damaged_checkpoints(checkpoint, score_with, tmp_path):
    versions = damaged(checkpoint.read_bytes(), 40)
    found = read_versions(tmp_path / "heads.ckpt", versions, score_with, CheckpointError)
    # Damage that is not noticed would be wrong scores that nobody questions. Those that load are intact but for what
    # follows the file, its padding and header fields that nobody reads.
    assert set(found.values()) <= {score_with(checkpoint)}
    assert len(found) < 0.15 * len(versions)


def changed_checkpoints(whole):
    """Checkpoints that can be read and whose content is wrong."""

    def without(entries, key):
        return {name: value for name, value in entries.items() if name != key}

    state, settings = whole["state_dict"], whole["hyper_parameters"]
    yield [whole]
    for key in ("state_dict", "hyper_parameters"):
        yield without(whole, key)
        yield whole | {key: []}
    for key in ("backbone", "pretrained", "blocks", "residual_scale"):
        yield whole | {"hyper_parameters": without(settings, key)}
        yield whole | {"hyper_parameters": settings | {key: 7}}
    yield whole | {"state_dict": state | {"model.bank._extra_state": {"class_names": ["a", "b"], "files": [[], []]}}}
    for key, value in state.items():
        yield whole | {"state_dict": without(state, key)}
        yield whole | {"state_dict": state | {key: "text"}}
        if torch.is_tensor(value):
            yield whole | {"state_dict": state | {key: torch.zeros(2, 3, 5)}}
            if value.is_floating_point() and key.startswith("model.") and value.numel():
                yield whole | {"state_dict": state | {key: value * math.nan}}


def test_checkpoints_with_wrong_content(checkpoint, score_with, tmp_path):
    versions = []
    for content in changed_checkpoints(torch.load(checkpoint, weights_only=True)):
        file = BytesIO()
        torch.save(content, file)
        versions.append(file.getvalue())
    assert not read_versions(tmp_path / "heads.ckpt", versions, score_with, CheckpointError, BackboneError)


@pytest.mark.parametrize("part", ["config.json", "model.safetensors"])
def test_damaged_shared_folders(part, make_module, tmp_path):
    make_module().save_pretrained(tmp_path)

    def load(path):
        return InCTRLv2(weights=str(path.parent)).model.head_tensors()

    path = tmp_path / part
    before, versions = load(path), damaged(path.read_bytes(), 40)
    for tensors in read_versions(path, versions, load, CheckpointError, BackboneError, named=tmp_path.name).values():
        torch.testing.assert_close(tensors, {key: before[key] for key in tensors}, rtol=0, atol=0)


MANIFEST = "path,split,label,category,source,sha256\n" + "".join(
    f"head/train/good/{number:03}.png,train,good,head,raw/{number}.png,{'ab' * 32}\n" for number in range(9)
)
OUTSIDE = [
    MANIFEST.replace("head/train/good/003.png", path).encode()
    for path in ("/etc/passwd", "../raw/labels.csv", r"..\x.png")
]
BENCHMARK = """\
output: results
models:
  baseline: {class_path: InCTRLv2, init_args: {backbone: mini-clip-16-240, pretrained: demo}}
targets:
  Demo: {datamodule: InCTRLDemo, root: data, categories: [washer]}
k_shots: [1, 2]
seeds: [0, 1]
"""
LISTED = json.dumps({"washer": ["0.png", "1.png"], "gear": ["2.png"]}, indent=1)
LISTS = [b'{"washer": 7}', b'{"washer": [7]}', b"\xff\xfe\0", b"{}", b"a" * 5000, b'"\\u0000"']
CONFIGS = [b"- 1\n- 2\n", b"[" * 3000, b"~", b"a: &a [*a]", b"7", b"output: ${output}\n"]


@pytest.mark.parametrize(
    ("file", "content", "count", "more", "read", "error"),
    [
        ("manifest.csv", MANIFEST, 60, OUTSIDE, lambda path: read_manifest(path.parent), DatasetError),
        ("prompts.json", LISTED, 40, LISTS, read_prompt_list, PromptError),
        ("prompts.txt", "0.png\n1.png\n2.png\n", 40, LISTS, read_prompt_list, PromptError),
        ("config.yaml", BENCHMARK, 60, CONFIGS, read_config, BenchmarkError),
    ],
)
def test_damaged_text_files(file, content, count, more, read, error, tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(image_content())
    path = tmp_path / file
    path.write_text(content)
    read(path)
    found = read_versions(path, more + damaged(content.encode(), count), read, error)
    if file == "manifest.csv":
        assert not found.keys() & set(range(len(OUTSIDE)))
        for table in found.values():
            assert all((tmp_path / name).resolve().is_relative_to(tmp_path) for name in table["path"])
