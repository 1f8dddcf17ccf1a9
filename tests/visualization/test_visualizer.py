# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Images of real test and predict runs: which files are written, and what the figures are given."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.data import PredictDataset
from anomalib.visualization import ImageVisualizer
from lightning.pytorch import LightningDataModule
from PIL import Image

from anomalib_inctrl.models.components.score_components import ScoreComponents
from anomalib_inctrl.visualization import ExplanationVisualizer, explanation_figure
from anomalib_inctrl.visualization import visualizer as visualizer_module
from tests.visualization.conftest import SIDE, BrightSpots, Files, loader, write_image

SPOT = (12, 36)


class Gears(LightningDataModule):
    """A datamodule by name and category, as anomalib's visualizer reads them."""

    name, category = "MVTecAD", "gear"

    def __init__(self, dataset):
        super().__init__()
        self.dataset = dataset

    def test_dataloader(self):
        return loader(self.dataset)

    predict_dataloader = test_dataloader


@pytest.fixture
def mvtec(tmp_path):
    """Categories with files of equal names, as all datasets in MVTec AD's layout have them."""

    def make(root="data", categories=("gear", "washer")):
        return Files(
            (
                write_image(tmp_path / root / name / "test" / kind / f"{index:03}.png", SPOT if label else None),
                label,
                name,
            )
            for name in categories
            for label, kind in enumerate(("good", "spot"))
            for index in range(2)
        )

    return make


@pytest.fixture
def predict(tmp_path, make_trainer):
    """Run a model over image files that have one bright spot each."""

    def run(*names, model=None):
        files = [write_image(tmp_path / "mine" / name, SPOT) for name in names]
        source = files[0] if len(names) == 1 else tmp_path / "mine"
        make_trainer().predict(model or BrightSpots(), loader(PredictDataset(source)))
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


def arguments_of(batch, model=None):
    return list(ExplanationVisualizer(dpi=20).figure_arguments(object(), model or object(), batch))


@pytest.mark.parametrize("count", [1, 2])  # the error comes with the next batch, or at the end
def test_a_figure_that_cannot_be_written_ends_the_run(predict, tmp_path, count):
    (tmp_path / "run" / "explanations" / "mine" / "0.png").mkdir(parents=True)
    with pytest.raises(OSError, match=r"0\.png"):
        predict(*[f"{number}.png" for number in range(count)])


@pytest.mark.parametrize("stage", ["test", "predict"])
def test_one_category_has_anomalibs_names_and_images(tmp_path, make_trainer, stage, mvtec):
    dataset = mvtec("MVTecAD", ["gear"])
    contents = []
    for name, model in (("own", BrightSpots()), ("stock", BrightSpots(callbacks=[ImageVisualizer()]))):
        getattr(make_trainer(default_root_dir=tmp_path / name), stage)(model, datamodule=Gears(dataset))
        folder = tmp_path / name / "images"
        contents.append({file: (folder / file).read_bytes() for file in files_in(folder)})
    names = [f"test/{kind}/{index:03}.png" for kind in ("good", "spot") for index in range(2)]
    assert list(contents[0]) == files_in(tmp_path / "own" / "explanations") == names
    assert contents[0] == contents[1]


def test_categories_do_not_overwrite_each_other_whatever_the_batches(tmp_path, make_trainer, mvtec):
    dataset = mvtec("data")
    names = sorted(str(Path(path).relative_to(tmp_path / "data")) for path in dataset.samples.image_path)
    contents = []
    for batch_size, order in ((1, 1), (3, -1)):
        root = tmp_path / str(batch_size)
        shuffled = Files(dataset.samples.iloc[::order])
        make_trainer(default_root_dir=root).test(BrightSpots(), loader(shuffled, batch_size), verbose=False)
        assert files_in(root / "images") == files_in(root / "explanations") == names
        contents.append([(root / "explanations" / name).read_bytes() for name in names])
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    "names",
    [["part.png"], ["a/0.png", "b/0.png"], ["x/a/0.png", "y/a/0.png", "a/0.png", "0.png"], ["a/0.png", "a/a/0.png"]],
)
def test_predict_on_a_file_and_on_nested_folders_has_one_name_per_image(predict, names):
    run = predict(*names)
    assert len(files_in(run / "images")) == len(files_in(run / "explanations")) == len(names)


def test_predict_on_a_file_in_the_working_folder(tmp_path, make_trainer, monkeypatch):
    write_image(tmp_path / "part.bmp")
    monkeypatch.chdir(tmp_path)
    make_trainer().predict(BrightSpots(), loader(PredictDataset("part.bmp")))
    assert [Path(name).name for name in files_in(tmp_path / "run")] == ["part.bmp.png", "part.bmp", "scores.csv"]
    assert Image.open(next((tmp_path / "run" / "explanations").rglob("*.png"))).format == "PNG"
    table = pd.read_csv(tmp_path / "run" / "scores.csv")
    assert not {"gt_label", "class_name"} & set(table.dropna(axis="columns"))


def test_figures_can_be_left_out_and_the_image_folder_chosen(tmp_path, predict):
    visualizer = ExplanationVisualizer(explanations=False, output_dir=tmp_path / "elsewhere")
    assert not predict("0.png", model=BrightSpots(callbacks=[visualizer])).exists()
    assert len(files_in(tmp_path / "elsewhere")) == 1


