# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Files from strangers: loading runs no code, paths stay where they belong, and nothing secret is in the repository."""

import ast
import io
import pickle
import re
import shutil
import subprocess
from pathlib import Path, PurePosixPath

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image

import anomalib_inctrl
from anomalib_inctrl import Detector, InCTRL, InCTRLv2
from anomalib_inctrl.app.service import PredictionService
from anomalib_inctrl.app.uploads import Limits, check_picture
from anomalib_inctrl.backbones import ImageFeatures
from anomalib_inctrl.benchmark.config import read_config
from anomalib_inctrl.benchmark.jobs import file_name
from anomalib_inctrl.data.raw import RAW_DATASETS
from anomalib_inctrl.data.raw.base import open_image, safe_path
from anomalib_inctrl.errors import BenchmarkError, CheckpointError, DatasetError, ImageFileError
from anomalib_inctrl.io.images import image_size, is_deep, read_image
from anomalib_inctrl.io.weights import read_prompt_tensors, read_state_dict
from anomalib_inctrl.models.components.feature_store import FolderStore
from anomalib_inctrl.models.inctrl.convert import from_official_file, to_official_file
from anomalib_inctrl.predictor import model_of_checkpoint
from tests.data.raw_trees import write_cifar10
from tests.reliability.conftest import BACKBONE

ROOT = Path(__file__).parents[2]


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def hostile_files(checkpoint, marker):
    """Content by kind of file; each runs code if it is trusted."""
    whole = torch.load(checkpoint, weights_only=True)
    contents = {
        "the checkpoint": Trap(marker),
        "its settings": whole | {"hyper_parameters": whole["hyper_parameters"] | {"k_shot": Trap(marker)}},
        "its tensors": whole | {"state_dict": whole["state_dict"] | {"model.extra": Trap(marker)}},
        "a list": [Trap(marker)],
    }
    found = {}
    for name, content in contents.items():
        for zipped in (True, False):
            file = io.BytesIO()
            torch.save(content, file, _use_new_zipfile_serialization=zipped)
            found[f"{name}, {'new' if zipped else 'old'} format"] = file.getvalue()
    return found | {"a bare pickle": pickle.dumps({"state_dict": Trap(marker)})}


LOADERS = {
    "Detector": lambda path: Detector(path, device="cpu"),
    "weights": lambda path: InCTRLv2(weights=str(path)),
    "weights of InCTRL": lambda path: InCTRL(weights=str(path)),
    "load_from_checkpoint": InCTRLv2.load_from_checkpoint,
    "backbone": lambda path: InCTRLv2(backbone=BACKBONE, pretrained=str(path)).model,
    "app": lambda path: PredictionService(weights=[path]),
    "model_of_checkpoint": model_of_checkpoint,
    "state dict": read_state_dict,
    "authors' weights": lambda path: from_official_file(path, path.with_name("out.ckpt")),
    "authors' prompts": lambda path: read_prompt_tensors(path, (240, 240)),
    "to authors' weights": lambda path: to_official_file(path, path.with_name("out.pyth")),
}


@pytest.mark.parametrize("loader", LOADERS)
def test_loading_runs_no_code(loader, checkpoint, tmp_path):
    marker = tmp_path / "ran"
    for suffix in (".ckpt", ".safetensors"):
        path = tmp_path / f"hostile{suffix}"
        for name, content in hostile_files(checkpoint, marker).items():
            path.write_bytes(content)
            with pytest.raises(CheckpointError, match="hostile"):
                LOADERS[loader](path)
            assert not marker.exists(), f"{name}{suffix}"


def test_the_trap_works(tmp_path):
    """Otherwise the tests above would prove nothing."""
    file = io.BytesIO()
    torch.save(Trap(tmp_path / "ran"), file)
    file.seek(0)
    torch.load(file, weights_only=False)
    assert (tmp_path / "ran").exists()


