# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The embedded data on disk and as datamodules."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.data.utils import read_image, read_mask
from sklearn.datasets import load_digits

from anomalib_inctrl.data import DataSource, GeneralistDataModule
from anomalib_inctrl.demo import CATEGORIES, InCTRLDemo, Sample, ScikitDigits, render_batch
from anomalib_inctrl.errors import DatasetError

COUNTS = {"train_count": 4, "test_normal_count": 2, "test_anomalous_count": 11, "seed": 5}
TINY = {"train_count": 2, "test_normal_count": 1, "test_anomalous_count": 3}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A dataset of one category."""
    folder = tmp_path_factory.mktemp("demo")
    InCTRLDemo(folder, **COUNTS).prepare_data()
    return folder


def test_anomalibs_mvtec_datamodule_reads_what_is_rendered(root):
    stock = MVTecAD(root=root, category="washer", num_workers=0, eval_batch_size=4)
    stock.setup()
    assert (len(stock.train_data), len(stock.test_data), stock.task.value) == (4, 13, "segmentation")
    assert stock.test_data.samples.label_index.sum() == 11
    assert (root / "washer/test/scratch/001.png").is_file()  # nine kinds of defect, the first two of them twice
    for batch in stock.test_dataloader():
        assert torch.equal(batch.gt_mask.flatten(1).any(dim=1), batch.gt_label)
    batch = render_batch([Sample("washer", 2), Sample("washer", 2_000_002, "chip")], seed=5)
    files = [read_image(root / f"washer/{name}.png", as_tensor=True) for name in ("train/good/002", "test/chip/000")]
    torch.testing.assert_close(torch.stack(files), batch.image / 255)
    mask = read_mask(root / "washer/ground_truth/chip/000_mask.png", as_tensor=True)
    assert torch.equal(mask.bool(), batch.mask[1])


def test_datamodule_renders_once_and_gives_batches(root):
    module = InCTRLDemo(root=root, train_batch_size=3, **COUNTS)
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    module.prepare_data()
    module.setup()
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before
    assert next(iter(module.train_dataloader())).image.shape == (3, 3, 240, 240)
    assert InCTRLDemo(root=None).root.name == InCTRLDemo().root.name == "InCTRLDemo"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (None, r"washer holds no readable demo\.json.*delete"),
        ([1], r"washer holds no readable demo\.json.*delete"),
        ({"seed": 6}, r"washer was rendered.* seed=6 .*5.*delete"),
    ],
)
def test_a_folder_of_other_origin_is_refused_and_left_alone(tmp_path, settings, words):
    mine = tmp_path / "washer" / "000.png"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    if settings:
        mine.with_name("demo.json").write_text(json.dumps(settings))
    module = InCTRLDemo(tmp_path, **COUNTS)
    for step in (module.prepare_data, module.setup):
        with pytest.raises(DatasetError, match=words):
            step()
    assert mine.read_bytes() == b"mine"


def test_simultaneous_rendering_gives_one_complete_folder(tmp_path):
    left = tmp_path / ".brick.unfinished" / "test" / "left.png"  # by a process that was killed
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: InCTRLDemo(tmp_path, "brick", **TINY).prepare_data(), range(4)))
    assert {path.name for path in tmp_path.iterdir()} == {"brick", ".brick.lock"}
    assert len(list((tmp_path / "brick").rglob("*.png"))) == 2 + 1 + 3 * 2


def test_wrong_arguments_are_refused(tmp_path):
    with pytest.raises(DatasetError) as error:
        InCTRLDemo(root=tmp_path, category="sofa")
    assert all(name in str(error.value) for name in CATEGORIES)
    with pytest.raises(DatasetError, match="test_normal_count"):
        InCTRLDemo(root=tmp_path, test_normal_count=0)
    with pytest.raises(DatasetError, match="prepare_data"):
        InCTRLDemo(root=tmp_path, category="gear").setup()


def test_digits_are_those_of_scikit_learn_and_targets_of_a_generalist(tmp_path):
    digits, root = load_digits(), tmp_path / "ScikitDigits"
    tested = np.arange(len(digits.target)) % 6 == 0
    ScikitDigits(root).prepare_data()
    for category, normal in (("digit_3", [3]), ("even_digit", [0, 2, 4, 6, 8])):
        datamodule = ScikitDigits(root, category, num_workers=0)
        datamodule.setup()
        train, test = datamodule.train_data.samples, datamodule.test_data.samples
        assert len(train) == np.isin(digits.target[~tested], normal).sum()
        assert (len(test), train.label_index.sum()) == (tested.sum(), 0)
        assert (test.label_index == 0).sum() == np.isin(digits.target[tested], normal).sum()
    for number in (0, 17, 299):
        row = np.flatnonzero(tested)[number]
        image = read_image(root / "digits" / "test" / f"digit_{digits.target[row]}" / f"{number:05}.png")
        np.testing.assert_allclose(image[:, :, 0] * 16, digits.images[row], atol=0.04)
    datamodule = GeneralistDataModule(targets=[DataSource("ScikitDigits", str(root), ["digit_1", "even_digit"])])
    datamodule.prepare_data()
    datamodule.setup("test")
    assert set(datamodule.prompt_candidates()) == {"digit_1", "even_digit"}
    assert len(datamodule.test_data) == 600
