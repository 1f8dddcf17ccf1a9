# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Broken files of every kind the package reads: each works, or gives the documented error that names the file."""

import json
import math
import shutil
import warnings
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_inctrl import Detector, InCTRLv2
from anomalib_inctrl.app.uploads import Limits, check_picture
from anomalib_inctrl.benchmark.config import read_config
from anomalib_inctrl.data.manifest import read_manifest
from anomalib_inctrl.demo.writer import DemoSettings, render_category
from anomalib_inctrl.errors import (
    BackboneError,
    BenchmarkError,
    CheckpointError,
    DatasetError,
    ImageFileError,
    PromptError,
)
from anomalib_inctrl.io.images import image_size, is_deep, read_image
from anomalib_inctrl.prompts.selection import read_prompt_list
from tests.reliability.conftest import COUNTS
from tests.reliability.damage import damaged

FORMATS = {
    "png": {"mode": "RGB"},
    "interlaced.png": {"mode": "P"},
    "deep.png": {"mode": "I;16"},
    "jpg": {"mode": "RGB", "quality": 90},
    "bmp": {"mode": "RGB"},
    "tif": {"mode": "RGBA"},
    "float.tif": {"mode": "F"},
    "webp": {"mode": "RGB"},
    "ppm": {"mode": "RGB"},
}


def picture(mode):
    values = np.random.default_rng(0).integers(0, 256, (9, 12), dtype=np.uint8)
    image = Image.fromarray(values).resize((48, 36), Image.Resampling.NEAREST)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    return image.convert("RGB").convert(mode)


def content_of(suffix):
    options = dict(FORMATS[suffix])
    kept = BytesIO()
    names = {"jpg": "JPEG", "tif": "TIFF", "ppm": "PPM"}
    ending = suffix.rpartition(".")[2]
    picture(options.pop("mode")).save(kept, format=names.get(ending, ending.upper()), **options)
    return kept.getvalue()


