# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""One file that cannot be read: it is named, and what was scored before or beside it is kept."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from anomalib.data import ImageBatch, PredictDataset
from anomalib.engine import Engine
from torch.utils.data import DataLoader, Subset

from anomalib_inctrl import InCTRL, InCTRLDemo, InCTRLv2
from anomalib_inctrl.console import one_line
from anomalib_inctrl.errors import ImageFileError
from tests.reliability.conftest import COUNTS

ROOT = Path(__file__).parents[2]
BROKEN = {
    "b.png": lambda content: content[:900],  # truncated
    "b.jpg": lambda _: b"",
    "b.bmp": lambda _: b"404: Not Found\n",
}


@pytest.fixture
def folder(data, tmp_path):
    """Three images, of which the names leave room for a broken one between the first and the second."""
    path = tmp_path / "to check"
    path.mkdir()
    for name, source in zip(("a.png", "c.png", "d.png"), sorted((data / "washer/test").rglob("*.png")), strict=False):
        (path / name).write_bytes(source.read_bytes())
    return path


def break_one(folder, name):
    (folder / name).write_bytes(BROKEN[name]((folder / "c.png").read_bytes()))


@pytest.fixture
def engine(tmp_path):
    return Engine(
        accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path / "results", devices=1
    )


def scored(tmp_path):
    (path,) = (tmp_path / "results").rglob("scores.csv")
    return [Path(name).name for name in pd.read_csv(path).image_path]


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("kind", [InCTRL, InCTRLv2])
def test_predict_names_the_file_and_keeps_the_scores(name, kind, folder, data, make_module, engine, tmp_path, caplog):
    break_one(folder, name)
    module = make_module(kind, prompts=str(data / "washer/train/good"), class_name="washer")
    with pytest.raises(ImageFileError, match=re.escape(f"{folder / name}: ")):
        engine.predict(module, data_path=folder)
    assert scored(tmp_path) == ["a.png"]
    assert "1 images were scored before the error" in caplog.text


@pytest.mark.parametrize("wrap", [lambda dataset: dataset, lambda dataset: Subset(dataset, [0, 1, 2])])
def test_so_does_a_worker_process(wrap, folder, data, make_module, engine, tmp_path):
    break_one(folder, "b.png")
    loader = DataLoader(wrap(PredictDataset(folder)), collate_fn=ImageBatch.collate, num_workers=1)
    module = make_module(prompts=str(data / "washer/train/good"), class_name="washer")
    with pytest.raises(ImageFileError, match=r"b\.png: 900 bytes") as found:
        engine.predict(module, dataloaders=loader)
    assert one_line(found.value).startswith(f"error: {folder / 'b.png'}: 900 bytes, not readable as an image (")
    assert scored(tmp_path) == ["a.png"]


@pytest.mark.parametrize("part", ["test", "ground_truth"])
def test_test_names_a_broken_image_or_mask(part, make_module, engine, tmp_path):
    InCTRLDemo(root=tmp_path, category="washer", **COUNTS).prepare_data()
    folders = sorted(path for path in (tmp_path / "washer" / part).iterdir() if path.name != "good")
    broken = sorted(folders[-1].glob("*.png"))[-1]
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(ImageFileError, match=re.escape(str(broken))):
        engine.test(make_module(), datamodule=InCTRLDemo(root=tmp_path, category="washer", eval_batch_size=1, **COUNTS))
    assert len(scored(tmp_path)) == COUNTS["test_normal_count"] + COUNTS["test_anomalous_count"] - 1


@pytest.mark.parametrize("name", BROKEN)
def test_the_detector_goes_on_if_told_to(name, folder, detector, caplog):
    expected = [prediction.score for prediction in detector.predict(folder)]
    break_one(folder, name)
    with pytest.raises(ImageFileError, match=re.escape(name)):
        detector.predict(folder)
    predictions = detector.predict(folder, on_error="skip")
    assert [Path(prediction.name).name for prediction in predictions] == ["a.png", "c.png", "d.png"]
    assert [prediction.score for prediction in predictions] == pytest.approx(expected, abs=1e-6)
    ((failed, message),) = predictions.failed
    assert Path(failed).name == name
    assert message.startswith(f"{folder / name}: ")
    assert f"1 of 4 images are left out (see .failed), first: {folder / name}" in caplog.text


def test_the_detector_skips_missing_files_and_wrong_pixels_too(folder, detector, pixels):
    predictions = detector.predict([folder / "none.png", pixels, pixels * 300], on_error="skip")
    assert [prediction.name for prediction in predictions] == ["images[1]"]
    assert [name for name, _ in predictions.failed] == [str(folder / "none.png"), "images[2]"]
    nothing = detector.predict([folder / "none.png"], on_error="skip")
    assert (list(nothing), len(nothing.failed)) == ([], 1)
    with pytest.raises(ValueError, match="on_error='ignore'"):
        detector.predict(pixels, on_error="ignore")


def test_in_the_shell_it_is_one_line(folder, data, tmp_path):
    break_one(folder, "b.png")
    model = ["--model", "InCTRLv2", "--model.backbone", "mini-clip-16-240", "--model.pretrained", "demo"]
    prompts = ["--model.prompts", str(data / "washer/train/good"), "--model.class_name", "washer"]
    command = [sys.executable, "-m", "anomalib_inctrl.cli", "predict", *model, *prompts, "--data", str(folder)]
    options = ["--default_root_dir", str(tmp_path / "results"), "--trainer.accelerator", "cpu"]
    environment = {name: value for name, value in os.environ.items() if name != "ANOMALIB_INCTRL_DEBUG"}
    done = subprocess.run(
        [*command, *options],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[-2].startswith(f"error: {folder / 'b.png'}: 900 bytes")
    assert "Traceback" not in done.stderr + done.stdout
    assert scored(tmp_path) == ["a.png"]
    # What other packages warn of at every start is not there, and nothing is there twice.
    for noise in ("treespec", "timm.models.layers", "pin_memory", "tokenizer", "overridden"):
        assert noise not in done.stderr + done.stdout
    assert sum("Initializing InCTRLv2 model" in line for line in [*lines, *done.stdout.splitlines()]) == 1
