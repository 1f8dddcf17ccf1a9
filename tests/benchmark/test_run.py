# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Runs: repeated, killed, resumed, changed, in several processes, and refused."""

import re
import signal
import time
from pathlib import Path

import open_clip
import pandas as pd
import pytest
import yaml
from PIL import Image

from anomalib_inctrl import InCTRLDemo
from anomalib_inctrl.benchmark import run_benchmark
from anomalib_inctrl.benchmark.config import read_config
from anomalib_inctrl.benchmark.pipeline import main
from anomalib_inctrl.benchmark.results_folder import KEY, TIMING, ResultsFolder, read_table
from anomalib_inctrl.errors import BenchmarkError, PretrainedWeightsError
from tests.benchmark.conftest import BACKBONE, COUNTS
from tests.processes import needs_fork, start_process


def table_of(config):
    return pd.read_csv(Path(config["output"]) / "results.csv").drop(
        columns=[*TIMING, "commit"]
    )  # it may change while tests run


def small(make_config, **changes):
    return make_config(**{"k_shots": [1, 2], "seeds": [0]} | changes)


def test_runs_are_reproducible_and_finished_rows_are_not_measured_again(make_config, tmp_path):
    one, other = (small(make_config, output=str(tmp_path / name)) for name in ("one", "other"))
    run_benchmark(one)
    run_benchmark(other)
    pd.testing.assert_frame_equal(table_of(one), table_of(other), check_exact=True)
    seconds = pd.read_csv(tmp_path / "one" / "results.csv")[list(TIMING)]
    run_benchmark(one)
    pd.testing.assert_frame_equal(seconds, pd.read_csv(tmp_path / "one" / "results.csv")[list(TIMING)])


def test_added_settings_are_measured_and_finished_rows_kept(make_config, monkeypatch):
    commit = "81647e4"  # reads as a number
    monkeypatch.setattr("anomalib_inctrl.benchmark.jobs._commit", lambda: commit)
    config = small(make_config)
    first = {**config, "models": {"InCTRLv2": config["models"]["InCTRLv2"]}, "k_shots": [1]}
    first["targets"] = {"Demo": config["targets"]["Demo"] | {"categories": ["washer"]}}
    run_benchmark(first)
    kept = read_table(Path(config["output"]) / "results.csv")
    run_benchmark(config)
    everything = read_table(Path(config["output"]) / "results.csv")
    assert len(everything) == 2 * 2 * 2
    assert set(everything["commit"]) == {commit}
    key = list(KEY)
    again = everything.merge(kept[key], on=key)
    pd.testing.assert_frame_equal(again, kept)  # its times as well: not measured again
    fresh = table_of(config)
    run_benchmark(other := {**config, "output": config["output"] + "_at_once"})
    pd.testing.assert_frame_equal(fresh, table_of(other))
    # What is taken out leaves the table, and comes back without being measured.
    assert len(run_benchmark(first)) == 1
    pd.testing.assert_frame_equal(everything, run_benchmark(config)[everything.columns], check_dtype=False)


def test_changed_config_is_refused_and_names_the_change(make_config):
    config = small(make_config, k_shots=[1], pixel_metrics=False)
    run_benchmark(config)
    report = Path(config["output"]) / "report.md"
    before = report.read_text()
    config["models"]["InCTRL"]["init_args"]["residual_scale"] = "full"
    for report_only in (False, True):
        with pytest.raises(BenchmarkError, match=r"InCTRL\.init_args\.residual_scale: was not given, is 'full'"):
            run_benchmark(config, report_only=report_only)
    assert report.read_text() == before


def test_failed_start_unlocks_the_folder(make_config, tmp_path):
    config = small(make_config, k_shots=[1], pixel_metrics=False)
    config["models"]["InCTRL"]["weights"] = str(tmp_path / "nothing.ckpt")
    with pytest.raises(PretrainedWeightsError, match=r"nothing\.ckpt") as kept:  # as a notebook keeps it
        run_benchmark(config)
    del config["models"]["InCTRL"]["weights"]
    assert len(run_benchmark(config)) == 4
    del kept
    (Path(config["output"]) / "identity.json").write_text("{")
    with pytest.raises(BenchmarkError, match=r"identity\.json: damaged"):
        run_benchmark(config)


