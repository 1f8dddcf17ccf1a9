# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Damaged files of every kind the package reads: each works, or gives the documented error that names the file."""

import json
import math
import warnings
from io import BytesIO

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_inctrl import Detector, InCTRLv2
from anomalib_inctrl.app.service import check_image
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
from tests.reliability.damage import damaged

FORMATS = {
    "png": {"mode": "RGB"},
    "interlaced.png": {"mode": "P"},
    "deep.png": {"mode": "I;16"},
    "deep-colours.png": {"mode": "16 bits"},
    "deep-colours.tif": {"mode": "16 bits"},
    "jpg": {"mode": "RGB", "quality": 90},
    "bmp": {"mode": "RGB"},
    "tif": {"mode": "RGBA"},
    "float.tif": {"mode": "F"},
    "webp": {"mode": "RGB"},
    "ppm": {"mode": "RGB"},
    "jp2": {"mode": "RGB"},
    "gif": {"mode": "P"},
}


def image_content(suffix):
    options = dict(FORMATS[suffix])
    mode, ending, file = options.pop("mode"), suffix.rpartition(".")[2], BytesIO()
    values = np.random.default_rng(0).integers(0, 256, (9, 12), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    if mode == "16 bits":
        return cv2.imencode(f".{ending}", np.dstack([values.astype(np.uint16) * 257] * 3))[1].tobytes()
    image = Image.fromarray(values.astype(np.uint16) * 257 if mode == "I;16" else values)
    image = image if mode == "I;16" else image.convert("RGB").convert(mode)
    image.save(file, format={"jpg": "JPEG", "jp2": "JPEG2000", "tif": "TIFF"}.get(ending, ending.upper()), **options)
    return file.getvalue()


def read_or_named(path, read, *errors):
    """The result of reading a file, or None if one of these errors names it; anything else fails."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of what it then reads or refuses
            return read()
    except errors as error:
        message = str(error)
    assert path.name in message
    return None


def read_versions(path, versions, read, *errors):
    """Write each version to a file and read it; returns the results of those that were read."""
    results, wrong = {}, {}
    for name, content in versions.items():
        path.write_bytes(content)
        try:
            result = read_or_named(path, read, *errors)
        except Exception as error:  # collected, so that one run shows them all
            wrong[name] = f"{type(error).__name__}: {error}"[:150]
        else:
            results |= {} if result is None else {name: result}
    assert not wrong
    return results


@pytest.mark.parametrize("suffix", FORMATS)
def test_damaged_images(suffix, tmp_path):
    whole, path = image_content(suffix), tmp_path / f"image.{suffix}"
    path.write_bytes(whole)
    assert read_image(path).shape == (3, 36, 48)

    def read():
        pixels = read_or_named(path, lambda: read_image(path), ImageFileError)
        size = read_or_named(path, lambda: image_size(path), ImageFileError)
        assert pixels is None or size == tuple(pixels.shape[1:])
        read_or_named(path, lambda: check_image(path), ImageFileError)
        return pixels

    found = read_versions(path, damaged(whole, 48), read)
    assert len(found) < 48 - 10
    for pixels in found.values():
        assert pixels.ndim == 3
        assert len(pixels) == 3
        assert pixels.numel()
        assert 0 <= pixels.min() <= pixels.max() <= 1


def test_the_content_decides_the_format(tmp_path):
    path = tmp_path / "image.png"
    for suffix in FORMATS:
        path.write_bytes(image_content(suffix))
        assert read_image(path).shape == (3, 36, 48)
    for content in (b"%PDF-1.4\n", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg></svg>"):
        path.write_bytes(content * 20)
        with pytest.raises(ImageFileError, match=r"image\.png"):
            read_image(path)


@pytest.mark.parametrize("name", ["a" * 300 + ".png", "a\0b.png", ".", "/", "no/such/folder/x.png", "000001.png/x.png"])
def test_paths_without_an_image_are_refused(name, tmp_path, detector):
    path = tmp_path / name if name[0] not in "./" else name
    for read in (read_image, image_size, detector.predict):
        with pytest.raises(ImageFileError):
            read(str(path))


def load_and_predict(path, pixels):
    found = Detector(path, device="cpu")
    if not found.class_names:
        found.set_prompts(pixels)
    (result,) = found.predict(pixels, found.class_names[0])
    assert math.isfinite(result.score)
    assert np.isfinite(result.anomaly_map).all()
    return result.score


def test_damaged_checkpoints(checkpoint, pixels, tmp_path):
    path, versions = tmp_path / "heads.ckpt", damaged(checkpoint.read_bytes(), 40)
    score = load_and_predict(checkpoint, pixels)
    found = read_versions(path, versions, lambda: load_and_predict(path, pixels), CheckpointError)
    # Damage that is not noticed would be wrong scores that nobody questions. Those that load are intact but for what
    # follows the file, its padding and header fields that nobody reads.
    assert set(found.values()) <= {score}
    assert len(found) < 0.15 * len(versions)


def without(entries, key):
    return {name: value for name, value in entries.items() if name != key}


def changed_checkpoints(whole):
    """Checkpoints that can be read and whose content is wrong."""
    state, settings = whole["state_dict"], whole["hyper_parameters"]
    found = {f"without {key}": without(whole, key) for key in ("state_dict", "hyper_parameters")}
    found |= {f"{key} is a list": whole | {key: []} for key in ("state_dict", "hyper_parameters")}
    # One of each kind is enough: all tensors of the heads are treated alike.
    chosen = {key for key in state if "bank" in key or "_extra_state" in key or key.endswith("_image_threshold")}
    for key in sorted(chosen | set(list(state)[:1])):
        found[f"without {key}"] = whole | {"state_dict": without(state, key)}
        found[f"{key} is text"] = whole | {"state_dict": state | {key: "text"}}
        if torch.is_tensor(state[key]):
            found[f"{key} has another shape"] = whole | {"state_dict": state | {key: torch.zeros(2, 3, 5)}}
            if state[key].is_floating_point() and "post_processor" not in key and state[key].numel():
                value = torch.full_like(state[key], math.nan)
                found[f"{key} is NaN"] = whole | {"state_dict": state | {key: value}}
    for key in ("backbone", "pretrained", "blocks", "residual_scale"):
        found[f"settings without {key}"] = whole | {"hyper_parameters": without(settings, key)}
        found[f"{key}=7"] = whole | {"hyper_parameters": settings | {key: 7}}
    bank = {"class_names": ["a", "b"], "files": [[], []]}
    found["prompts of another number"] = whole | {"state_dict": state | {"model.bank._extra_state": bank}}
    return found | {"no dictionary": [whole]}


def test_checkpoints_with_wrong_content(checkpoint, pixels, tmp_path):
    path, versions = tmp_path / "heads.ckpt", {}
    for name, content in changed_checkpoints(torch.load(checkpoint, weights_only=True)).items():
        file = BytesIO()
        torch.save(content, file)
        versions[name] = file.getvalue()
    assert not read_versions(path, versions, lambda: load_and_predict(path, pixels), CheckpointError, BackboneError)


@pytest.mark.parametrize("part", ["config.json", "model.safetensors"])
def test_damaged_shared_folders(part, make_module, tmp_path):
    folder = tmp_path / "shared"
    make_module().save_pretrained(folder)
    before, versions = InCTRLv2(weights=str(folder)).model.head_tensors(), damaged((folder / part).read_bytes(), 40)

    def read():
        return read_or_named(folder, lambda: InCTRLv2(weights=str(folder)).model, CheckpointError, BackboneError)

    for model in read_versions(folder / part, versions, read).values():
        assert all(torch.equal(value, before[key]) for key, value in model.head_tensors().items())


MANIFEST = "path,split,label,category,source,sha256\n" + "".join(
    f"head/train/good/{number:03}.png,train,good,head,raw/{number}.png,{'ab' * 32}\n" for number in range(9)
)
BENCHMARK = """\
output: results
models:
  baseline: {class_path: InCTRLv2, init_args: {backbone: mini-clip-16-240, pretrained: demo}}
targets:
  Demo: {datamodule: InCTRLDemo, root: data, categories: [washer]}
k_shots: [1, 2]
seeds: [0, 1]
"""
PROMPTS = {"a number": b'{"washer": 7}', "numbers": b'{"washer": [7]}', "no text": b"\xff\xfe\0", "nothing": b"{}"}
PROMPTS |= {"long": b"a" * 5000, "null": b'"\\u0000"'}
CONFIGS = {"list": b"- 1\n- 2\n", "deep": b"[" * 3000, "null": b"~", "anchors": b"a: &a [*a]", "number": b"7"}
CONFIGS |= {"loop": b"output: ${output}\n"}
LISTED = json.dumps({"washer": ["0.png", "1.png"], "gear": ["2.png"]}, indent=1)
MANIFESTS = {name: MANIFEST.replace("head/train/good/003.png", path).encode() for name, path in
             (("absolute", "/etc/passwd"), ("above", "../raw/labels.csv"), ("backslash", r"..\x.png"))}  # fmt: skip


@pytest.mark.parametrize(
    ("file", "content", "count", "more", "read", "error"),
    [
        ("manifest.csv", MANIFEST, 60, MANIFESTS, lambda path: read_manifest(path.parent), DatasetError),
        ("prompts.json", LISTED, 40, PROMPTS, read_prompt_list, PromptError),
        ("prompts.txt", "0.png\n1.png\n2.png\n", 40, PROMPTS, read_prompt_list, PromptError),
        ("config.yaml", BENCHMARK, 60, CONFIGS, read_config, BenchmarkError),
    ],
)
def test_damaged_text_files(file, content, count, more, read, error, tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(image_content("png"))
    path = tmp_path / file
    path.write_text(content)
    read(path)
    found = read_versions(path, damaged(content.encode(), count) | more, lambda: read(path), error)
    if file == "manifest.csv":
        files = [name for table in found.values() for name in table["path"]]
        assert all((tmp_path / name).resolve().is_relative_to(tmp_path) for name in files)
        assert not MANIFESTS.keys() & found.keys()
