# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest
import yaml
from anomalib.data import AnomalibDataModule, Folder, MVTecAD, get_datamodule
from jsonargparse import ArgumentParser

import anomalib_inctrl.data.sources as source_module
from anomalib_inctrl.data import DataSource, GeneralistDataModule
from anomalib_inctrl.data.sources import build_datamodules, parse_sources, prepare, read_parts
from anomalib_inctrl.errors import DatasetError
from tests.data.trees import folder_tree, mvtec_category, write_image


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    def refuse(*args, **kwargs):
        pytest.fail("a download was attempted")

    for module in ("mvtecad", "visa", "btech", "kolektor"):
        monkeypatch.setattr(f"anomalib.data.datamodules.image.{module}.download_and_extract", refuse)


def build(*sources, argument="auxiliary"):
    datamodules = build_datamodules(parse_sources(sources, argument), argument)
    for datamodule in datamodules.values():
        prepare(datamodule)
    return datamodules


def test_all_categories_on_disk_are_found_known_or_not(tmp_path):
    for name in ("cable", "bottle", "my_widget"):
        mvtec_category(tmp_path, name)
    (tmp_path / "notes").mkdir()
    mvtec_category(tmp_path, ".grid.unfinished")  # of a conversion that was killed
    datamodules = build(DataSource("MVTecAD", str(tmp_path)))
    assert list(datamodules) == ["bottle", "cable", "my_widget"]
    assert [datamodule.category for datamodule in datamodules.values()] == list(datamodules)


def test_chosen_categories_only(tmp_path):
    for name in ("cable", "bottle", "grid"):
        mvtec_category(tmp_path, name)
    assert list(build(DataSource("MVTecAD", str(tmp_path), ["grid", "bottle"]))) == ["grid", "bottle"]


def test_raw_visa_is_split(tmp_path):
    rows = ["object,split,label,image,mask"]
    for index in range(3):
        write_image(tmp_path / "candle" / "Data" / f"{index}.png", index)
        rows.append(f"candle,{'train' if index else 'test'},normal,candle/Data/{index}.png,")
    (tmp_path / "split_csv").mkdir()
    (tmp_path / "split_csv" / "1cls.csv").write_text("\n".join(rows))
    (datamodule,) = build(DataSource("Visa", str(tmp_path))).values()
    assert len(read_parts("candle", datamodule, "targets")["train"]) == 2


@pytest.mark.parametrize("name", ["Folder", "anomalib.data.Folder", "anomalib.data.datamodules.image.folder.Folder"])
def test_class_without_categories_is_called_by_its_name(tmp_path, name):
    datamodules = build(DataSource(name, str(tmp_path), options=folder_tree(tmp_path / "plain") | {"root": None}))
    assert list(datamodules) == ["plain"]
    assert isinstance(datamodules["plain"], Folder)


def test_class_name_renames_the_one_class(tmp_path):
    mvtec_category(tmp_path, "bottle")
    assert list(build(DataSource("MVTecAD", str(tmp_path), class_name="glass bottle"))) == ["glass bottle"]
    mvtec_category(tmp_path, "cable")
    with pytest.raises(DatasetError, match=r"class_name='glass bottle'.*2 categories"):
        build(DataSource("MVTecAD", str(tmp_path), class_name="glass bottle"))


def test_same_category_of_two_datasets_stays_two_classes(tmp_path):
    mvtec_category(tmp_path / "mvtec", "capsules")
    mvtec_category(tmp_path / "mvtec", "bottle")
    mvtec_category(tmp_path / "visa" / "visa_pytorch", "capsules")
    datamodules = build(DataSource("MVTecAD", str(tmp_path / "mvtec")), DataSource("Visa", str(tmp_path / "visa")))
    assert list(datamodules) == ["bottle", "MVTecAD/capsules", "Visa/capsules"]
    with pytest.raises(DatasetError, match=r"'MVTecAD/bottle' is given twice"):
        build(
            DataSource("MVTecAD", str(tmp_path / "mvtec")), DataSource("MVTecAD", str(tmp_path / "mvtec"), ["bottle"])
        )


