# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import yaml
from anomalib.data import AnomalibDataModule, Folder, MVTecAD, get_datamodule
from jsonargparse import ArgumentParser

from anomalib_inctrl import register
from anomalib_inctrl.data import DataSource
from anomalib_inctrl.data.sources import build_datamodules, parse_sources, prepare, read_parts
from anomalib_inctrl.errors import DatasetError
from tests.data.trees import folder_tree, mvtec_category, write_image


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    def refuse(*args, **kwargs):
        pytest.fail("a download was attempted")

    for module in ("mvtecad", "visa", "btech", "kolektor"):
        monkeypatch.setattr(f"anomalib.data.datamodules.image.{module}.download_and_extract", refuse)


def build(*sources):
    datamodules = build_datamodules(parse_sources(sources, "auxiliary"), "auxiliary")
    for datamodule in datamodules.values():
        prepare(datamodule)
    return datamodules


def mvtec(root, *categories, **options):
    return DataSource("MVTecAD", str(root), list(categories) or None, **options)


def test_categories_are_those_in_the_folder_or_those_given(tmp_path):
    for name in ("cable", "bottle", "my_widget", ".unfinished"):
        mvtec_category(tmp_path, name)
    (tmp_path / "notes").mkdir()
    datamodules = build(mvtec(tmp_path))
    assert list(datamodules) == ["bottle", "cable", "my_widget"]
    assert [datamodule.category for datamodule in datamodules.values()] == list(datamodules)
    assert list(build(mvtec(tmp_path, "my_widget", "bottle"))) == ["my_widget", "bottle"]
    assert list(build(mvtec(tmp_path, "bottle", class_name="glass bottle"))) == ["glass bottle"]
    with pytest.raises(DatasetError, match=r"class_name='glass bottle'.*3 categories"):
        build(mvtec(tmp_path, class_name="glass bottle"))


def test_visa_is_split_as_its_table_says(tmp_path):
    rows = ["object,split,label,image,mask"]
    for index in range(3):
        write_image(tmp_path / "candle" / "Data" / f"{index}.png", index)
        rows.append(f"candle,{'train' if index else 'test'},normal,candle/Data/{index}.png,")
    (tmp_path / "split_csv").mkdir()
    (tmp_path / "split_csv" / "1cls.csv").write_text("\n".join(rows))
    (datamodule,) = build(DataSource("Visa", str(tmp_path))).values()
    assert len(read_parts("candle", datamodule, "targets")["train"]) == 2


@pytest.mark.parametrize("name", ["Folder", "anomalib.data.Folder", "anomalib.data.datamodules.image.folder.Folder"])
def test_classes_are_found_by_name_or_path_and_named_without_categories(tmp_path, name):
    ((class_name, datamodule),) = build(
        DataSource(name, options=folder_tree(tmp_path / "plain") | {"root": None})
    ).items()
    assert class_name == "plain"
    assert isinstance(datamodule, Folder)


def test_same_category_of_two_datasets_stays_two_classes(tmp_path):
    for name in ("mvtec", "visa/visa_pytorch"):
        mvtec_category(tmp_path / name, "capsules")
    mvtec_category(tmp_path / "mvtec", "bottle")
    datamodules = build(mvtec(tmp_path / "mvtec"), DataSource("Visa", str(tmp_path / "visa")))
    assert list(datamodules) == ["bottle", "MVTecAD/capsules", "Visa/capsules"]
    with pytest.raises(DatasetError, match=r"'MVTecAD/bottle' is given twice"):
        build(mvtec(tmp_path / "mvtec"), mvtec(tmp_path / "mvtec", "bottle"))


def test_random_splits_are_the_same_in_every_run(tmp_path):
    options = folder_tree(tmp_path, normal=12, abnormal=8)

    def tested(**more):
        (datamodule,) = build(DataSource("Folder", str(tmp_path), options={**options, **more})).values()
        return read_parts("x", datamodule, "targets")["test"].samples.image_path.tolist()

    assert tested() == tested()
    assert any(tested() != tested(seed=seed) for seed in range(1, 4))