def _run(config, backbone_file):
    open_clip.add_model_config(backbone_file)
    run_benchmark(config)


def _kill_after(seconds, config, backbone_file):
    process = start_process(_run, config, backbone_file)
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode


@pytest.mark.slow
@needs_fork
def test_killed_and_resumed_run_gives_the_same_table(make_config, backbone_file, tmp_path):
    undisturbed = small(make_config, output=str(tmp_path / "complete"), k_shots=[1], pixel_metrics=False)
    begin = time.perf_counter()
    run_benchmark(undisturbed)
    duration = time.perf_counter() - begin
    killed = undisturbed | {"output": str(tmp_path / "killed")}
    _kill_after(0.01, killed, backbone_file)  # starts the server
    for part in (0.1, 0.3, 0.5, 0.7, 0.9):
        assert _kill_after(part * duration, killed, backbone_file) in {0, -signal.SIGKILL}
        rows = Path(killed["output"]) / "results.csv"
        if rows.is_file():  # written atomically, so never partly
            pd.read_csv(rows)
    run_benchmark(killed)
    pd.testing.assert_frame_equal(table_of(undisturbed), table_of(killed), check_exact=True)


@pytest.mark.slow
def test_worker_count_does_not_change_results(make_config, tmp_path):
    # Workers are processes of their own, which do not know the tests' small backbone.
    given = {"backbone": "mini-clip-16-240", "pretrained": "demo", "blocks": [1]}
    models = {name: {"class_path": name, "init_args": given} for name in ("InCTRL", "InCTRLv2")}
    one, two = (
        small(make_config, output=str(tmp_path / str(count)), workers=count, models=models, k_shots=[1])
        for count in (1, 2)
    )
    for config in (one, two):
        run_benchmark(config)
    pd.testing.assert_frame_equal(table_of(one), table_of(two), check_exact=True)
    assert len(table_of(two)) == 4


def test_second_run_in_one_folder_is_refused(make_config):
    config = small(make_config)
    folder = ResultsFolder(read_config(config))
    with folder.locked(), pytest.raises(BenchmarkError, match="another run is writing here"):
        run_benchmark(config)


def test_category_with_one_label_is_reported_and_others_are_measured(make_config, data, tmp_path):
    config = small(make_config)
    folder = tmp_path / "parts"
    for name, kinds in {"complete": ("good", "bent"), "flawless": ("good",)}.items():
        for kind in ("train", *kinds):
            (folder / name / kind).mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (64, 64), (40 * number, 90, len(kind) * 20)).save(
                    folder / name / kind / f"{number}.png"
                )
        options = {"name": name, "normal_dir": "train", "normal_test_dir": "good", "val_split_mode": "same_as_test"}
        options |= {"abnormal_dir": "bent"} if "bent" in kinds else {}
        source = {"datamodule": "Folder", "root": str(folder / name), "options": options}
        config["targets"][name] = source
    with pytest.raises(BenchmarkError, match=r"flawless/flawless: the test images all have one label \(3 normal"):
        run_benchmark(config)
    table = pd.read_csv(Path(config["output"]) / "results.csv")
    assert set(table.target) == {"Demo", "complete"}
    # No masks, no pixel columns.
    assert table[table.target == "complete"].filter(like="pixel_").isna().all(axis=None)
    assert table[table.target == "complete"].masks.eq(0).all()
    assert table[table.target == "Demo"].filter(like="pixel_").notna().all(axis=None)
    report = (Path(config["output"]) / "report.md").read_text()
    assert "no masks" in report
    assert "not run" in report