def test_random_splits_are_the_same_in_every_run(tmp_path):
    options = folder_tree(tmp_path, normal=12, abnormal=8)

    def tested(**more):
        (datamodule,) = build(DataSource("Folder", str(tmp_path), options={**options, **more})).values()
        return read_parts("x", datamodule, "targets")["test"].samples.image_path.tolist()

    assert tested() == tested()
    assert any(tested() != tested(seed=seed) for seed in range(1, 4))


def test_seed_that_makes_the_data_is_left_alone(tmp_path):
    class Seeded(MVTecAD):
        def __init__(self, root, category="bottle", seed=7):
            super().__init__(root, category, seed=seed)

    (datamodule,) = build_datamodules(
        [DataSource("Seeded", str(mvtec_category(tmp_path, "bottle")))], "targets"
    ).values()
    assert datamodule.seed == 7


def test_class_of_another_package_may_create_its_data(tmp_path):
    class Rendered(MVTecAD):
        def prepare_data(self):
            mvtec_category(self.root, self.category)

    Rendered.__module__ = __name__
    (datamodule,) = build(DataSource("Rendered", str(tmp_path / "new"), ["bottle"])).values()
    assert len(read_parts("bottle", datamodule, "auxiliary")["train"]) == 5


def test_category_constants_of_a_package_need_nothing_on_disk(tmp_path, monkeypatch):
    class Listed(MVTecAD):
        pass

    monkeypatch.setattr(source_module, "_known_categories", lambda cls: ["gear", "washer"])
    assert list(build_datamodules([DataSource("Listed", str(tmp_path / "new"))], "auxiliary")) == [
        "gear",
        "washer",
    ]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"datamodule": "MVTecAd"}, r"auxiliary\[0\]\.datamodule='MVTecAd'.*Available: .*MVTecAD, "),
        ({"datamodule": "no_such_package.Data"}, r"auxiliary\[0\]\.datamodule=.*No module named 'no_such_package'"),
        ({"datamodule": "anomalib.data.VisaDataset"}, "no such datamodule"),
        ({"datamodule": "AnomalibDataModule"}, "no such datamodule"),
        ({"datamodule": "ShanghaiTech"}, "holds videos"),
        (
            {"datamodule": "MVTecAD", "root": "{tmp}/nowhere"},
            r"auxiliary\[0\]\.root: there is no folder .*nowhere.*prepare_data",
        ),
        ({"datamodule": "Kolektor", "root": "{tmp}/nowhere"}, r"auxiliary\[0\]\.root: there is no folder .*nowhere"),
        ({"datamodule": "MVTecAD", "root": "{tmp}/empty"}, r"none found in .*empty, which holds no folders"),
        (
            {"datamodule": "MVTecAD", "root": "{tmp}", "categories": ["botle"]},
            r"categories: botle not found.*Available: bottle\.",
        ),
        ({"datamodule": "MVTecAD", "root": "{tmp}", "categories": ["cable"]}, r"cable not found.*Available: bottle\."),
        ({"datamodule": "MVTecAD", "root": "{tmp}", "categories": []}, "none given"),
        ({"datamodule": "MVTecAD", "root": "{tmp}", "categories": "bottle"}, "give a list of names"),
        ({"datamodule": "MVTecAD", "root": "{tmp}", "options": {"category": "bottle"}}, "Give it as categories"),
        (
            {"datamodule": "MVTecAD", "root": "{tmp}", "options": {"image_size": 3}},
            r"image_size.*MVTecAD takes root, category",
        ),
        ({"datamodule": "MVTecAD", "root": "{tmp}", "options": {"val_split_mode": "half"}}, "'half' is not a valid"),
        ({"datamodule": "Folder", "root": "{tmp}", "categories": ["a"]}, "Folder has no categories"),
        ({"datamodule": "Folder", "root": "{tmp}"}, r"missing 2 required.*Folder takes name, normal_dir"),
        ({"folder": "MVTecAD"}, r"auxiliary\[0\]: .*'folder'.*A source takes datamodule, root"),
        ({"root": "{tmp}"}, r"'datamodule'.*datamodule is needed"),
        ({"datamodule": "BTech", "categories": [1, 2]}, r"categories=\[1, 2\]: give a list of names, in quotes"),
        ({"datamodule": "MVTecAD", "options": "seed=1"}, "options='seed=1': give a mapping"),
        ("MVTecAD", r"auxiliary\[0\]='MVTecAD': give a DataSource, or a mapping"),
    ],
)
def test_wrong_source_says_what_is_wrong(tmp_path, source, message):
    mvtec_category(tmp_path, "bottle")
    (tmp_path / "empty").mkdir()
    source = json.loads(json.dumps(source).replace("{tmp}", str(tmp_path)))
    with pytest.raises(DatasetError, match=message):
        build(source)