def test_shared_folders_run_no_code(make_module, tmp_path):
    folder, marker = tmp_path / "shared", tmp_path / "ran"
    make_module().save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(pickle.dumps(Trap(marker)))
    # Names by which other tools find weights and code in such folders.
    shutil.copy(folder / "model.safetensors", folder / "pytorch_model.bin")
    (folder / "modeling.py").write_text(f"open({str(marker)!r}, 'w')")
    with pytest.raises(CheckpointError, match="shared"):
        InCTRLv2.from_pretrained(str(folder))
    assert not marker.exists()


def test_feature_stores_run_no_code(tmp_path):
    marker, store = tmp_path / "ran", FolderStore({"a": 1}, tmp_path)
    store.put("aa", ImageFeatures(torch.ones(1, 2, 3), torch.ones(4)))
    (path,) = tmp_path.rglob("aa.safetensors")
    path.write_bytes(pickle.dumps(Trap(marker)))
    assert store.get(["aa"]) == [None]
    assert not marker.exists()


@pytest.mark.parametrize("name", ["batches.meta", "data_batch_3", "test_batch"])
def test_cifar_files_run_no_code(name, tmp_path, monkeypatch):
    root, marker = write_cifar10(tmp_path / "raw", monkeypatch), tmp_path / "ran"
    (root / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(Trap(marker)))
    with pytest.raises(DatasetError, match=f"{name} is damaged or not CIFAR-10's"):
        RAW_DATASETS["CIFAR10"].scan(root, check_counts=False)
    assert not marker.exists()


