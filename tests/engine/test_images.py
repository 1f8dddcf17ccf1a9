# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Image files of every kind, batches of several sizes, and folders named in any script, through anomalib's engine."""

import shutil

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
from tests.engine.conftest import results, scores_of
from tests.shared import BACKBONE, COUNTS

NAME = "größe 测试 πίνακας"
one_model = pytest.mark.parametrize("kind", [InCTRLv2], scope="session")


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


def test_scores_depend_neither_on_the_batch_nor_on_the_way_an_image_is_given(
    make_model, make_engine, data, prompts, tmp_path
):
    kinds = [turned, twelve_bits, transparent, Image.Image.save, turned]
    sizes = [(200, 260), (240, 240), (150, 90), (300, 200), (120, 240)]
    sources = sorted((data / "washer/test").rglob("*.png"))[:5]
    files = [tmp_path / f"{index}.png" for index in range(5)]
    for write, size, source, file in zip(kinds, sizes, sources, files, strict=True):
        write(Image.open(source).resize(size), file)
    model = make_model(**prompts)
    dataset = PredictDataset(tmp_path)
    scores = []
    for size in (1, 2, 5):
        loader = DataLoader(dataset, batch_size=size, collate_fn=dataset.collate_fn)
        batches = make_engine().predict(model, dataloaders=loader)
        scores.append(torch.cat([batch.raw_score for batch in batches]).tolist())
    detected = [prediction.score for prediction in Detector(model, device="cpu").predict(files, "washer")]
    assert len(set(detected)) == 5
    for found in scores:
        assert found == pytest.approx(detected, abs=2e-6)


@one_model
@pytest.mark.parametrize(("write", "tolerance"), [(turned, 2), (twelve_bits, 5), (transparent, 2)])
def test_images_are_drawn_as_they_are_read(write, tolerance, make_model, make_engine, washers, prompts, tmp_path):
    """The file of a special kind and the same image as a plain one give the same figure of anomalib, and of ours."""
    source = Image.open(next(washers.glob("*.png"))).convert("RGB").resize((160, 240))
    plain = source.convert("L").convert("RGB") if write is twelve_bits else source
    if write is transparent:
        plain = Image.composite(source, Image.new("RGB", source.size), Image.linear_gradient("L").resize(source.size))
    images, figures = [], []
    for name, save, image in (("special", write, source), ("plain", Image.Image.save, plain)):
        (tmp_path / name).mkdir()
        save(image, tmp_path / name / "image.png")
        engine = make_engine(default_root_dir=tmp_path / f"results {name}")
        engine.predict(make_model(**prompts, visualizer=True), data_path=tmp_path / name)
        for kind, found in (("images", images), ("explanations", figures)):
            (path,) = results(engine, kind).rglob("image.png")
            assert path.parent.name == name
            found.append(np.asarray(Image.open(path).convert("RGB")).astype(int))
    # The random backbone lets the map change with the last level of a pixel: only the image in the figure counts.
    assert np.abs(images[0][:, :256] - images[1][:, :256]).max() <= tolerance
    assert figures[0].shape == figures[1].shape


def dataset_of(root, data, orientation_of_masks):
    """A folder of upright photos that lie in their files, with masks as stored or as displayed; None: plain photos."""
    write = turned if orientation_of_masks else Image.Image.save
    for split, source in (("good", "train/good"), ("fine", "test/good"), ("bad", "test/scratch")):
        (root / split).mkdir(parents=True)
        for path in sorted((data / "washer" / source).glob("*.png"))[:3]:
            write(Image.open(path).resize((180, 240)), root / split / path.name)
    (root / "masks").mkdir()
    for path in (root / "bad").glob("*.png"):
        mask = Image.open(data / f"washer/ground_truth/scratch/{path.stem}_mask.png").resize((180, 240), 0)
        mask = mask.transpose(Image.Transpose.ROTATE_90) if orientation_of_masks == "stored" else mask
        mask.save(root / "masks" / path.name)
    return {"normal_dir": "good", "normal_test_dir": "fine", "abnormal_dir": "bad", "mask_dir": "masks"}


@one_model
def test_masks_of_photos_are_turned_with_them(make_model, make_engine, data, tmp_path):
    """In anomalib's own folders as stored, in this package's merged datasets as stored or as displayed."""
    metrics = []
    for masks in (None, "stored", "displayed"):
        root = tmp_path / str(masks)
        options = {"name": "washer", "val_split_mode": "same_as_test"} | dataset_of(root, data, masks)
        source = DataSource("Folder", root=str(root), class_name="washer", options=options)
        datamodules = [GeneralistDataModule(targets=[source], num_workers=0)]
        if masks != "displayed":
            datamodules.append(Folder(**options, root=root, num_workers=0))
        for datamodule in datamodules:
            torch.manual_seed(0)
            metrics += make_engine().test(make_model(prompt_selection="first"), datamodule=datamodule)
    assert 0 < metrics[0]["pixel_AUROC"] < 1
    for found in metrics:
        assert found == pytest.approx(metrics[0], abs=5e-3)


@one_model
def test_folders_named_in_any_script(make_model, make_engine, data, washers, tmp_path, monkeypatch):
    root = tmp_path / NAME
    shutil.copytree(washers, root / "Kratzer ß")
    shutil.copytree(data / "washer/train/good", root / "good")
    model = make_model(prompts=str(root / "good"), class_name="washer", visualizer=True)
    engine = make_engine(default_root_dir=root / "results")
    engine.predict(model, data_path=root / "Kratzer ß")
    table = scores_of(engine)
    assert len(table) == len(list(results(engine, "images").rglob("*.png"))) > 0
    scores = [item.score for item in Detector(model, device="cpu").predict(root / "Kratzer ß", "washer")]
    assert table.score.tolist() == pytest.approx(scores, abs=2e-6)

    demo = InCTRLDemo(root=root / "demo", **COUNTS)
    folder = Folder("washer", root=root, normal_dir="good", abnormal_dir="Kratzer ß", num_workers=0)
    for datamodule in (demo, folder):
        make_engine().test(make_model(k_shot=1), datamodule=datamodule)

    monkeypatch.chdir(tmp_path)
    arguments = ["predict", "--model", "InCTRLv2", "--model.backbone", BACKBONE, "--model.pretrained", "null"]
    arguments += ["--model.prompts", f"{NAME}/good", "--model.class_name", "washer", "--data", f"{NAME}/Kratzer ß"]
    AnomalibCLI(args=[*arguments, "--default_root_dir", f"{NAME}/out", "--trainer.accelerator", "cpu"])
    (scores,) = (root / "out").rglob("scores.csv")
    assert len(pd.read_csv(scores)) == len(table)


@one_model
def test_control_characters_are_still_refused(make_model, make_engine, washers, prompts, tmp_path):
    (tmp_path / "a\nb").symlink_to(washers)
    with pytest.raises(ValueError, match="non-printable"):
        make_engine().predict(make_model(**prompts), data_path=tmp_path / "a\nb")


@one_model
def test_images_that_anomalibs_folders_leave_out_are_reported(
    make_model, make_engine, washers, prompts, tmp_path, caplog
):
    image = Image.open(next(washers.glob("*.png")))
    for name in ("a.png", "b.png", "c.jp2", "d.gif", "e.gif"):
        image.save(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    predictions = make_engine().predict(make_model(**prompts), data_path=tmp_path)
    assert sum(len(batch.image_path) for batch in predictions) == 2
    assert f"{tmp_path}: 3 files are not read, by their endings (2 .gif, 1 .jp2)." in caplog.text
