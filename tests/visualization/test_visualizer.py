# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Images of real test and predict runs: which files are written, and what the figures are given."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.data import ImageBatch, PredictDataset
from anomalib.visualization import ImageVisualizer
from lightning.pytorch import LightningDataModule
from PIL import Image

from anomalib_inctrl.models.components.score_components import ScoreComponents
from anomalib_inctrl.visualization import ExplanationVisualizer, explanation_figure
from anomalib_inctrl.visualization import visualizer as visualizer_module
from tests.visualization.conftest import SIDE, BrightSpots, Files, loader, write_image

SPOT = (12, 36)
CATEGORIES = [
    f"{name}/test/{kind}/{index}.png" for name in ("gear", "washer") for kind in ("good", "spot") for index in (0, 1)
]


@pytest.fixture
def make_files(tmp_path):
    """Images below one folder; those in folders `spot` have one and are labelled, the class is the first folder."""

    def make(names, root="data"):
        rows = [(tmp_path / root / name, int("spot" in name), name.split("/")[0]) for name in names]
        return Files((write_image(path, SPOT if label else None), label, kind) for path, label, kind in rows)

    return make


@pytest.fixture
def predict(tmp_path, make_trainer):
    """Predict an image with a bright spot."""

    def run(model=None, name="0.png"):
        path = write_image(tmp_path / "mine" / name, SPOT)
        make_trainer().predict(model or BrightSpots(), loader(PredictDataset(path)))
        return tmp_path / "run"

    return run


@pytest.fixture
def drawn(monkeypatch):
    """Arguments of the figures, by class and file name."""
    calls, draw = {}, visualizer_module.explanation_figure

    def record(image, **arguments):
        calls[arguments["class_name"], arguments["file_name"]] = arguments | {"image": image}
        return draw(image, **arguments)

    monkeypatch.setattr(visualizer_module, "explanation_figure", record)
    return calls


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def batch_of(*names, **fields):
    return ImageBatch(image=torch.rand(len(names), 3, SIDE, SIDE), image_path=list(names), **fields)


def arguments_of(batch, **model):
    return list(ExplanationVisualizer(dpi=20).figure_arguments(object(), SimpleNamespace(**model), batch))


@pytest.mark.parametrize("stage", ["test", "predict"])
@pytest.mark.parametrize(
    ("names", "written"),
    [
        (["part.bmp"], ["data/part.bmp"]),
        (["a/0.png", "b/0.png"], ["a/0.png", "b/0.png"]),
        (["x/a/0.png", "y/a/1.png"], ["a/0.png", "a/1.png"]),
        (["x/a/0.png", "y/a/0.png"], ["x/a/0.png", "y/a/0.png"]),
        (["a/0.png", "a/a/0.png"], ["a/0.png", "a/a/0.png"]),
        (["x/a/0.png", "y/a/0.png", "a/0.png", "0.png"], ["a/0.png", "data/0.png", "x/a/0.png", "y/a/0.png"]),
        (CATEGORIES, CATEGORIES),
    ],
)
def test_each_image_has_a_name_with_as_few_folders_as_keep_them_apart(make_files, make_trainer, stage, names, written):
    files = make_files(names)
    folder = Path(files.samples.image_path[0].removesuffix(names[0]))
    getattr(make_trainer(), stage)(BrightSpots(), loader(files if stage == "test" else PredictDataset(folder)))
    images, figures = (files_in(folder.parent / "run" / kind) for kind in ("images", "explanations"))
    assert images == written
    assert figures == [f"{name}.png" if name.endswith("bmp") else name for name in images]
    assert Image.open(folder.parent / "run" / "explanations" / figures[0]).format == "PNG"


def test_predict_on_a_file_in_the_working_folder(tmp_path, make_trainer, monkeypatch):
    write_image(tmp_path / "part.png")
    monkeypatch.chdir(tmp_path)
    make_trainer().predict(BrightSpots(), loader(PredictDataset("part.png")))
    assert [Path(name).name for name in files_in(tmp_path / "run")] == ["part.png", "part.png", "scores.csv"]


