# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of real test and predict runs: which files, and what is on them."""

from dataclasses import make_dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.data import ImageBatch, PredictDataset
from anomalib.visualization import ImageVisualizer
from jsonargparse import ArgumentParser
from PIL import Image
from torch.utils.data import ConcatDataset, Subset

from anomalib_inctrl.visualization import ExplanationVisualizer, HeatMap
from anomalib_inctrl.visualization import visualizer as visualizer_module

SIDE = 48  # of the images that `write_image` writes


@pytest.fixture
def mvtec(tmp_path, fakes):
    """Categories with files of equal names, as all datasets in MVTec AD's layout have them."""

    def make(root="data", categories=("gear", "washer")):
        rows = []
        for name in categories:
            for folder, label in (("good", 0), ("spot", 1)):
                for index in range(2):
                    path = tmp_path / root / name / "test" / folder / f"{index:03}.png"
                    spot = (12 + 8 * index, 36) if label else None
                    rows.append((fakes.write_image(path, spot), label, name))
        return fakes.Files(pd.DataFrame(rows, columns=["image_path", "label_index", "class_name"]))

    return make


def files_in(folder, *, under=None):
    start = folder if under is None else folder / under
    return sorted(str(path.relative_to(folder)) for path in start.rglob("*") if path.is_file())


@pytest.mark.parametrize("stage", ["test", "predict"])
def test_one_category_has_anomalibs_names(tmp_path, make_trainer, stage, fakes, mvtec):
    dataset = mvtec("MVTecAD", ["gear"])
    trainer = make_trainer()
    getattr(trainer, stage)(fakes.BrightSpots(), datamodule=fakes.OneTarget(dataset, "MVTecAD", "gear"))
    names = [f"test/{kind}/{index:03}.png" for kind in ("good", "spot") for index in range(2)]
    assert files_in(tmp_path / "run" / "images") == names
    assert files_in(tmp_path / "run" / "explanations") == names


def test_categories_do_not_overwrite_each_other(tmp_path, make_trainer, fakes, mvtec):
    dataset = mvtec("data")
    names = [str(Path(path).relative_to(tmp_path / "data")) for path in dataset.samples.image_path]
    make_trainer().test(fakes.BrightSpots(), fakes.loader(dataset), verbose=False)
    for folder in ("images", "explanations"):
        assert files_in(tmp_path / "run" / folder) == sorted(names)


@pytest.mark.parametrize("wrap", [lambda d: ConcatDataset([d]), lambda d: Subset(d, range(len(d)))])
def test_names_are_found_in_nested_datasets(tmp_path, make_trainer, wrap, fakes, mvtec):
    dataset = mvtec("data")
    make_trainer().predict(fakes.BrightSpots(), [fakes.loader(wrap(dataset))])
    assert len(files_in(tmp_path / "run" / "explanations")) == len(dataset)


def test_names_do_not_depend_on_batches(tmp_path, make_trainer, fakes, mvtec):
    dataset = mvtec("data")
    runs = {}
    for batch_size, order in ((1, 1), (3, -1), (8, 1)):
        root = tmp_path / f"run{batch_size}"
        shuffled = fakes.Files(dataset.samples.iloc[::order])
        make_trainer(default_root_dir=root).test(fakes.BrightSpots(), fakes.loader(shuffled, batch_size), verbose=False)
        runs[batch_size] = {name: (root / name).read_bytes() for name in files_in(root, under="explanations")}
    assert len(runs[1]) == len(dataset)
    assert runs[1] == runs[3] == runs[8]