def test_every_figure_is_given_its_own_image_and_numbers(tmp_path, make_trainer, drawn, mvtec):
    dataset = mvtec("data")
    train = {name: tmp_path / "data" / name / "train" / "good" for name in dataset.samples.class_name.unique()}
    prompts = {name: [write_image(folder / f"{i}.png") for i in range(2)] for name, folder in train.items()}
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
        assert (shown["threshold"], shown["normal_scores"]) == (0.25, [])
        assert shown["k_shot"] == len(shown["prompts"]) == 2
        ((name, final),) = shown["maps"].items()  # the residual map is the same
        assert (name, *final[1:]) == ("anomaly map", 0.0, 0.5, 0.25)
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
    predict("0.png", model=model)
    (shown,) = drawn.values()
    assert shown["threshold"] == pytest.approx(threshold)
    assert shown["maps"]["anomaly map"][1:] == pytest.approx((0.0, 2 * pixel_threshold, pixel_threshold))


def test_without_validation_nothing_is_labelled_and_maps_have_the_common_range(drawn, predict):
    run = predict("0.png", model=BrightSpots().forget_validation())
    (shown,) = drawn.values()
    assert shown["score"] > 0.1
    assert shown["pred_label"] is shown["threshold"] is None
    assert shown["maps"]["anomaly map"][1:] == (0.0, 0.3, None)
    assert "pred_label" not in (run / "scores.csv").read_text().splitlines()[0].split(",")
    # anomalib's image has the map on the same range: red is a value above 0.3, where a range to 1 would give green
    image = np.asarray(Image.open(next((run / "images").rglob("*.png"))).convert("RGB")).astype(int)
    high, low = (image[row * 256 // SIDE, 256 + column * 256 // SIDE] for row, column in (SPOT, (38, 12)))
    assert high[0] > high[2] + 50
    assert low[2] > low[0] + 50


def test_component_maps_are_drawn_where_there_are_several_on_the_range_of_normal_images(make_batch):
    def components(values):
        one, patches = torch.tensor([0.5]), torch.full((1, 36), values)
        return ScoreComponents(one, patches, one, one, 3 * patches, (6, 6), dasl_map=2 * patches)

    batch = make_batch(1, image_path=["a.png"])
    batch.components, batch.raw_score, batch.raw_map = components(0.1), torch.tensor([0.5]), torch.rand(1, SIDE, SIDE)
    (shown,) = arguments_of(batch)
    assert {name: heat_map[1:] for name, heat_map in shown["maps"].items()} == {
        "residual map": (0.0, 0.3, None),
        "DASL map": (0.0, 1.0, None),
        "anomaly map": (0.0, 0.3, None),
    }
    (shown,) = arguments_of(batch, SimpleNamespace(normal_components=components(0.2)))
    assert shown["maps"]["residual map"].high == pytest.approx(0.4)
    assert shown["maps"]["DASL map"].high == pytest.approx(0.8)
    assert shown["normal_scores"] == [0.5]
    (shown,) = arguments_of(batch, SimpleNamespace(hparams={"k_shot": 0}))
    assert set(shown["maps"]) == {"anomaly map"}  # which the DASL map is
    assert set(shown["components"]) == {"text score"}


@pytest.mark.parametrize(
    ("unknown", "tiles"), [([], 4), (["pred_mask"], 3), (["gt_mask"], 3), (["gt_mask", "pred_mask", "anomaly_map"], 1)]
)
def test_anomalibs_images_leave_out_what_is_not_known(tmp_path, make_trainer, make_batch, unknown, tiles):
    path = write_image(tmp_path / "data" / "0.png", SPOT)
    mask = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    mask[:, 8:16, 32:40] = True
    fields = {"gt_mask": mask, "pred_mask": mask, "anomaly_map": mask.float()}
    batch = make_batch(1, image_path=[path], **{name: value for name, value in fields.items() if name not in unknown})
    if "gt_mask" in unknown:  # as collated beside images that have one
        batch.gt_mask, batch.mask_valid = torch.zeros_like(mask), torch.tensor([False])
    ExplanationVisualizer(explanations=False).on_test_batch_end(make_trainer(), object(), None, batch, 0)
    assert Image.open(next((tmp_path / "run" / "images").rglob("*.png"))).width == tiles * 256


def test_a_mask_that_is_not_known_is_not_drawn(make_batch):
    batch = make_batch(2, gt_mask=torch.zeros(2, SIDE, SIDE, dtype=torch.bool))
    batch.mask_valid = torch.tensor([True, False])
    assert [shown["mask"] is None for shown in arguments_of(batch)] == [False, True]


def test_half_precision_and_inference_tensors_are_drawn(make_batch):
    with torch.inference_mode():
        batch = make_batch(1, anomaly_map=torch.rand(1, SIDE, SIDE).bfloat16(), pred_score=torch.rand(1))
        one, patches = torch.tensor([0.5]).bfloat16(), torch.rand(1, 36).bfloat16()
        batch.components = ScoreComponents(one, patches, one, one, patches, (6, 6))
        batch.raw_score = one
    (shown,) = arguments_of(batch)
    explanation_figure(**shown)


def test_prompts_are_read_once_and_missing_ones_are_grey(tmp_path, make_batch, monkeypatch):
    here, broken = write_image(tmp_path / "p.png"), tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    files = {"gear": [here, str(tmp_path / "gone.png"), str(broken)]}
    model = SimpleNamespace(prompt_files=files, hparams={"k_shot": 4})
    reads, read = [], visualizer_module.read_image
    monkeypatch.setattr(visualizer_module, "read_image", lambda path: reads.append(path) or read(path))
    batch = make_batch(2)
    batch.class_name = ["gear", "unknown"]
    arguments_of(batch, model)
    gear, unknown = arguments_of(batch, model)
    assert reads == files["gear"]
    shown = [prompt.getextrema() for prompt in gear["prompts"]]
    assert shown[1:] == [((128, 128),) * 3] * 2
    assert shown[0] != shown[1]
    assert (unknown["prompts"], unknown["k_shot"]) == ([], 4)
