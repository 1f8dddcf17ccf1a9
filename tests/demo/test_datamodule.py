# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The demo data on disk and as a datamodule."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.data.utils import read_image, read_mask

from anomalib_inctrl.demo import CATEGORIES, DemoSettings, InCTRLDemo, Sample, render_batch, render_category, writer
from anomalib_inctrl.errors import DatasetError

SMALL = DemoSettings(train_count=4, test_normal_count=2, test_anomalous_count=11, seed=5)
COUNTS = {"train_count": 4, "test_normal_count": 2, "test_anomalous_count": 11, "seed": 5}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of one category."""
    folder = tmp_path_factory.mktemp("demo")
    render_category(folder, "washer", SMALL)
    return folder


def test_stock_mvtec_datamodule_reads_it(root: Path) -> None:
    stock = MVTecAD(root=root, category="washer", num_workers=0, train_batch_size=2, eval_batch_size=4)
    stock.prepare_data()
    stock.setup()
    assert (len(stock.train_data), len(stock.test_data), stock.task.value) == (4, 13, "segmentation")
    labels = {}
    for batch in stock.test_dataloader():
        assert batch.image.shape[1:] == (3, 240, 240)
        for path, label, mask in zip(batch.image_path, batch.gt_label, batch.gt_mask, strict=True):
            labels[Path(path).relative_to(root / "washer").as_posix()] = bool(label)
            assert bool(mask.any()) == bool(label)
    assert sum(labels.values()) == 11
    assert not labels["test/good/001.png"]
    assert labels["test/scratch/001.png"]  # nine kinds of defect, the first two of them twice


def test_files_hold_what_is_rendered(root: Path) -> None:
    batch = render_batch([Sample("washer", 2), Sample("washer", 2_000_002, "chip")], seed=5)
    normal = read_image(root / "washer/train/good/002.png", as_tensor=True)
    broken = read_image(root / "washer/test/chip/000.png", as_tensor=True)
    torch.testing.assert_close(normal, batch.image[0] / 255)
    torch.testing.assert_close(broken, batch.image[1] / 255)
    mask = read_mask(root / "washer/ground_truth/chip/000_mask.png", as_tensor=True)
    assert torch.equal(mask.bool(), batch.mask[1])


def test_datamodule_gives_batches_and_renders_once(tmp_path: Path) -> None:
    datamodule = InCTRLDemo(root=tmp_path, category="tile", train_batch_size=3, eval_batch_size=5, **COUNTS)
    datamodule.prepare_data()
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    datamodule.prepare_data()
    datamodule.setup()
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    assert {p.name for p in tmp_path.iterdir()} == {"tile", ".tile.lock"}
    assert (datamodule.name, datamodule.category) == ("InCTRLDemo", "tile")
    assert next(iter(datamodule.train_dataloader())).image.shape == (3, 3, 240, 240)
    assert len(datamodule.val_data) == len(datamodule.test_data) == 13


@pytest.mark.parametrize(("name", "value"), [("seed", 6), ("train_count", 5), ("test_anomalous_count", 2)])
def test_other_settings_are_not_taken_for_these(root: Path, name: str, value: int) -> None:
    datamodule = InCTRLDemo(root=root, category="washer", **{**COUNTS, name: value})
    for step in (datamodule.prepare_data, datamodule.setup):
        with pytest.raises(DatasetError, match=f"washer was rendered.* {name}={COUNTS[name]} .*{value}.*delete"):
            step()


def test_a_folder_of_other_origin_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "washer" / "train" / "good" / "000.png"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    with pytest.raises(DatasetError, match=r"demo\.json"):
        render_category(tmp_path, "washer", SMALL)
    assert mine.read_bytes() == b"mine"
    (tmp_path / "washer" / "demo.json").write_text(json.dumps([1]))
    with pytest.raises(DatasetError, match="other settings"):
        render_category(tmp_path, "washer", SMALL)


def test_setup_before_rendering_says_so(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="prepare_data"):
        InCTRLDemo(root=tmp_path, category="gear").setup()


def test_interrupted_rendering_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(path: Path, _: object) -> None:
        path.write_bytes(b"half")
        if path.match("test/scratch/*"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(writer, "_write_png", interrupt)
        with pytest.raises(KeyboardInterrupt):
            render_category(tmp_path, "washer", SMALL)
    assert [path.name for path in tmp_path.iterdir()] == [".washer.lock"]
    assert (render_category(tmp_path, "washer", SMALL) / "demo.json").is_file()


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    left = tmp_path / ".washer.unfinished" / "test" / "good" / "000.png"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    folder = render_category(tmp_path, "washer", SMALL)
    assert {path.name for path in tmp_path.iterdir()} == {"washer", ".washer.lock"}
    assert (folder / "test" / "good" / "000.png").stat().st_size > 4


def test_simultaneous_rendering_gives_one_whole_folder(tmp_path: Path) -> None:
    tiny = DemoSettings(train_count=2, test_normal_count=1, test_anomalous_count=3)
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: render_category(tmp_path, "brick", tiny), range(4)))
    assert set(folders) == {tmp_path / "brick"}
    assert {path.name for path in tmp_path.iterdir()} == {"brick", ".brick.lock"}
    assert len(list((tmp_path / "brick").rglob("*.png"))) == 2 + 1 + 3 * 2


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as error:
        InCTRLDemo(root=tmp_path, category="sofa")
    assert all(name in str(error.value) for name in CATEGORIES)
    with pytest.raises(DatasetError, match="test_normal_count"):
        InCTRLDemo(root=tmp_path, test_normal_count=0)