@pytest.mark.parametrize(
    "names",
    [["part.png"], ["a/0.png", "b/0.png"], ["x/a/0.png", "y/a/0.png", "a/0.png", "0.png"], ["a/0.png", "a/a/0.png"]],
)
def test_predict_on_a_file_and_on_nested_folders(tmp_path, make_trainer, names, fakes):
    for name in names:
        fakes.write_image(tmp_path / "mine" / name, spot=(20, 20))
    source = tmp_path / "mine" / names[0] if len(names) == 1 else tmp_path / "mine"
    dataset = PredictDataset(source)
    make_trainer().predict(fakes.BrightSpots(), fakes.loader(dataset))
    for folder in ("images", "explanations"):
        assert len(files_in(tmp_path / "run" / folder)) == len(names)


def test_predict_on_a_file_in_the_working_folder(tmp_path, make_trainer, monkeypatch, fakes):
    fakes.write_image(tmp_path / "part.png")
    monkeypatch.chdir(tmp_path)
    dataset = PredictDataset("part.png")
    make_trainer().predict(fakes.BrightSpots(), fakes.loader(dataset))
    assert [Path(name).name for name in files_in(tmp_path / "run")] == ["part.png", "part.png", "scores.csv"]


def test_sheets_are_png_and_files_that_differ_in_suffix_stay_apart(tmp_path, make_trainer, fakes):
    for name in ("0.png", "0.jpg", "0.bmp"):
        fakes.write_image(tmp_path / "mine" / name)
    dataset = PredictDataset(tmp_path / "mine")
    make_trainer().predict(fakes.BrightSpots(), fakes.loader(dataset))
    sheets = files_in(tmp_path / "run" / "explanations")
    assert sheets == ["mine/0.bmp.png", "mine/0.jpg.png", "mine/0.png"]
    assert all(Image.open(tmp_path / "run" / "explanations" / sheet).format == "PNG" for sheet in sheets)


def test_anomalibs_pictures_are_as_ever(tmp_path, make_trainer, fakes, mvtec):
    dataset = mvtec("MVTecAD", ["gear"])
    for name, model in (("ours", fakes.BrightSpots()), ("stock", fakes.BrightSpots(callbacks=[ImageVisualizer()]))):
        trainer = make_trainer(default_root_dir=tmp_path / name)
        trainer.test(model, datamodule=fakes.OneTarget(dataset, "MVTecAD", "gear"), verbose=False)
    pictures = files_in(tmp_path / "stock" / "images")
    assert len(pictures) == len(dataset)
    for name in pictures:
        assert (tmp_path / "ours/images" / name).read_bytes() == (tmp_path / "stock/images" / name).read_bytes()


def test_a_later_run_goes_to_its_own_folder(tmp_path, make_trainer, fakes, mvtec):
    dataset = mvtec("data", ["gear"])
    model = fakes.BrightSpots(callbacks=[ExplanationVisualizer(tile=48)])
    for name in ("first", "second"):
        make_trainer(default_root_dir=tmp_path / name).test(model, fakes.loader(dataset), verbose=False)
    assert files_in(tmp_path / "first") == files_in(tmp_path / "second") != []


def test_a_run_after_a_failed_one_goes_to_its_own_folder(tmp_path, make_trainer, monkeypatch, fakes, mvtec):
    def fail(*args, **options):
        raise OSError("disk full")

    dataset = mvtec("data", ["gear"])
    model = fakes.BrightSpots(callbacks=[ExplanationVisualizer(tile=48)])
    with monkeypatch.context() as patched:
        patched.setattr(ImageVisualizer, "on_test_batch_end", fail)
        failed = make_trainer(default_root_dir=tmp_path / "failed")
        with pytest.raises(OSError, match="disk full"):
            failed.test(model, fakes.loader(dataset), verbose=False)
    make_trainer(default_root_dir=tmp_path / "second").test(model, fakes.loader(dataset), verbose=False)
    assert len(files_in(tmp_path / "second", under=tmp_path / "second" / "images")) == len(dataset)


