# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Image files of every kind, batches of several sizes, and folders named in any script, through anomalib's engine."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.cli.cli import AnomalibCLI
from anomalib.data import Folder, PredictDataset
from PIL import Image
from torch.utils.data import DataLoader

from anomalib_inctrl import Detector, GeneralistDataModule, InCTRLDemo, InCTRLv2
from anomalib_inctrl.data import DataSource
from tests.engine.conftest import BACKBONE, COUNTS

FOLDERS = ["größe 测试", "πίνακας", "données été"]


def turned(image, path):
    """Write an image as a phone held upright does: lying, with the orientation 6."""
    exif = Image.Exif()
    exif[274] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)


def twelve_bits(image, path):
    values = np.asarray(image.convert("L")).astype(np.uint16)
    Image.fromarray(values * 16 + values // 16).save(path)


def transparent(image, path):
    image = image.convert("RGB")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(path)


@pytest.fixture
def files(data, tmp_path):
    """Images of one product of several kinds and sizes."""
    (tmp_path / "files").mkdir()
    kinds = [turned, twelve_bits, transparent, Image.Image.save, turned]
    sizes = [(200, 260), (240, 240), (150, 90), (300, 200), (120, 240)]
    sources = sorted((data / "washer/test").rglob("*.png"))[:5]
    for index, (write, size, source) in enumerate(zip(kinds, sizes, sources, strict=True)):
        write(Image.open(source).resize(size), tmp_path / "files" / f"{index}.png")
    return tmp_path / "files"


def test_scores_depend_neither_on_the_batch_nor_on_the_way_an_image_is_given(make_model, make_engine, data, files):
    model = make_model(prompts=str(data / "washer/train/good"), class_name="washer", visualizer=False)
    scores = []
    for size in (1, 2, 5):
        dataset = PredictDataset(files)
        loader = DataLoader(dataset, batch_size=size, collate_fn=dataset.collate_fn)
        predictions = make_engine().predict(model, dataloaders=loader)
        scores.append(torch.cat([batch.raw_score for batch in predictions]).tolist())
    detected = [prediction.score for prediction in Detector(model, device="cpu").predict(files, "washer")]
    assert len(set(detected)) == 5
    for found in scores:
        assert found == pytest.approx(detected, abs=2e-6)


@pytest.mark.parametrize(("write", "tolerance"), [(turned, 0), (twelve_bits, 3), (transparent, 0)])
def test_images_are_drawn_as_they_are_read(write, tolerance, make_engine, data, tmp_path):
    """The file of a special kind and the same picture as a plain one give the same figure of anomalib, and of ours."""
    source = Image.open(next((data / "washer/test/scratch").glob("*.png"))).convert("RGB").resize((160, 240))
    plain = source.convert("L").convert("RGB") if write is twelve_bits else source
    folders = [tmp_path / "special", tmp_path / "plain"]
    for folder in folders:
        folder.mkdir()
    write(source, folders[0] / "image.png")
    if write not in {turned, twelve_bits}:
        alpha = Image.linear_gradient("L").resize(source.size)
        plain = Image.composite(source, Image.new("RGB", source.size), alpha)
    plain.save(folders[1] / "image.png")
    pictures = []
    for folder in folders:
        model = InCTRLv2(BACKBONE, pretrained=None, prompts=str(data / "washer/train/good"), class_name="washer")
        engine = make_engine(default_root_dir=tmp_path / f"results {folder.name}")
        engine.predict(model, data_path=folder)
        root = Path(engine.trainer.default_root_dir)
        (picture,) = (root / "images").rglob("image.png")
        (figure,) = (root / "explanations").rglob("image.png")
        assert picture.parent.name == figure.parent.name == folder.name
        pictures.append([np.asarray(Image.open(file).convert("RGB")).astype(int) for file in (picture, figure)])
    (special, special_figure), (expected, expected_figure) = pictures
    # The random backbone lets the map change with the last level of a pixel: of the picture its image is compared.
    assert np.abs(special[:, :256] - expected[:, :256]).max() <= tolerance + 2
    assert special_figure.shape == expected_figure.shape


def dataset_of(root, data, orientation_of_masks):
    """A folder of upright photos that lie in their files, with masks as stored or as displayed; None: plain photos."""
    for split, source in (("good", "train/good"), ("fine", "test/good"), ("bad", "test/scratch")):
        (root / split).mkdir(parents=True)
        for path in sorted((data / "washer" / source).glob("*.png"))[:3]:
            image = Image.open(path).resize((180, 240))
            (turned(image, root / split / path.name) if orientation_of_masks else image.save(root / split / path.name))
    (root / "masks").mkdir()
    for path in (root / "bad").glob("*.png"):
        mask = Image.open(data / f"washer/ground_truth/scratch/{path.stem}_mask.png").resize((180, 240), 0)
        mask = mask.transpose(Image.Transpose.ROTATE_90) if orientation_of_masks == "stored" else mask
        mask.save(root / "masks" / path.name)
    return {"normal_dir": "good", "normal_test_dir": "fine", "abnormal_dir": "bad", "mask_dir": "masks"}


def test_masks_of_photos_are_turned_with_them(make_engine, data, tmp_path):
    """In anomalib's own folders as stored, in this package's merged datasets as stored or as displayed."""
    metrics = {}
    for masks in (None, "stored", "displayed"):
        root = tmp_path / str(masks)
        options = {"name": "washer", "val_split_mode": "same_as_test"} | dataset_of(root, data, masks)
        source = DataSource("Folder", root=str(root), class_name="washer", options=options)
        metrics[f"merged {masks}"] = GeneralistDataModule(targets=[source], num_workers=0)
        if masks != "displayed":
            metrics[f"folder {masks}"] = Folder(**options, root=root, num_workers=0)
    for name, datamodule in metrics.items():
        torch.manual_seed(0)
        model = InCTRLv2(BACKBONE, pretrained=None, k_shot=2, visualizer=False, prompt_selection="first")
        (metrics[name],) = make_engine(default_root_dir=tmp_path / name).test(model, datamodule=datamodule)
    expected = metrics["merged None"]
    assert 0 < expected["pixel_AUROC"] < 1
    for found in metrics.values():
        assert found == pytest.approx(expected, abs=5e-3)


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_named_in_any_script(name, make_engine, data, tmp_path, monkeypatch):
    (tmp_path / name).mkdir()
    (tmp_path / name / "Kratzer ß").symlink_to(data / "washer/test/scratch")
    (tmp_path / name / "good").symlink_to(data / "washer/train/good")
    root = tmp_path / name
    options = {"backbone": BACKBONE, "pretrained": None, "class_name": "washer"}
    model = InCTRLv2(**options, prompts=str(root / "good"))
    engine = make_engine(default_root_dir=root / "results")
    engine.predict(model, data_path=root / "Kratzer ß")
    results = Path(engine.trainer.default_root_dir)
    table = pd.read_csv(results / "scores.csv")
    assert len(table) == len(list((results / "images").rglob("*.png"))) > 0
    scores = [item.score for item in Detector(model, device="cpu").predict(root / "Kratzer ß", "washer")]
    assert table.score.tolist() == pytest.approx(scores, abs=2e-6)

    InCTRLDemo(root=root / "demo", **COUNTS).prepare_data()
    make_engine().test(InCTRLv2(**options, k_shot=1), datamodule=InCTRLDemo(root=root / "demo", **COUNTS))
    folder = Folder("washer", root=root, normal_dir="good", abnormal_dir="Kratzer ß", num_workers=0)
    make_engine().test(InCTRLv2(**options, k_shot=1, visualizer=False), datamodule=folder)

    monkeypatch.chdir(tmp_path)
    arguments = ["predict", "--model", "InCTRLv2", "--model.backbone", BACKBONE, "--model.pretrained", "null"]
    arguments += ["--model.prompts", f"{name}/good", "--model.class_name", "washer", "--data", f"{name}/Kratzer ß"]
    arguments += ["--default_root_dir", f"{name}/out", "--trainer.accelerator", "cpu"]
    AnomalibCLI(args=arguments)
    (scores,) = (root / "out").rglob("scores.csv")
    assert len(pd.read_csv(scores)) == len(table)


def test_control_characters_are_still_refused(make_engine, data, tmp_path):
    (tmp_path / "a\nb").symlink_to(data / "washer/test/scratch")
    model = InCTRLv2(BACKBONE, pretrained=None, prompts=str(data / "washer/train/good"))
    with pytest.raises(ValueError, match="non-printable"):
        make_engine().predict(model, data_path=tmp_path / "a\nb")


def test_images_that_anomalibs_folders_leave_out_are_reported(make_engine, data, tmp_path, caplog):
    image = Image.open(next((data / "washer/test/scratch").glob("*.png")))
    for name in ("a.png", "b.png", "c.jp2", "d.gif", "e.gif"):
        image.save(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    model = InCTRLv2(BACKBONE, pretrained=None, prompts=str(data / "washer/train/good"), visualizer=False)
    predictions = make_engine().predict(model, data_path=tmp_path)
    assert sum(len(batch.image_path) for batch in predictions) == 2
    assert f"{tmp_path}: 3 files are not read, by their endings (2 .gif, 1 .jp2)." in caplog.text