def test_settings_that_are_possible_are_kept(make_config, tmp_path, capsys):
    root = tmp_path / "data"
    counts = {"train_count": 3, "test_normal_count": 2, "test_anomalous_count": 3}
    for category in ("gear", "washer"):
        InCTRLDemo(root, category, **counts).prepare_data()
    broken = sorted((root / "gear/train/good").glob("*.png"))[0]
    broken.write_bytes(broken.read_bytes()[:3000])
    config = small(make_config, k_shots=[0, 1, 5], seeds=[0, 1, 2])
    config["targets"] = {
        "Demo": {"datamodule": "InCTRLDemo", "root": str(root), "categories": ["gear", "washer"], "options": counts}
    }
    (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit, match="could not be measured, all else is in ") as end:
        main(["--config", str(tmp_path / "benchmark.yaml")])
    table = pd.read_csv(Path(config["output"]) / "results.csv")
    washer, gear = (table[(table.category == name) & (table.model == table.model[0])] for name in ("washer", "gear"))
    assert sorted(washer.k_shot) == [0, 0, 0, 1, 1, 1]
    assert 0 in gear.k_shot.to_list()
    assert 0 < sum(gear.k_shot == 1) < 3  # those with other prompts than the broken file
    message = str(end.value)
    (failed, *_) = {0, 1, 2} - set(gear[gear.k_shot == 1].seed)
    assert f"Demo/gear: k_shot=1, seed={failed}: ImageFileError: {broken}: 3000 bytes" in message
    assert "Demo/washer: k_shot=5, seed=0: PromptError: k_shot=5: only 3 normal images" in message


def test_prompt_lists_of_an_earlier_run_are_reused(make_config, tmp_path):
    first = small(make_config, output=str(tmp_path / "first"), seeds=[1])
    run_benchmark(first)
    again = small(make_config, output=str(tmp_path / "again"), prompts=str(tmp_path / "first" / "prompts"), seeds=[1])
    run_benchmark(again | {"prompt_selection": "first"})
    pd.testing.assert_frame_equal(table_of(first), table_of(again))
    missing = small(make_config, output=str(tmp_path / "missing"), prompts=again["prompts"], seeds=[5])
    with pytest.raises(BenchmarkError, match=r"k1_seed5\.txt: no such list"):
        run_benchmark(missing)
    shortened = tmp_path / "first" / "prompts" / "Demo" / "washer" / "k2_seed1.txt"
    shortened.write_text(shortened.read_text().splitlines()[0] + "\n")
    with pytest.raises(BenchmarkError, match=r"k2_seed1\.txt: names 1 prompts, K is 2"):
        run_benchmark(again | {"output": str(tmp_path / "short")})


def test_representative_prompts_are_chosen_in_one_pass(make_config, tmp_path):
    table = run_benchmark(small(make_config, prompt_selection="representative"))
    assert len(table) == 8
    lists = tmp_path / "results" / "prompts" / "Demo" / "washer"
    one, two = ((lists / f"k{k}_seed0.txt").read_text().split() for k in (1, 2))
    assert two[:1] == one


def test_comparison_models_train_on_the_same_prompts(make_config, monkeypatch, tmp_path):
    config = small(make_config, k_shots=[0, 3])
    config["targets"]["Demo"]["categories"] = ["washer"]
    padim = {"class_path": "Padim", "init_args": {"backbone": "resnet18", "pre_trained": False, "layers": ["layer1"]}}
    config["models"] = {"Padim": padim | {"init_args": padim["init_args"] | {"n_features": 5}}}
    config["models"]["all"] = config["models"]["Padim"] | {"train_on": "all"}
    seen = []
    from anomalib.models import Padim

    plain = Padim.training_step
    monkeypatch.setattr(
        Padim, "training_step", lambda self, batch, *rest: seen.append(batch.image_path) or plain(self, batch, *rest)
    )
    table = run_benchmark(config).set_index("model")
    assert table.loc["Padim", "k_shot"] == 3  # K = 0 means nothing to it
    assert table.k_shot.isna()["all"]
    assert table.filter(regex="image_|pixel_").notna().all(axis=None)
    listed = (Path(config["output"]) / "prompts/Demo/washer/k3_seed0.txt").read_text().split()
    assert sorted(seen[0]) == sorted(listed)
    assert len(seen[1]) == COUNTS["train_count"]
    scores = pd.read_csv(Path(config["output"]) / "scores/Padim/Demo/washer.csv")
    assert scores.score.max() > 1  # raw, not normalised
    # Given images that the model cannot be trained on, since they are none of the train split.
    lists = tmp_path / "lists" / "Demo" / "washer"
    lists.mkdir(parents=True)
    abnormal = scores.image_path[scores.abnormal == 1].tolist()
    (lists / "k3_seed0.txt").write_text("\n".join([*listed[:2], abnormal[0]]))
    del config["models"]["all"]
    config |= {"output": str(tmp_path / "other"), "prompts": str(tmp_path / "lists"), "k_shots": [3]}
    with pytest.raises(BenchmarkError, match=f"{abnormal[0]}: this prompt is not in the train split"):
        run_benchmark(config)