def test_sheets_can_be_left_out_and_the_picture_folder_chosen(tmp_path, make_trainer, fakes, mvtec):
    dataset = mvtec("data", ["gear"])
    pictures = ExplanationVisualizer(explanations=False, output_dir=tmp_path / "elsewhere")
    model = fakes.BrightSpots(callbacks=[pictures])
    make_trainer().test(model, fakes.loader(dataset), verbose=False)
    assert not (tmp_path / "run" / "explanations").exists()
    assert len(files_in(tmp_path / "elsewhere")) == len(dataset)


@pytest.fixture
def drawn(monkeypatch):
    """What is handed to the sheet, by class and file name."""
    calls = {}
    draw = visualizer_module.explanation_figure

    def record(image, **arguments):
        calls[arguments["class_name"], arguments["file_name"]] = arguments | {"image": image}
        return draw(image, **arguments)

    monkeypatch.setattr(visualizer_module, "explanation_figure", record)
    return calls


def test_every_sheet_shows_its_own_image(tmp_path, make_trainer, drawn, fakes, mvtec):
    dataset = mvtec("data")
    train = {name: tmp_path / "data" / name / "train" / "good" for name in dataset.samples.class_name.unique()}
    prompts = {name: [fakes.write_image(folder / f"{i}.png") for i in range(2)] for name, folder in train.items()}
    model = fakes.BrightSpots(prompts)
    make_trainer().test(model, fakes.loader(dataset), verbose=False)
    assert len(drawn) == len(dataset)
    for row in dataset.samples.itertuples():
        shown = drawn[row.class_name, str(Path(*Path(row.image_path).parts[-3:]))]
        original = np.asarray(Image.open(row.image_path)).astype(int)
        assert np.abs(np.asarray(shown["image"]).astype(int) - original).max() <= 1
        assert shown["gt_label"] == shown["pred_label"] == bool(row.label_index)
        assert shown["mask"].any() == bool(row.label_index)
        score = original.mean(-1).max() / 255 - 0.4
        assert shown["score"] == pytest.approx(score, abs=1e-5)
        assert shown["components"] == pytest.approx({"text score": score / 3, "patch score": score}, abs=1e-5)
        assert shown["pred_score"] == pytest.approx(np.clip((score - 0.25) / 0.5 + 0.5, 0, 1), abs=1e-5)
        assert shown["threshold"] == 0.5
        assert shown["k_shot"] == len(shown["prompts"]) == 2
        residual, final = shown["maps"]["residual map"], shown["maps"]["anomaly map"]
        assert residual.values.shape == (6, 6)
        assert (residual.low, residual.high, residual.threshold) == (0.0, 0.5, None)
        assert final.values.shape == (SIDE, SIDE)
        assert (final.low, final.high, final.threshold) == (0.0, 1.0, 0.5)
        if row.label_index:
            row_at, column_at = np.unravel_index(residual.values.argmax(), (6, 6))
            assert shown["mask"][row_at * 8 : row_at * 8 + 8, column_at * 8 : column_at * 8 + 8].any()


def test_the_hot_spot_is_hot_on_the_written_sheet(tmp_path, make_trainer, fakes):
    fakes.write_image(tmp_path / "mine" / "0.png", spot=(12, 36))
    dataset = PredictDataset(tmp_path / "mine")
    make_trainer().predict(fakes.BrightSpots(), fakes.loader(dataset))
    sheet = np.asarray(Image.open(tmp_path / "run/explanations/mine/0.png")).astype(int)
    left, top = 2 * (80 + 5) + 5, 20 + 8  # the residual map of a sheet with 80-pixel tiles
    redness = (sheet[..., 0] - sheet[..., 2])[top : top + 80, left : left + 80]
    row, column = np.unravel_index(redness.argmax(), redness.shape)
    assert abs(row - 20) < 16
    assert abs(column - 60) < 16
    assert redness[60, 20] < 0


