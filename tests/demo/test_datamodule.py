# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The demo data on disk and as a datamodule."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.data.utils import read_image, read_mask

from anomalib_inctrl.demo import CATEGORIES, InCTRLDemo, Sample, datamodule, render_batch
from anomalib_inctrl.errors import DatasetError

COUNTS = {"train_count": 4, "test_normal_count": 2, "test_anomalous_count": 11, "seed": 5}
TINY = {"train_count": 2, "test_normal_count": 1, "test_anomalous_count": 3}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A dataset of one category."""
    folder = tmp_path_factory.mktemp("demo")
    InCTRLDemo(folder, **COUNTS).prepare_data()
    return folder


def test_anomalibs_mvtec_datamodule_reads_it(root):
    stock = MVTecAD(root=root, category="washer", num_workers=0, eval_batch_size=4)
    stock.setup()
    assert (len(stock.train_data), len(stock.test_data), stock.task.value) == (4, 13, "segmentation")
    assert stock.test_data.samples.label_index.sum() == 11
    assert (root / "washer/test/scratch/001.png").is_file()  # nine kinds of defect, the first two of them twice
    for batch in stock.test_dataloader():
        assert batch.image.shape[1:] == (3, 240, 240)
        assert torch.equal(batch.gt_mask.flatten(1).any(dim=1), batch.gt_label)


def test_files_hold_what_is_rendered(root):
    batch = render_batch([Sample("washer", 2), Sample("washer", 2_000_002, "chip")], seed=5)
    normal = read_image(root / "washer/train/good/002.png", as_tensor=True)
    broken = read_image(root / "washer/test/chip/000.png", as_tensor=True)
    torch.testing.assert_close(torch.stack([normal, broken]), batch.image / 255)
    mask = read_mask(root / "washer/ground_truth/chip/000_mask.png", as_tensor=True)
    assert torch.equal(mask.bool(), batch.mask[1])


def test_datamodule_renders_once_and_gives_batches(root):
    module = InCTRLDemo(root=root, train_batch_size=3, **COUNTS)
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    module.prepare_data()
    module.setup()
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before
    assert next(iter(module.train_dataloader())).image.shape == (3, 3, 240, 240)
    assert len(module.val_data) == len(module.test_data) == 13
    assert module.num_workers == 0
    assert InCTRLDemo(root=None).root.name == InCTRLDemo().root.name == "InCTRLDemo"


def test_other_settings_are_refused_with_the_difference(root):
    module = InCTRLDemo(root=root, category="washer", **{**COUNTS, "seed": 6})
    for step in (module.prepare_data, module.setup):
        with pytest.raises(DatasetError, match=r"washer was rendered.* seed=5 .*6.*delete"):
            step()


@pytest.mark.parametrize(("settings", "words"), [(None, r"demo\.json"), (json.dumps([1]), "other settings")])
def test_a_folder_of_other_origin_is_left_alone(tmp_path, settings, words):
    mine = tmp_path / "washer" / "000.png"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    if settings:
        mine.with_name("demo.json").write_text(settings)
    with pytest.raises(DatasetError, match=words):
        InCTRLDemo(tmp_path, **COUNTS).prepare_data()
    assert mine.read_bytes() == b"mine"


def test_interrupted_rendering_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(path, pixels):
        path.parent.mkdir(parents=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(datamodule, "_write_png", interrupt)
        with pytest.raises(KeyboardInterrupt):
            InCTRLDemo(tmp_path, **TINY).prepare_data()
    assert [path.name for path in tmp_path.iterdir()] == [".washer.lock"]
    left = tmp_path / ".washer.unfinished" / "test" / "left.png"  # by a process that was killed
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    InCTRLDemo(tmp_path, **TINY).prepare_data()
    assert len(list(tmp_path.rglob("*.png"))) == 2 + 1 + 3 * 2


def test_simultaneous_rendering_gives_one_complete_folder(tmp_path):
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