@pytest.mark.slow
def test_training_config_is_run_once(make_config, data, tmp_path):
    source = {"datamodule": "InCTRLDemo", "root": str(data), "categories": ["gear"], "options": COUNTS}
    options = {"auxiliary": [source], "k_shot": 1, "train_batch_size": 4, "steps_per_epoch": 2, "num_workers": 0}
    training = {
        "model": {"class_path": "InCTRL", "init_args": {"backbone": BACKBONE, "pretrained": None}},
        "data": {"class_path": "GeneralistDataModule", "init_args": options},
        "trainer": {"max_epochs": 1, "accelerator": "cpu"},
    }
    file = tmp_path / "training.yaml"
    file.write_text(yaml.safe_dump(training))
    config = small(make_config, models={"here": {"class_path": "InCTRL", "weights": str(file)}}, k_shots=[2])
    run_benchmark(config)
    (checkpoint,) = Path(config["output"]).glob("weights/here/*")
    assert re.fullmatch(r"training-[0-9a-f]{8}\.ckpt", checkpoint.name)
    made = checkpoint.stat().st_mtime_ns
    assert len(run_benchmark(config)) == 2
    assert checkpoint.stat().st_mtime_ns == made
    assert list(checkpoint.parent.iterdir()) == [checkpoint]
    # Another config of the same file name, for another target, is another training.
    training["seed_everything"] = 5
    (tmp_path / "elsewhere").mkdir()
    other = tmp_path / "elsewhere" / "training.yaml"
    other.write_text(yaml.safe_dump(training))
    config["targets"]["Other"] = config["targets"]["Demo"] | {"categories": ["brick"]}
    config["models"]["here"]["weights"] = {"Demo": str(file), "Other": str(other)}
    assert len(run_benchmark(config)) == 3
    assert len(list(checkpoint.parent.iterdir())) == 2
    assert checkpoint.stat().st_mtime_ns == made
    del training["seed_everything"]
    training["trainer"]["max_epochs"] = 2
    file.write_text(yaml.safe_dump(training))
    with pytest.raises(BenchmarkError, match=r"weights\.Demo\.trainer\.max_epochs: was 1, is 2"):
        run_benchmark(config)


def test_command_reports_errors_without_traceback(make_config, tmp_path, capsys):
    file = tmp_path / "benchmark.yaml"
    file.write_text(yaml.safe_dump(small(make_config) | {"seeds": []}))
    with pytest.raises(SystemExit, match=r"error: .*benchmark\.yaml does not fit:\n  seeds: ") as end:
        main(["--config", str(file)])
    assert "Traceback" not in str(end.value)
    file.write_text(yaml.safe_dump(small(make_config)))
    assert main(["--config", str(file), "--set", "k_shots=[1]", "title=Mine"]) == 0
    folder = Path(small(make_config)["output"])
    assert len(pd.read_csv(folder / "results.csv")) == 4
    (folder / "report.md").unlink()
    assert main(["--config", str(file), "--set", "title=Other", "--report_only", "true"]) == 0
    assert (folder / "report.md").read_text().startswith("# Other\n")
    assert yaml.safe_load((folder / "config.yaml").read_text())["title"] == "Other"