def test_without_normalisation_the_anomaly_map_has_the_raw_range(tmp_path, make_trainer, drawn, fakes):
    fakes.write_image(tmp_path / "mine" / "0.png", spot=(12, 36))
    dataset = PredictDataset(tmp_path / "mine")
    model = fakes.BrightSpots(normalises=False)
    make_trainer().predict(model, fakes.loader(dataset))
    unseen = fakes.BrightSpots()
    for name in ("pixel_min", "pixel_max", "image_min", "image_max"):
        getattr(unseen.post_processor, name).fill_(float("nan"))
    (seen,) = drawn.values()
    assert seen["maps"]["anomaly map"][1:] == (0.0, 0.5, None)
    drawn.clear()
    make_trainer().predict(unseen, fakes.loader(dataset))
    (shown,) = drawn.values()
    assert shown["pred_score"] is seen["pred_score"] is None
    assert shown["threshold"] == seen["threshold"] == 0.5
    assert [shown["maps"][name][1:3] for name in ("residual map", "anomaly map")] == [
        visualizer_module.RESIDUAL_RANGE
    ] * 2


def sheets_of(batch, model=None, visualizer=None):
    return list((visualizer or ExplanationVisualizer(tile=64)).sheets(object(), model or object(), batch))


def test_a_model_that_explains_nothing(make_batch, drawn):
    assert len(sheets_of(make_batch(3))) == 3
    (shown,) = drawn.values()
    assert shown["maps"] == {}
    assert shown["components"] == {}
    assert shown["score"] is shown["pred_label"] is shown["gt_label"] is shown["mask"] is None


def test_more_maps_and_terms_need_no_change(make_batch, drawn):
    batch = make_batch(1, anomaly_map=torch.rand(1, SIDE, SIDE))
    one, over_grid = torch.tensor([0.5]), torch.rand(1, 4, 9)
    components = {"text_score": one, "patch_map": over_grid.flatten(1), "dasl_map": over_grid, "anomaly_map": over_grid}
    components |= {"oasl_map": over_grid}
    components |= {"fused_map": over_grid, "holistic_score": one, "score": one, "grid": (4, 9), "unused": None}
    batch.components = make_dataclass("Terms", components)(**components)
    sheets_of(batch, visualizer=ExplanationVisualizer(map_ranges={"DASL map": (0.1, 0.2)}))
    (shown,) = drawn.values()
    assert list(shown["maps"]) == ["residual map", "DASL map", "OASL map", "fused map", "anomaly map"]
    assert shown["maps"]["residual map"].values.shape == (4, 9)
    assert shown["maps"]["anomaly map"].values.shape == (SIDE, SIDE)
    assert shown["maps"]["DASL map"][1:] == (0.1, 0.2, None)
    assert list(shown["components"]) == ["text score", "holistic score"]


def test_where_no_mask_is_known_none_is_shown(make_batch, drawn):
    batch = make_batch(2, gt_mask=torch.zeros(2, SIDE, SIDE, dtype=torch.bool), image_path=["a.png", "b.png"])
    batch.mask_valid = torch.tensor([True, False])
    sheets_of(batch)
    assert drawn["", "a.png"]["mask"] is not None
    assert drawn["", "b.png"]["mask"] is None


def test_images_that_are_not_normalised_stay(make_batch, drawn):
    batch = make_batch(1)
    sheets_of(batch)
    shown = next(iter(drawn.values()))["image"]
    assert np.abs(np.asarray(shown) / 255 - batch.image[0].permute(1, 2, 0).numpy()).max() < 1 / 255
    model = type("Model", (), {"pre_processor": object()})()
    scaled = ImageBatch(image=(batch.image - torch.tensor(visualizer_module.CLIP_MEAN).view(3, 1, 1)))
    scaled.image = scaled.image / torch.tensor(visualizer_module.CLIP_STD).view(3, 1, 1)
    sheets_of(scaled, model)
    again = next(iter(drawn.values()))["image"]
    assert np.abs(np.asarray(again).astype(int) - np.asarray(shown).astype(int)).max() <= 1


