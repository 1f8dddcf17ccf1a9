# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Untrusted files: loading runs no code, paths stay in their folder; and the repository holds no secrets."""

import io
import pickle
import re
import subprocess
from pathlib import Path

import pytest
import torch
from anomalib.engine import Engine
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image

import anomalib_inctrl
from anomalib_inctrl import Detector, InCTRL, InCTRLv2
from anomalib_inctrl.app.service import PredictionService, check_prompts
from anomalib_inctrl.backbones import ImageFeatures
from anomalib_inctrl.benchmark.config import read_config
from anomalib_inctrl.benchmark.jobs import file_name
from anomalib_inctrl.data.datasets.records import safe_path
from anomalib_inctrl.errors import BenchmarkError, CheckpointError, ImageFileError
from anomalib_inctrl.io.images import image_size, open_image, read_image
from anomalib_inctrl.io.weights import read_state_dict
from anomalib_inctrl.models.components.feature_store import FeatureStore
from anomalib_inctrl.models.inctrl.convert import from_official_file
from anomalib_inctrl.models.inctrl.official import read_prompt_tensors
from anomalib_inctrl.predictor import model_of_checkpoint
from tests.shared import BACKBONE, SMALL

ROOT = Path(__file__).parents[2]


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def hostile_files(checkpoint, marker):
    """Contents of checkpoints that run code if they are trusted."""
    whole, trap = torch.load(checkpoint, weights_only=True), Trap(marker)
    yield pickle.dumps({"state_dict": trap})
    for content in (
        trap,
        [trap],
        whole | {"hyper_parameters": whole["hyper_parameters"] | {"k_shot": trap}},
        whole | {"state_dict": whole["state_dict"] | {"model.extra": trap}},
    ):
        for zipped in (True, False):
            file = io.BytesIO()
            torch.save(content, file, _use_new_zipfile_serialization=zipped)
            yield file.getvalue()


LOADERS = {
    "Detector": lambda path: Detector(path, device="cpu"),
    "weights": lambda path: InCTRLv2(weights=str(path)),
    "weights of InCTRL": lambda path: InCTRL(weights=str(path)),
    "load_from_checkpoint": InCTRLv2.load_from_checkpoint,
    "from_pretrained": lambda path: InCTRLv2.from_pretrained(str(path.parent)),
    "ckpt_path": lambda path: Engine(logger=False, default_root_dir=path.parent, accelerator="cpu").predict(
        InCTRLv2(**SMALL, visualizer=False), data_path=path.parent, ckpt_path=path
    ),
    "backbone": lambda path: InCTRLv2(backbone=BACKBONE, pretrained=str(path)).model,
    "app": lambda path: PredictionService(weights=[path]),
    "model_of_checkpoint": model_of_checkpoint,
    "state dict": read_state_dict,
    "authors' weights": lambda path: from_official_file(path, path.with_name("out.ckpt")),
    "authors' prompts": lambda path: read_prompt_tensors(path, (240, 240)),
}


@pytest.mark.parametrize("loader", LOADERS)
def test_loading_runs_no_code(loader, checkpoint, make_module, tmp_path):
    folder, marker = tmp_path / "hostile", tmp_path / "ran"
    make_module().save_pretrained(folder)
    Image.new("RGB", (8, 8)).save(folder / "image.png")
    for content in hostile_files(checkpoint, marker):
        for path in (folder / "model.safetensors", folder / "model.ckpt"):
            path.write_bytes(content)
            with pytest.raises(CheckpointError, match="hostile"):
                LOADERS[loader](path)
            assert not marker.exists()
    torch.load(io.BytesIO(content), weights_only=False)
    assert marker.exists()  # the trap works


def test_feature_stores_run_no_code(tmp_path):
    marker, store = tmp_path / "ran", FeatureStore({"a": 1}, tmp_path)
    store.put("aa", ImageFeatures(torch.ones(1, 2, 3), torch.ones(4)))
    (path,) = tmp_path.rglob("aa.safetensors")
    path.write_bytes(pickle.dumps(Trap(marker)))
    assert store.get(["aa"]) == [None]
    assert not marker.exists()