@pytest.mark.parametrize("sources", ["MVTecAD", {"datamodule": "MVTecAD"}, DataSource("MVTecAD")])
def test_one_source_without_a_list_is_refused(sources):
    with pytest.raises(DatasetError, match=r"auxiliary=.*MVTecAD.*: give a list of sources"):
        GeneralistDataModule(auxiliary=sources)


def test_unreadable_category_names_class_and_folder(tmp_path):
    (tmp_path / "bottle" / "train").mkdir(parents=True)
    (datamodule,) = build(DataSource("MVTecAD", str(tmp_path))).values()
    with pytest.raises(DatasetError, match=rf"targets: MVTecAD cannot read class 'bottle' in {tmp_path}.*0 images"):
        read_parts("bottle", datamodule, "targets")


CONFIG = """
class_path: {name}
init_args:
  auxiliary:
    - datamodule: MVTecAD
      root: {root}
      categories: [bottle]
    - datamodule: Folder
      root: {root}/plain
      options: {{name: plain, normal_dir: [good], abnormal_dir: bad}}
  targets:
    - {{datamodule: MVTecAD, root: {root}, options: {{val_split_mode: none}}}}
  k_shot: 1
  num_workers: 0
"""


def _from_cli(config, tmp_path):
    parser = ArgumentParser()
    parser.add_subclass_arguments(AnomalibDataModule, "data", required=False, fail_untyped=False)
    file = tmp_path / "data.yaml"
    file.write_text(config)
    parsed = parser.parse_args(["--data", str(file), "--data.eval_batch_size", "4"])
    parser.parse_string(parser.dump(parsed))  # what is saved beside results can be read again
    return parser.instantiate_classes(parsed).data


def _from_get_datamodule(config, tmp_path, monkeypatch):
    import anomalib.data

    monkeypatch.setattr(anomalib.data, "GeneralistDataModule", GeneralistDataModule, raising=False)
    return get_datamodule(yaml.safe_load(config))


@pytest.mark.parametrize("way", ["cli_short", "cli_dotted", "get_datamodule"])
def test_sources_from_yaml(tmp_path, way, monkeypatch):
    mvtec_category(tmp_path, "bottle")
    folder_tree(tmp_path / "plain")
    name = "GeneralistDataModule" if way == "cli_short" else "anomalib_inctrl.data.GeneralistDataModule"
    config = CONFIG.format(name=name, root=tmp_path)
    datamodule = (
        _from_get_datamodule(config, tmp_path, monkeypatch) if way == "get_datamodule" else _from_cli(config, tmp_path)
    )
    assert isinstance(datamodule, GeneralistDataModule)
    datamodule.prepare_data()
    datamodule.setup()
    assert datamodule.k_shot == 1
    assert sorted(set(datamodule.train_data.samples.class_name)) == ["bottle", "plain"]
    assert datamodule.val_dataloader() == []
    assert {Path(path).parent.name for path in datamodule.prompt_candidates()["bottle"]} == {"good"}