def test_configs_run_no_code(tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "config.yaml"
    for call in (
        f"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{marker}]]",
        f"!!python/object/apply:os.mkdir [{marker}]",
        f"${{oc.env:HOME}}{marker}: !!python/name:os.system",
    ):
        path.write_text(f"output: {call}\n")
        with pytest.raises(BenchmarkError, match="config"):
            read_config(path)
        assert not marker.exists()


def test_pictures_start_no_other_program(tmp_path, monkeypatch):
    """Pillow hands PostScript to Ghostscript, whatever the file is called."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **kwargs: pytest.fail("Ghostscript was called"))
    path = tmp_path / "picture.png"
    Image.new("RGB", (8, 8)).save(path, format="EPS")
    with Image.open(path) as image:
        assert image.format == "EPS"
    for read in (read_image, image_size, open_image, lambda path: check_picture(path, Limits())):
        with pytest.raises(ImageFileError, match=r"picture\.png"):
            read(path)
    assert not is_deep(path)


# ---------------------------------------------------------------------- paths and names

parts = st.sampled_from(("..", ".", "", "a", "b.png", "~", "C:", "\\", "..\\", "/", "\0", "con", "ä", "…", "%2e%2e"))
names = st.one_of(st.text(max_size=40), st.lists(parts, max_size=6).map("/".join))


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(name=names)
@example(name="../x.png")
@example(name="/etc/passwd")
@example(name="a/../../x.png")
@example(name="..\\x.png")
@example(name="C:\\x.png")
@example(name="a//..//../x")
def test_paths_from_files_stay_below_their_folder(name):
    path = safe_path(name)
    if path is not None:
        root = Path("/data/set")
        assert not path.is_absolute()
        inside = Path(*PurePosixPath(root / path).parts)
        # Without a look at the disk, as any system would resolve it.
        assert Path(re.sub(r"/[^/]+/\.\.", "", str(inside))).is_relative_to(root)
        assert ".." not in inside.parts
    elif not set(name) & {"\\", ":", "\0"} and name:
        assert name.startswith("/") or ".." in name.split("/")


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(name=names, other=names)
@example(name="..", other=".")
@example(name="a/b", other="a%2Fb")
def test_names_in_results_folders_are_one_part_of_a_path_each(name, other):
    written = file_name(name)
    assert not set(written) & set('/\\\0:*?"<>|\n\r')
    assert written not in {".", ".."}
    assert not written.startswith(".")
    assert (written == file_name(other)) == (name == other)


@pytest.mark.parametrize("name", ["..%2f..%2fx.png", "a\nb.png", "=cmd.png", "$(touch ran).png", "-rf.png", "  .png"])
def test_uploads_may_be_called_anything(name, make_detector, tmp_path, monkeypatch):
    judge = PredictionService(backbone="mini-clip-16-240", pretrained="demo")
    monkeypatch.setattr(judge, "detector", lambda model, weights: make_detector())
    folder = tmp_path / "uploads"
    folder.mkdir()
    Image.new("RGB", (40, 40), "red").save(folder / name)
    before = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
    done = judge.judge(
        [str(folder / name)], [str(folder / name)], "washer", "InCTRLv2", judge.weights_of("InCTRLv2")[0]
    )
    assert [Path(result.name).name for result in done.results] == [name]
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*")} == before


# ---------------------------------------------------------------------- the source itself

FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "pickle.load", "pickle.loads", "dill.load", "joblib.load", "yaml.load",
    "os.system", "os.popen", "marshal.loads", "shelve.open", "extractall", "np.load", "__import__",
}  # fmt: skip
# What the start-up file imports is this package.
ALLOWED = {("_anomalib_inctrl_autoload.py", "__import__")}


def dotted(node):
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def calls(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield dotted(node.func), {word.arg: word.value for word in node.keywords}, node.lineno


def test_no_call_in_the_package_trusts_its_input():
    files = [*Path(anomalib_inctrl.__file__).parent.rglob("*.py"), *(ROOT / "autoload").glob("*.py")]
    assert len(files) > 50
    found = []
    for path in files:
        for name, words, line in calls(path):
            bad = name in FORBIDDEN_CALLS or name.rpartition(".")[2] in {"extractall", "unsafe_load"}
            safe = words.get("weights_only")
            bad |= name == "torch.load" and not (isinstance(safe, ast.Constant) and safe.value is True)
            shell = words.get("shell")
            bad |= shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False)
            bad |= "trust_remote_code" in words
            if bad and (path.name, name) not in ALLOWED:
                found.append(f"{path.name}:{line}: {name}")
    assert not found


SECRETS = {
    "private key": r"-----BEGIN [A-Z ]*PRIVATE[ ]KEY",
    "cloud key": r"\bAK[I]A[0-9A-Z]{16}\b|\bAI[z]a[0-9A-Za-z_-]{35}\b",
    "token": r"\bgh[pousr]_[0-9A-Za-z]{36}\b|\bgithub[_]pat_\w{40,}|\bhf[_][A-Za-z]{34}\b|\bglpa[t]-[\w-]{20}\b"
    r"|\bpypi[-]AgE[\w-]{50,}|\bxox[abprs]-[0-9A-Za-z-]{10,}|\bsk[-](?:ant-|proj-)?[A-Za-z0-9]{32,}",
    "password in an address": r"https?://[^/\s:@\"'{}]+:[^/\s:@\"'{}]+@",
    "home folder": r"(?<![\w.<>*-])/(?:home|Users)/(?!runner\b|user\b|you\b|name\b)[a-z][\w.-]*/"
    r"|(?<![\w.])/roo[t]/\w|C:\\Users\\\w",
}


def test_the_patterns_find_what_they_are_for():
    key = "-----BEGIN RSA PRIVATE" + " KEY-----"
    samples = [
        key,
        "AKI" + "A" + "Z" * 16,
        "gh" + "p_" + "a" * 36,
        "h" + "f_" + "a" * 34,
        "https://me:pw" + "@host/",
        "/ro" + "ot/x",
    ]
    assert all(any(re.search(pattern, sample) for pattern in SECRETS.values()) for sample in samples)


def test_no_secret_and_no_home_folder_is_in_the_repository():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode or not listed.stdout:
        pytest.skip("no Git repository here")
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if not path.is_file():
            continue
        assert path.name not in {".env", "id_rsa", "credentials", ".netrc", ".pypirc"}, name
        assert path.suffix not in {".pem", ".key", ".p12", ".pfx"}, name
        content = path.read_bytes()
        if b"\0" in content[:8000]:
            continue
        text = content.decode("utf-8", errors="replace")
        found += [f"{name}: {kind}" for kind, pattern in SECRETS.items() if re.search(pattern, text)]
    assert not found