def works_or_names(path, read, *errors):
    """Whether a file was read; if not, it was by one of these errors, and the message says which file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what it then reads or refuses
        try:
            result = read()
        except errors as error:
            message, result = str(error), None
            if path.name not in message:
                pytest.fail(f"{path.name} is not named: {message}")
    return result


@pytest.mark.parametrize("suffix", FORMATS)
def test_pictures(suffix, tmp_path):
    whole = content_of(suffix)
    path = tmp_path / f"picture.{suffix}"
    path.write_bytes(whole)
    assert read_image(path).shape == (3, 36, 48)
    refused = 0
    for name, content in damaged(whole, 48).items():
        path.write_bytes(content)
        pixels = works_or_names(path, lambda: read_image(path), ImageFileError)
        if pixels is None:
            refused += 1
        else:
            assert pixels.ndim == 3, name
            assert len(pixels) == 3, name
            assert pixels.numel(), name
            assert pixels.isfinite().all(), name
            assert pixels.min() >= 0, name
            assert pixels.max() <= 1, name
        size = works_or_names(path, lambda: image_size(path), ImageFileError)
        assert pixels is None or size == tuple(pixels.shape[1:]), name
        is_deep(path)
        works_or_names(path, lambda: check_picture(path, Limits()) or True, ImageFileError)
    assert refused > 10


def test_pictures_of_another_kind_than_their_ending_says(tmp_path):
    for suffix in FORMATS:
        path = tmp_path / "picture.png"
        path.write_bytes(content_of(suffix))
        assert read_image(path).shape == (3, 36, 48)
    for content in (b"%PDF-1.4\n", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg></svg>"):
        path.write_bytes(content * 20)
        with pytest.raises(ImageFileError, match=r"picture\.png"):
            read_image(path)


@pytest.mark.parametrize("name", ["a" * 300 + ".png", "a\0b.png", ".", "/", "no/such/folder/x.png", "000001.png/x.png"])
def test_paths_that_can_lead_to_no_picture(name, tmp_path, detector):
    path = tmp_path / name if name[0] not in "./" else name
    for read in (read_image, image_size, detector.predict):
        with pytest.raises(ImageFileError):
            read(str(path))
    assert not is_deep(path)


def test_a_broken_picture_among_good_ones_is_named(tmp_path, detector):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(content_of("png")[: 200 if number == 1 else None])
    with pytest.raises(ImageFileError, match=r"1\.png"):
        detector.predict(tmp_path)
    with pytest.raises(ImageFileError, match=r"1\.png"):
        detector.set_prompts(tmp_path, class_name="other")
    assert detector.class_names == ["washer"]


def opened(path, pixels):
    """Load a checkpoint and use it."""
    found = Detector(path, device="cpu")
    if not found.class_names:
        found.set_prompts(pixels)
    (result,) = found.predict(pixels, found.class_names[0])
    assert math.isfinite(result.score)
    assert np.isfinite(result.anomaly_map).all()
    return found


def test_checkpoints(checkpoint, pixels, tmp_path):
    path, whole = tmp_path / "heads.ckpt", checkpoint.read_bytes()
    path.write_bytes(whole)
    score = opened(path, pixels).predict(pixels)[0].score
    refused, versions = 0, damaged(whole, 40)
    for name, content in versions.items():
        path.write_bytes(content)
        found = works_or_names(path, lambda: opened(path, pixels), CheckpointError)
        refused += found is None
        # Damage that is not noticed would be wrong scores that nobody questions.
        assert found is None or found.predict(pixels)[0].score == score, name
    # The others are whole but for what follows the file, its padding and header fields that nobody reads.
    assert refused > 0.85 * len(versions)


def without(entries, key):
    return {name: value for name, value in entries.items() if name != key}


def changed_checkpoints(whole):
    """Checkpoints that can be read and do not say what they should."""
    state, settings = whole["state_dict"], whole["hyper_parameters"]
    found = {f"without {key}": without(whole, key) for key in ("state_dict", "hyper_parameters")}
    found |= {f"{key} is a list": whole | {key: []} for key in ("state_dict", "hyper_parameters")}
    # One of each kind is enough: all tensors of the heads go one way.
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
    found["no dictionary"] = [whole]
    found["prompts of another number"] = whole | {
        "state_dict": state | {"model.bank._extra_state": {"class_names": ["a", "b"], "files": [[], []]}}
    }
    return found


def test_checkpoints_with_another_content(checkpoint, pixels, tmp_path):
    path = tmp_path / "heads.ckpt"
    wrong = {}
    for name, content in changed_checkpoints(torch.load(checkpoint, weights_only=True)).items():
        torch.save(content, path)
        try:
            works_or_names(path, lambda: opened(path, pixels), CheckpointError, BackboneError)
        except Exception as error:
            wrong[name] = f"{type(error).__name__}: {error}"[:150]
    assert not wrong


@pytest.mark.parametrize("part", ["config.json", "model.safetensors"])
def test_shared_folders(part, make_module, tmp_path):
    folder = tmp_path / "shared"
    make_module().save_pretrained(folder)
    whole = (folder / part).read_bytes()
    before = InCTRLv2(weights=str(folder)).model.state_dict()
    wrong = {}
    for name, content in damaged(whole, 40).items():
        (folder / part).write_bytes(content)
        try:
            found = works_or_names(folder, lambda: InCTRLv2(weights=str(folder)).model, CheckpointError, BackboneError)
        except Exception as error:
            wrong[name] = f"{type(error).__name__}: {error}"[:150]
        else:
            state = {} if found is None else found.state_dict()
            changed = [key for key, value in state.items() if torch.is_tensor(value) and not value.equal(before[key])]
            wrong |= {name: changed} if changed else {}
    assert not wrong


def test_manifests(tmp_path):
    path = tmp_path / "manifest.csv"
    rows = ["path,split,label,category,source,sha256"]
    rows += [f"head/train/good/{number:03}.png,train,good,head,raw/{number}.png,{'ab' * 32}" for number in range(9)]
    for name, content in damaged("\n".join(rows).encode(), 60).items():
        path.write_bytes(content)
        table = works_or_names(path, lambda: read_manifest(tmp_path), DatasetError)
        if table is not None:
            assert all((tmp_path / file).resolve().is_relative_to(tmp_path) for file in table["path"]), name


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("prompts.json", json.dumps({"washer": ["0.png", "1.png"], "gear": ["2.png"]}, indent=1)),
        ("prompts.txt", "0.png\n1.png\n2.png\n"),
    ],
)
def test_prompt_lists(file, content, tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(content_of("png"))
    path = tmp_path / file
    path.write_text(content)
    assert read_prompt_list(path)
    wrong = {}
    extra = {"a number": b'{"washer": 7}', "numbers": b'{"washer": [7]}', "no text": b"\xff\xfe\0", "nothing": b"{}"}
    for name, changed in (damaged(content.encode(), 40) | extra | {"long": b"a" * 5000, "null": b'"\\u0000"'}).items():
        path.write_bytes(changed)
        try:
            works_or_names(path, lambda: read_prompt_list(path), PromptError)
        except Exception as error:
            wrong[name] = f"{type(error).__name__}: {error}"[:150]
    assert not wrong


BENCHMARK = """\
output: results
models:
  floor: {class_path: InCTRLv2, init_args: {backbone: mini-clip-16-240, pretrained: demo}}
targets:
  Demo: {datamodule: InCTRLDemo, root: data, categories: [washer]}
k_shots: [1, 2]
seeds: [0, 1]
"""


def test_benchmark_configs(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(BENCHMARK)
    assert read_config(path).k_shots
    wrong = {}
    extra = {"anchors": b"a: &a [*a]", "tag": b"output: !!python/object/apply:os.system [ls]", "list": b"- 1\n- 2\n"}
    extra |= {"deep": b"[" * 3000, "null": b"~", "number": b"7", "loop": b"output: ${output}\n"}
    for name, content in (damaged(BENCHMARK.encode(), 60) | extra).items():
        path.write_bytes(content)
        try:
            works_or_names(path, lambda: read_config(path), BenchmarkError)
        except Exception as error:
            wrong[name] = f"{type(error).__name__}: {error}"[:150]
    assert not wrong


def test_rendered_categories(data, tmp_path):
    shutil.copytree(data / "washer", tmp_path / "washer")
    path = tmp_path / "washer" / "demo.json"
    whole = path.read_bytes()
    for content in (damaged(whole, 30) | {"no dictionary": b"7", "no text": b"\xff\xfe\0"}).values():
        path.write_bytes(content)
        works_or_names(path.parent, lambda: render_category(tmp_path, "washer", DemoSettings(**COUNTS)), DatasetError)