def test_half_precision_and_inference_tensors(make_batch, fakes):
    with torch.inference_mode():
        batch = make_batch(1, anomaly_map=torch.rand(1, SIDE, SIDE), pred_score=torch.rand(1))
        batch.image, batch.anomaly_map = batch.image.bfloat16(), batch.anomaly_map.bfloat16()
        one = torch.tensor([0.5], dtype=torch.bfloat16)
        batch.components = fakes.Terms(one, torch.rand(1, 36).bfloat16(), one, one, one)
        batch.raw_score = one
    assert len(sheets_of(batch)) == 1


def test_prompts_are_read_once_and_missing_ones_are_grey(tmp_path, make_batch, drawn, monkeypatch, fakes):
    here, broken = fakes.write_image(tmp_path / "p.png"), tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    model = type("Model", (), {"prompt_files": {"gear": [here, str(tmp_path / "gone.png"), str(broken)]}})()
    reads = []
    read = visualizer_module.read_image
    monkeypatch.setattr(visualizer_module, "read_image", lambda path: reads.append(path) or read(path))
    batch = make_batch(2)
    batch.class_name = ["gear", "unknown"]
    visualizer = ExplanationVisualizer(tile=64)
    sheets_of(batch, model, visualizer)
    sheets_of(batch, model, visualizer)
    assert reads == model.prompt_files["gear"]
    shown = [prompt.getextrema() for prompt in drawn["gear", "."]["prompts"]]
    assert shown[1:] == [((128, 128),) * 3] * 2
    assert shown[0] != shown[1]
    assert drawn["unknown", "."]["prompts"] == []


def test_prompts_without_files_are_counted(make_batch, drawn):
    model = type("Model", (), {"prompt_files": {}, "hparams": {"k_shot": 4}})()
    sheets_of(make_batch(1), model)
    assert next(iter(drawn.values()))["k_shot"] == 4


def test_a_failed_sheet_leaves_nothing_behind(tmp_path, make_trainer, monkeypatch, fakes):
    fakes.write_image(tmp_path / "mine" / "0.png")
    dataset = PredictDataset(tmp_path / "mine")

    def fail(self, path, *args, **options):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(visualizer_module, "explanation_figure", lambda *a, **k: type("Sheet", (), {"save": fail})())
    with pytest.raises(OSError, match="disk full"):
        make_trainer().predict(fakes.BrightSpots(), fakes.loader(dataset))
    assert files_in(tmp_path / "run" / "explanations") == []


def test_it_is_configured_like_any_component():
    parser = ArgumentParser()
    parser.add_subclass_arguments(ImageVisualizer, "visualizer")
    config = {
        "class_path": "anomalib_inctrl.visualization.ExplanationVisualizer",
        "init_args": {"tile": 64, "map_ranges": {"residual map": [0.0, 0.2]}, "field_size": [64, 64]},
    }
    made = parser.instantiate_classes(parser.parse_object({"visualizer": config})).visualizer
    assert isinstance(made, ExplanationVisualizer)
    assert made.map_ranges == {"residual map": (0.0, 0.2)}
    assert HeatMap(np.eye(2), *made.map_ranges["residual map"]).high == 0.2


def test_without_a_threshold_nothing_is_labelled(tmp_path, make_trainer, drawn, fakes):
    fakes.write_image(tmp_path / "mine" / "0.png", spot=(12, 36))
    model = fakes.BrightSpots()
    for name in ("_image_threshold", "_pixel_threshold", "pixel_min", "pixel_max", "image_min", "image_max"):
        getattr(model.post_processor, name).fill_(float("nan"))
    make_trainer().predict(model, fakes.loader(PredictDataset(tmp_path / "mine")))
    (shown,) = drawn.values()
    assert shown["score"] > 0.1
    assert shown["pred_label"] is shown["pred_score"] is shown["threshold"] is None
    assert "pred_label" not in (tmp_path / "run" / "scores.csv").read_text().splitlines()[0].split(",")
