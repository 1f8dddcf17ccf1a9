# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Reading, errors and identity of configs."""

from pathlib import Path

import pytest
import yaml
from anomalib.cli.cli import AnomalibCLI

from anomalib_inctrl.benchmark.config import changes, read_config
from anomalib_inctrl.errors import BenchmarkError, PretrainedWeightsError
from tests.shared import DEMO

CONFIGS = Path(__file__).parents[2] / "configs"
BENCHMARKS = [path for path in sorted((CONFIGS / "benchmarks").glob("*.yaml")) if not path.name.startswith("demo_")]


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_configs_name_existing_configs(path):
    assert isinstance(yaml.safe_load(path.read_text()), dict)
    named = [word for word in path.read_text().split() if word.startswith("configs/") and word.endswith(".yaml")]
    for name in named:
        assert (CONFIGS.parent / name).is_file(), f"{path} names {name}"


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_benchmark_configs_are_read(path):
    assert read_config(path, ["workers=3", "output=elsewhere"]).workers == 3


@pytest.mark.parametrize("path", sorted((CONFIGS / "train").glob("*.yaml")), ids=lambda path: path.stem)
def test_training_configs_are_read_by_the_command_line(path, capsys):
    with pytest.raises(SystemExit) as end:
        AnomalibCLI(args=["fit", "--config", str(path), "--print_config"])
    assert end.value.code == 0


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("models.InCTRL.init_args.shots=4", "takes no shots"),
        ("models.InCTRL.init_args.k_shot=4", "the benchmark sets them"),
        ("models.InCTRL.class_path=InCTRLv9", "no such model"),
        ("models.InCTRL.train_on=all", "other models"),
        ("models.InCTRL.weights={Elsewhere: x.ckpt}", "none for the targets Demo"),
        ("models.InCTRL.wieghts=x.ckpt", "models.InCTRL.wieghts"),
        ("targets.Demo.folder=x", "targets.Demo.folder"),
        ("models.Padim={class_path: Padim, weights: x.ckpt}", "trained on each target"),
        ("k_shots=[1, 1]", "twice"),
        ("k_shots=[-1]", "k_shots.0"),
        ("seeds=[]", "seeds"),
        ("prompt_selection=best", "choose one of"),
        ("workres=2", "workres"),
    ],
)
def test_config_errors_name_the_key(make_config, override, word):
    with pytest.raises(BenchmarkError, match=word):
        read_config(make_config(), [override])


def test_missing_files_are_named(make_config, tmp_path):
    with pytest.raises(BenchmarkError, match="No such file"):
        read_config(tmp_path / "x.yaml")
    (tmp_path / "broken.yaml").write_text("models: [")
    with pytest.raises(BenchmarkError, match=r"broken\.yaml"):
        read_config(tmp_path / "broken.yaml")
    with pytest.raises(PretrainedWeightsError, match=r"nothing\.ckpt"):
        read_config(make_config(), [f"models.InCTRL.weights={tmp_path / 'nothing.ckpt'}"]).identity()


def test_paths_are_interpolated(make_config):
    config = make_config(paths={"results": "here"}, output="${paths.results}/x")
    assert read_config(config).output == Path("here/x")
    assert read_config(config, ["paths.results=there"]).output == Path("there/x")


def test_identity_changes_only_with_what_decides_results(make_config, tmp_path):
    contents = {"heads.ckpt": "heads", "copy.ckpt": "heads", "other.ckpt": "other", "train.yaml": "trainer: {}"}
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    weights = f"models.InCTRL.weights={tmp_path}"
    config = make_config()

    def identity(*overrides, **more):
        return read_config(config | more, [f"{weights}/heads.ckpt", *overrides]).identity()

    free = "workers=4 batch_size=1 seeds=[0,7] k_shots=[8] device=auto output=elsewhere targets.Demo.categories=[brick]"
    more = {"targets": config["targets"] | {"Other": config["targets"]["Demo"]}}  # with its weights
    more["models"] = {"another": config["models"]["InCTRL"], **config["models"]}
    before, after = identity(), identity(*free.split(), f"{weights}/copy.ckpt", **more)
    assert changes(before, after) == changes(after, before) == []
    for override, word in [
        ("models.InCTRL.init_args.residual_scale=full", "models.InCTRL.init_args.residual_scale"),
        ("models.InCTRL.class_path=InCTRLv2", "was 'InCTRL', is 'InCTRLv2'"),
        ("models.InCTRL.weights=null", "models.InCTRL.weights.Demo"),
        (f"{weights}/other.ckpt", "models.InCTRL.weights.Demo"),
        (f"{weights}/train.yaml", "models.InCTRL.weights.Demo"),
        ("targets.Demo.options.seed=5", "options.seed"),
        ("targets.Demo.root=elsewhere", "targets.Demo.root"),
        ("prompt_selection=first", "rules.prompt_selection: was 'random', is 'first'"),
    ]:
        (line,) = changes(before, identity(override))
        assert word in line


def test_packaged_weights_are_identified_by_content(make_config, monkeypatch, tmp_path):
    packaged = {"class_path": "InCTRLv2", "init_args": DEMO}
    config = read_config(make_config(models={"baseline": packaged}))
    before = config.identity()
    retrained = tmp_path / "retrained.safetensors"
    retrained.write_bytes(b"others")
    monkeypatch.setattr("anomalib_inctrl.benchmark.config.weights_file", lambda name, tag: retrained)
    (line,) = changes(before, config.identity())
    assert line.startswith("models.baseline.init_args.pretrained: was 'sha256:")