@pytest.mark.parametrize("stage", ["test", "predict"])
def test_one_category_has_anomalibs_names_and_images(tmp_path, make_trainer, make_files, stage):
    dataset, contents, datamodule = make_files(CATEGORIES[:4], "MVTecAD"), [], LightningDataModule()
    datamodule.name, datamodule.category = "MVTecAD", "gear"
    datamodule.test_dataloader = datamodule.predict_dataloader = lambda: loader(dataset)
    for name, model in (("own", BrightSpots()), ("stock", BrightSpots(callbacks=[ImageVisualizer()]))):
        getattr(make_trainer(default_root_dir=tmp_path / name), stage)(model, datamodule=datamodule)
        folder = tmp_path / name / "images"
        contents.append({file: (folder / file).read_bytes() for file in files_in(folder)})
    assert files_in(tmp_path / "own" / "explanations") == [name.removeprefix("gear/") for name in CATEGORIES[:4]]
    assert contents[0] == contents[1]


def test_figures_do_not_depend_on_batches_and_their_order(tmp_path, make_trainer, make_files):
    samples, contents = make_files(CATEGORIES).samples, []
    for size, step in ((1, 1), (3, -1)):
        run = tmp_path / str(size)
        make_trainer(default_root_dir=run).test(BrightSpots(), loader(Files(samples[::step]), size), verbose=False)
        contents.append([(run / "explanations" / name).read_bytes() for name in CATEGORIES])
    assert contents[0] == contents[1]


@pytest.mark.parametrize("batch_size", [1, 2])  # the error comes with the next batch, or at the end
def test_a_figure_that_cannot_be_written_ends_the_run(make_files, make_trainer, tmp_path, batch_size):
    (tmp_path / "run" / "explanations" / "a" / "0.png").mkdir(parents=True)
    with pytest.raises(OSError, match=r"0\.png"):
        make_trainer().test(BrightSpots(), loader(make_files(["a/0.png", "a/1.png"]), batch_size))


def test_figures_can_be_left_out_and_the_image_folder_chosen(tmp_path, predict):
    visualizer = ExplanationVisualizer(explanations=False, output_dir=tmp_path / "elsewhere")
    assert not predict(BrightSpots(callbacks=[visualizer])).exists()
    assert len(files_in(tmp_path / "elsewhere")) == 1


def test_every_figure_is_given_its_own_image_and_numbers(tmp_path, make_trainer, drawn, make_files):
    dataset = make_files(CATEGORIES)
    prompts = {
        name: [write_image(tmp_path / "data" / name / f"train/{i}.png") for i in range(2)]
        for name in ("gear", "washer")
    }
    make_trainer().test(BrightSpots(prompts), loader(dataset), verbose=False)
    assert len(drawn) == len(dataset)
    for row in dataset.samples.itertuples():
        shown = drawn[row.class_name, str(Path(*Path(row.image_path).parts[-3:]))]
        original = np.asarray(Image.open(row.image_path)).astype(int)
        assert np.abs(np.asarray(shown["image"]).astype(int) - original).max() <= 1
        assert shown["gt_label"] == shown["pred_label"] == shown["mask"].any() == bool(row.label_index)
        score = original.mean(-1).max() / 255 - 0.4
        assert shown["score"] == pytest.approx(score, abs=1e-5)
        assert shown["components"] == pytest.approx({"text score": score / 3, "patch score": score}, abs=1e-5)
        assert shown["normal_scores"] == []
        assert shown["k_shot"] == len(shown["prompts"]) == 2
        ((name, final),) = shown["maps"].items()  # the residual map is the same
        assert name == "anomaly map"
        assert final.values.max() == pytest.approx(score, abs=1e-5)
        if row.label_index:
            assert shown["mask"][np.unravel_index(final.values.argmax(), (SIDE, SIDE))]


@pytest.mark.parametrize(
    ("settings", "threshold", "pixel_threshold"),
    [
        ({}, 0.25, 0.25),
        ({"image_sensitivity": 0.6, "pixel_sensitivity": 0.3}, 0.2, 0.35),  # over a range of 0.5
        ({"enable_normalization": False}, 0.5, 0.5),  # anomalib then cuts raw values there
    ],
)
def test_thresholds_are_those_of_the_labels_on_the_raw_scale(drawn, predict, settings, threshold, pixel_threshold):
    model = BrightSpots()
    for name, value in settings.items():
        setattr(model.post_processor, name, value)
    predict(model)
    (shown,) = drawn.values()
    assert shown["threshold"] == pytest.approx(threshold)
    assert shown["maps"]["anomaly map"][1:] == pytest.approx((0.0, 2 * pixel_threshold, pixel_threshold))