class Rendered(MVTecAD):
    default_categories = ("washer", "gear")

    def __init__(self, root, category="washer", seed=7):
        super().__init__(root, category, seed=seed)

    def prepare_data(self):
        mvtec_category(self.root, self.category)


def test_classes_of_other_packages_create_their_data_and_keep_their_seed(tmp_path):
    datamodules = build(DataSource("Rendered", str(tmp_path / "new")))
    assert list(datamodules) == ["gear", "washer"]
    assert datamodules["gear"].seed == 7
    assert len(read_parts("gear", datamodules["gear"], "auxiliary")["train"]) == 5


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"datamodule": "MVTecAd"}, r"auxiliary\[0\]\.datamodule='MVTecAd'.*Available: .*MVTecAD, "),
        ({"datamodule": "no_such_package.Data"}, r"auxiliary\[0\]\.datamodule=.*No module named 'no_such_package'"),
        ({"datamodule": "AnomalibDataModule"}, "no such datamodule of images"),
        ({"datamodule": "ShanghaiTech"}, "no such datamodule of images"),
        ({"root": "nowhere"}, r"auxiliary\[0\]\.root: there is no folder .*nowhere.*prepare_data"),
        ({"root": "empty"}, r"none found in .*empty, which holds no folders"),
        ({"categories": ["botle"]}, r"categories: botle not found.*Available: bottle\."),
        ({"categories": "bottle"}, r"auxiliary\[0\].categories='bottle': Input should be a valid list"),
        ({"options": {"category": "bottle"}}, "Give it as categories"),
        ({"options": {"image_size": 3}}, r"image_size.*MVTecAD takes root, category"),
        ({"datamodule": "Folder", "categories": ["a"]}, "Folder has no categories"),
        ({"datamodule": "Folder"}, r"missing 2 required.*Folder takes name, normal_dir"),
        ({"folder": "MVTecAD"}, r"auxiliary\[0\].folder='MVTecAD': Unexpected.*a source takes datamodule, root"),
        ({"datamodule": None}, r"auxiliary\[0\].datamodule=None: Input should be a valid string"),
    ],
)
def test_wrong_sources_are_named(tmp_path, source, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mvtec_category(tmp_path, "bottle")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=message):
        build({"datamodule": "MVTecAD", "root": ".", **source})


def test_unreadable_category_names_class_and_folder(tmp_path):
    (tmp_path / "bottle" / "train").mkdir(parents=True)
    (datamodule,) = build(mvtec(tmp_path)).values()
    with pytest.raises(DatasetError, match=rf"targets: MVTecAD cannot read class 'bottle' in {tmp_path}.*0 images"):
        read_parts("bottle", datamodule, "targets")


def test_sources_are_read_from_yaml(tmp_path):
    register()
    mvtec_category(tmp_path, "bottle")
    config = f"""
class_path: GeneralistDataModule
init_args:
  auxiliary:
    - {{datamodule: MVTecAD, root: {tmp_path}, categories: [bottle]}}
    - {{datamodule: Folder, root: {tmp_path}/plain, options: {folder_tree(tmp_path / "plain")}}}
  targets:
    - {{datamodule: MVTecAD, root: {tmp_path}, options: {{val_split_mode: none}}}}
  k_shot: 1
"""
    parser = ArgumentParser()
    parser.add_subclass_arguments(AnomalibDataModule, "data", fail_untyped=False)
    (tmp_path / "data.yaml").write_text(config)
    parsed = parser.parse_args(["--data", str(tmp_path / "data.yaml"), "--data.num_workers", "0"])
    parser.parse_string(parser.dump(parsed))  # what is saved beside results can be read again
    for datamodule in (parser.instantiate_classes(parsed).data, get_datamodule(yaml.safe_load(config))):
        datamodule.prepare_data()
        datamodule.setup()
        assert datamodule.k_shot == 1
        assert sorted(set(datamodule.train_data.samples.class_name)) == ["bottle", "plain"]
        assert datamodule.val_dataloader() == []
        assert list(datamodule.prompt_candidates()) == ["bottle"]
