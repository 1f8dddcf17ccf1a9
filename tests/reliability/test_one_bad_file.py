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
from torch.utils.data import DataLoader, Subset

from anomalib_inctrl import InCTRL, InCTRLDemo, InCTRLv2
from anomalib_inctrl.console import one_line
from anomalib_inctrl.errors import ImageFileError
from tests.shared import COUNTS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def whole(data, tmp_path):
    """Three images; their names leave room for a broken one between the first and the second."""
    (tmp_path / "to check").mkdir()
    paths = [tmp_path / "to check" / name for name in ("a.png", "c.png", "d.png")]
    for path, source in zip(paths, sorted((data / "washer/test").rglob("*.png")), strict=False):
        path.write_bytes(source.read_bytes())
    return paths


@pytest.fixture(params=["b.png"])
def broken(request, whole):
    """An image in their folder that is truncated, or empty as a JPEG file."""
    path = whole[0].with_name(request.param)
    path.write_bytes(whole[0].read_bytes()[:900] if path.suffix == ".png" else b"")
    return path


either = pytest.mark.parametrize("broken", ["b.png", "b.jpg"], indirect=True)


@pytest.fixture
def engine(make_engine):
    return make_engine()


@pytest.fixture
def make_prompted(make_module, data):
    """Create a model with a folder of prompts."""
    return lambda kind: make_module(kind, prompts=str(data / "washer/train/good"), class_name="washer")


def scored(tmp_path):
    (path,) = (tmp_path / "results").rglob("scores.csv")
    return [Path(name).name for name in pd.read_csv(path).image_path]


@either
@pytest.mark.parametrize("kind", [InCTRL, InCTRLv2])
def test_predict_names_the_file_and_keeps_the_scores(kind, broken, make_prompted, engine, tmp_path, caplog):
    with pytest.raises(ImageFileError, match=re.escape(f"{broken}: ")):
        engine.predict(make_prompted(kind), data_path=broken.parent)
    assert scored(tmp_path) == ["a.png"]
    assert "1 images were scored before the error" in caplog.text


@pytest.mark.parametrize("wrap", [lambda dataset: dataset, lambda dataset: Subset(dataset, [0, 1, 2])])
def test_so_does_a_worker_process(wrap, broken, make_prompted, engine, tmp_path):
    loader = DataLoader(wrap(PredictDataset(broken.parent)), collate_fn=ImageBatch.collate, num_workers=1)
    with pytest.raises(ImageFileError) as found:
        engine.predict(make_prompted(InCTRLv2), dataloaders=loader)
    assert one_line(found.value).startswith(f"error: {broken}: 900 bytes, not readable as an image (")
    assert scored(tmp_path) == ["a.png"]


@pytest.mark.parametrize("part", ["test", "ground_truth"])
def test_test_names_a_broken_image_or_mask(part, make_module, engine, tmp_path):
    datamodule = InCTRLDemo(root=tmp_path, category="washer", eval_batch_size=1, **COUNTS)
    datamodule.prepare_data()
    broken = max((tmp_path / "washer" / part).glob("[!g]*/*.png"))
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(ImageFileError, match=re.escape(str(broken))):
        engine.test(make_module(), datamodule=datamodule)
    assert len(scored(tmp_path)) == COUNTS["test_normal_count"] + COUNTS["test_anomalous_count"] - 1


@either
def test_the_detector_skips_what_cannot_be_read(broken, whole, detector, pixels, caplog):
    expected = [prediction.score for prediction in detector.predict(whole)]
    with pytest.raises(ImageFileError, match=re.escape(broken.name)):
        detector.predict(broken.parent)
    missing = broken.with_name("none.png")
    predictions = detector.predict([broken.parent, missing, pixels, pixels * 300], on_error="skip")
    assert [prediction.name for prediction in predictions] == [*map(str, whole), "images[2]"]
    assert [prediction.score for prediction in predictions[:3]] == pytest.approx(expected, abs=1e-6)
    assert [name for name, _ in predictions.failed] == [str(broken), str(missing), "images[3]"]
    assert predictions.failed[0][1].startswith(f"{broken}: ")
    assert f"3 of 7 images are left out (see .failed), first: {broken}" in caplog.text
    nothing = detector.predict(missing, on_error="skip")
    assert (list(nothing), len(nothing.failed)) == ([], 1)
    with pytest.raises(ValueError, match="on_error='ignore'"):
        detector.predict(pixels, on_error="ignore")


def test_in_the_shell_it_is_one_line(broken, data, tmp_path):
    model = ["--model", "InCTRLv2", "--model.backbone", "mini-clip-16-240", "--model.pretrained", "demo"]
    model += ["--model.prompts", data / "washer/train/good", "--model.class_name", "washer"]
    options = ["--data", broken.parent, "--default_root_dir", tmp_path / "results", "--trainer.accelerator", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "anomalib_inctrl.cli", "predict", *model, *options],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "ANOMALIB_INCTRL_DEBUG": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-2].startswith(f"error: {broken}: 900 bytes")
    assert scored(tmp_path) == ["a.png"]
    # What other packages warn of at every start is not there, and nothing is there twice.
    shown = done.stderr + done.stdout
    for noise in ("Traceback", "treespec", "timm.models.layers", "pin_memory", "tokenizer", "overridden"):
        assert noise not in shown
    assert shown.count("Initializing InCTRLv2 model") == 1