@pytest.mark.parametrize(
    "call",
    [
        "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [MARKER]]",
        "!!python/object/apply:os.mkdir [MARKER]",
        "${oc.env:HOME}MARKER: !!python/name:os.system",
    ],
)
def test_configs_run_no_code(call, tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "config.yaml"
    path.write_text(f"output: {call}\n".replace("MARKER", str(marker)))
    with pytest.raises(BenchmarkError, match="config"):
        read_config(path)
    assert not marker.exists()


def test_images_start_no_other_program(tmp_path, monkeypatch):
    """Pillow hands PostScript to Ghostscript, whatever the file is called."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **kwargs: pytest.fail("Ghostscript was called"))
    path = tmp_path / "image.png"
    Image.new("RGB", (8, 8)).save(path, format="EPS")
    for read in (read_image, image_size, open_image, lambda path: check_prompts([path])):
        with pytest.raises(ImageFileError, match=r"image\.png"):
            read(path)


parts = st.sampled_from(("..", ".", "", "a", "b.png", "~", "C:", "\\", "..\\", "/", "\0", "con", "ä", "…", "%2e%2e"))
names = st.one_of(st.text(max_size=40), st.lists(parts, max_size=6).map("/".join))


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(name=names, other=names)
@example(name="/etc/passwd", other="..")
@example(name="a/../../x.png", other="a%2F..%2F..%2Fx.png")
@example(name="..\\x.png", other=".")
@example(name="C:\\x.png", other="C_\\x.png")
def test_names_from_files_stay_below_their_folder(name, other):
    path = safe_path(name)
    if path is None:
        assert not name or set(name) & {"\\", ":", "\0"} or name.startswith("/") or ".." in name.split("/")
    else:
        assert not path.is_absolute()
        assert ".." not in path.parts
    # As the name of a file it is one part of a path, and another for every name.
    written = file_name(name)
    assert not set(written) & set('/\\\0:*?"<>|\n\r')
    assert not written.startswith(".")
    assert (written == file_name(other)) == (name == other)


def test_weights_are_read_with_weights_only_everywhere():
    """Other unsafe calls are ruff's rules (S)."""
    sources = "".join(path.read_text() for path in Path(anomalib_inctrl.__file__).parent.rglob("*.py"))
    calls = re.findall(r"torch\.load\(.*", sources)
    assert calls
    assert all("weights_only=True" in call for call in calls)


SECRETS = (
    r"-----BEGIN [A-Z ]*PRIVATE[ ]KEY",
    r"\bAK[I]A[0-9A-Z]{16}\b|\bAI[z]a[0-9A-Za-z_-]{35}\b",
    r"\bgh[pousr]_[0-9A-Za-z]{36}\b|\bgithub[_]pat_\w{40,}|\bhf[_][A-Za-z]{34}\b|\bglpa[t]-[\w-]{20}\b",
    r"\bpypi[-]AgE[\w-]{50,}|\bxox[abprs]-[0-9A-Za-z-]{10,}|\bsk[-](?:ant-|proj-)?[A-Za-z0-9]{32,}",
    r"https?://[^/\s:@\"'{}]+:[^/\s:@\"'{}]+@",  # a password in an address
    r"(?<![\w.<>*-])/(?:home|Users)/(?!runner\b|user\b|you\b|name\b)[a-z][\w.-]*/",
    r"(?<![\w.])/roo[t]/\w|C:\\Users\\\w",
)


def test_the_repository_holds_no_secret_and_no_home_folder():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode or not listed.stdout:
        pytest.skip("no Git repository here")
    for name in filter(None, listed.stdout.split("\0")):
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
        if b"\0" not in content[:8000]:
            assert not re.search("|".join(SECRETS), content.decode(errors="replace")), name