def test_without_validation_nothing_is_labelled_and_maps_have_the_common_range(drawn, predict):
    run = predict(BrightSpots().forget_validation())
    (shown,) = drawn.values()
    assert shown["score"] > 0.1
    assert shown["pred_label"] is shown["threshold"] is None
    assert shown["maps"]["anomaly map"][1:] == (0.0, 0.3, None)
    assert not {"pred_label", "gt_label", "class_name"} & set(pd.read_csv(run / "scores.csv").dropna(axis="columns"))
    # anomalib's image has the map on the same range: red is a value above 0.3, where a range to 1 would give green
    image = np.asarray(Image.open(next((run / "images").rglob("*.png"))).convert("RGB")).astype(int)
    high, low = (image[row * 256 // SIDE, 256 + column * 256 // SIDE] for row, column in (SPOT, (38, 12)))
    assert high[0] > high[1:].max() + 50
    assert low[2] > low[0] + 50


@torch.inference_mode()
def test_component_maps_are_drawn_where_there_are_several_on_the_range_of_normal_images():
    def components(values):
        one, patches = torch.tensor([0.5]).bfloat16(), torch.full((1, 36), values).bfloat16()
        return ScoreComponents(one, patches, one, one, 3 * patches, (6, 6), dasl_map=2 * patches)

    def arguments(**model):
        (shown,) = arguments_of(batch, **model)
        explanation_figure(**shown)
        return shown, {name: heat_map[1:] for name, heat_map in shown["maps"].items()}

    batch = batch_of("a.png")
    batch.components, batch.raw_score, batch.raw_map = components(0.125), torch.tensor([0.5]), torch.rand(1, SIDE, SIDE)
    common = (0.0, 0.3, None)
    shown, ranges = arguments()
    assert ranges == {"residual map": common, "DASL map": (0.0, 1.0, None), "anomaly map": common}
    shown, ranges = arguments(normal_components=components(0.125))
    assert ranges == {"residual map": (0.0, 0.25, None), "DASL map": (0.0, 0.5, None), "anomaly map": common}
    assert shown["normal_scores"] == [0.5]
    shown, ranges = arguments(hparams={"k_shot": 0})
    assert set(ranges) == {"anomaly map"}  # which the DASL map is
    assert set(shown["components"]) == {"text score"}


@pytest.mark.parametrize(
    ("unknown", "tiles"),
    [([], [4, 4]), (["pred_mask"], [3, 3]), (["gt_mask"], [3, 4]), (["pred_mask", "anomaly_map"], [2, 2])],
)
def test_what_is_not_known_is_not_drawn(tmp_path, make_trainer, unknown, tiles):
    paths = [write_image(tmp_path / "data" / name, SPOT) for name in ("0.png", "1.png")]
    mask = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    mask[:, 8:16, 32:40] = True
    fields = {"gt_mask": mask, "pred_mask": mask, "anomaly_map": mask.float()}
    batch = batch_of(*paths, **{name: value for name, value in fields.items() if name not in unknown})
    if "gt_mask" in unknown:  # of the first image, collated beside one that has a mask
        batch.gt_mask, batch.mask_valid = mask, torch.tensor([False, True])
    first, second = arguments_of(batch)
    ExplanationVisualizer(explanations=False).on_test_batch_end(make_trainer(), object(), None, batch, 0)
    assert [Image.open(tmp_path / "run/images/data" / f"{i}.png").width for i in (0, 1)] == [256 * n for n in tiles]
    assert (first["mask"] is None) == ("gt_mask" in unknown)
    assert second["mask"] is not None
    maps = {name: heat_map[1:] for name, heat_map in first["maps"].items()}
    assert maps == ({} if "anomaly_map" in unknown else {"anomaly map": (0.0, 0.3, None)})


def test_prompts_are_read_once_and_missing_ones_are_grey(tmp_path, monkeypatch):
    here, broken = write_image(tmp_path / "p.png"), tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    files = {"gear": [here, str(tmp_path / "gone.png"), str(broken)]}
    reads, read = [], visualizer_module.read_image
    monkeypatch.setattr(visualizer_module, "read_image", lambda path: reads.append(path) or read(path))
    batch = batch_of("a.png", "b.png")
    batch.class_name = ["gear", "unknown"]
    for _ in range(2):
        gear, unknown = arguments_of(batch, prompt_files=files, hparams={"k_shot": 4})
    assert reads == files["gear"]
    shown = [prompt.getextrema() for prompt in gear["prompts"]]
    assert shown[1:] == [((128, 128),) * 3] * 2
    assert shown[0] != shown[1]
    assert (unknown["prompts"], unknown["k_shot"]) == ([], 4)
