# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Runs: repeated, killed, resumed, changed, in several processes, and refused."""

import re
import shutil
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from anomalib.models import Padim

from anomalib_inctrl.benchmark import run_benchmark
from anomalib_inctrl.benchmark.config import read_config
from anomalib_inctrl.benchmark.pipeline import main
from anomalib_inctrl.benchmark.results_folder import KEY, TIMING, ResultsFolder, read_table
from anomalib_inctrl.errors import BenchmarkError, PretrainedWeightsError
from tests.processes import needs_fork, start_process
from tests.shared import COUNTS, SMALL


def written(config):
    return read_table(Path(config["output"]) / "results.csv")


def assert_equal(*configs):
    # The commit may change while tests run.
    one, other = (written(config).drop(columns=[*TIMING, "commit"]) for config in configs)
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_added_settings_are_measured_and_finished_rows_kept(make_config, monkeypatch, tmp_path):
    commit = "81647e4"  # reads as a number
    monkeypatch.setattr("anomalib_inctrl.benchmark.jobs._commit", lambda: commit)
    config = make_config()
    first = {**config, "models": {"InCTRLv2": config["models"]["InCTRLv2"]}, "k_shots": [1]}
    first["targets"] = {"Demo": config["targets"]["Demo"] | {"categories": ["washer"]}}
    run_benchmark(first)
    kept = written(config)
    run_benchmark(config)
    everything = written(config)
    assert len(everything) == 2 * 2 * 2
    assert set(everything["commit"]) == {commit}
    again = everything.merge(kept[list(KEY)], on=list(KEY))
    pd.testing.assert_frame_equal(again, kept)  # its times as well: not measured again
    run_benchmark(other := {**config, "output": str(tmp_path / "at once")})
    assert_equal(config, other)
    # What is taken out leaves the table, and comes back without being measured.
    assert len(run_benchmark(first)) == 1
    pd.testing.assert_frame_equal(everything, run_benchmark(config)[everything.columns], check_dtype=False)


def test_a_folder_belongs_to_one_config_and_one_run_at_a_time(make_config, tmp_path):
    config, file = make_config(k_shots=[1], pixel_metrics=False), tmp_path / "benchmark.yaml"
    folder = ResultsFolder(read_config(config))
    with folder.locked(), pytest.raises(BenchmarkError, match="another run is writing here"):
        run_benchmark(config)
    missing = f"models.InCTRL.weights={tmp_path / 'nothing.ckpt'}"
    with pytest.raises(PretrainedWeightsError, match=r"nothing\.ckpt") as kept:  # as a notebook keeps it
        run_benchmark(config, [missing])
    file.write_text(yaml.safe_dump(config | {"k_shots": [2]}))
    command = ["--config", str(file), "--set", "k_shots=[1]"]
    assert main([*command, "title=Mine"]) == 0
    del kept
    assert len(written(config)) == 4
    report = folder.path / "report.md"
    report.unlink()
    assert main([*command, "title=Other", "--report_only", "true"]) == 0
    assert report.read_text().startswith("# Other\n")
    assert yaml.safe_load((folder.path / "config.yaml").read_text())["title"] == "Other"
    before = report.read_text()
    for report_only in (False, True):
        with pytest.raises(BenchmarkError, match=r"InCTRL\.init_args\.residual_scale: was not given, is 'full'"):
            run_benchmark(config, ["models.InCTRL.init_args.residual_scale=full"], report_only=report_only)
    assert report.read_text() == before
    (folder.path / "identity.json").write_text("{")
    with pytest.raises(BenchmarkError, match=r"identity\.json: damaged"):
        run_benchmark(config)
    with pytest.raises(SystemExit, match=r"error: .*benchmark\.yaml does not fit:\n  seeds: "):
        main([*command, "seeds=[]"])


def _run(config):
    """Run a benchmark, in a process that knows the backbone, since this module imports it."""
    run_benchmark(config)


def _kill_after(seconds, config):
    process = start_process(_run, config)
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode


@pytest.mark.slow
@needs_fork
def test_killed_and_resumed_run_gives_the_same_table(make_config, tmp_path):
    undisturbed = make_config(output=str(tmp_path / "complete"), k_shots=[1], pixel_metrics=False)
    begin = time.perf_counter()
    run_benchmark(undisturbed)
    duration = time.perf_counter() - begin
    killed = undisturbed | {"output": str(tmp_path / "killed")}
    _kill_after(0.01, killed)  # starts the server
    for part in (0.1, 0.3, 0.5, 0.7, 0.9):
        assert _kill_after(part * duration, killed) in {0, -signal.SIGKILL}
        if (Path(killed["output"]) / "results.csv").is_file():  # written atomically, so never partly
            written(killed)
    run_benchmark(killed)
    assert_equal(undisturbed, killed)


@pytest.mark.slow
def test_worker_count_does_not_change_results(make_config, packaged_model, tmp_path):
    models = {name: packaged_model | {"class_path": name} for name in ("InCTRL", "InCTRLv2")}
    one, two = (
        make_config(output=str(tmp_path / str(count)), workers=count, models=models, k_shots=[1]) for count in (1, 2)
    )
    for config in (one, two):
        assert len(run_benchmark(config)) == 4
    assert_equal(one, two)


def test_what_cannot_be_measured_is_reported_and_all_else_is_kept(make_config, data, tmp_path):
    shutil.copytree(data / "gear", tmp_path / "gear")
    broken = sorted((tmp_path / "gear/train/good").glob("*.png"))[3]  # the choice of seed 1
    broken.write_bytes(broken.read_bytes()[:3000])
    options = {"normal_dir": "train/good", "normal_test_dir": "test/good", "val_split_mode": "same_as_test"}
    folder = {"datamodule": "Folder", "root": str(data / "washer")}
    config = make_config(k_shots=[0, 1, 7], seeds=[0, 1, 2])
    config["targets"] = {
        "gears": config["targets"]["Demo"] | {"root": str(tmp_path), "categories": ["gear"]},
        "plain": folder | {"options": options | {"name": "washer", "abnormal_dir": "test/scratch"}},
        "flawless": folder | {"options": options | {"name": "washer"}},
    }
    (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit, match="could not be measured, all else is in ") as end:
        main(["--config", str(tmp_path / "benchmark.yaml")])
    table = written(config)
    assert set(table.target) == {"gears", "plain"}
    one_model = table[table.model == "InCTRL"].groupby("target")
    assert one_model.get_group("plain").k_shot.to_list() == [0, 0, 0, 1, 1, 1]
    gears = one_model.get_group("gears")
    assert gears.seed[gears.k_shot == 1].to_list() == [0, 2]
    # No masks, no pixel columns.
    assert table[table.target == "plain"].filter(like="pixel_").isna().all(axis=None)
    assert table[table.target == "plain"].masks.eq(0).all()
    assert table[table.target == "gears"].filter(like="pixel_").notna().all(axis=None)
    for message in (
        f"gears/gear: k_shot=1, seed=1: ImageFileError: {broken}: 3000 bytes",
        "plain/washer: k_shot=7, seed=0: PromptError: k_shot=7: only 6 normal images",
        "flawless/washer: the test images all have one label (3 normal",
    ):
        assert message in str(end.value)
    report = (Path(config["output"]) / "report.md").read_text()
    assert "no masks" in report
    assert "not run" in report


def test_prompts_are_chosen_for_all_k_and_their_lists_can_be_given(make_config, tmp_path):
    lists = tmp_path / "first" / "prompts"
    first = make_config(output=str(tmp_path / "first"), seeds=[1], prompt_selection="representative")
    assert len(run_benchmark(first)) == 8
    one, two = ((lists / "Demo" / "washer" / f"k{k}_seed1.txt").read_text().split() for k in (1, 2))
    assert two[:1] == one
    again = make_config(output=str(tmp_path / "again"), prompts=str(lists), seeds=[1], prompt_selection="first")
    run_benchmark(again)
    assert_equal(first, again)
    with pytest.raises(BenchmarkError, match=r"k1_seed5\.txt: no such list"):
        run_benchmark(again | {"output": str(tmp_path / "missing"), "seeds": [5]})
    shortened = lists / "Demo" / "washer" / "k2_seed1.txt"
    shortened.write_text(shortened.read_text().splitlines()[0] + "\n")
    with pytest.raises(BenchmarkError, match=r"k2_seed1\.txt: names 1 prompts, K is 2"):
        run_benchmark(again | {"output": str(tmp_path / "short")})


def test_comparison_models_train_on_the_same_prompts(make_config, monkeypatch, tmp_path):
    options = {"backbone": "resnet18", "pre_trained": False, "layers": ["layer1"], "n_features": 5}
    padim = {"class_path": "Padim", "init_args": options}
    config = make_config(k_shots=[0, 3], models={"Padim": padim, "all": padim | {"train_on": "all"}})
    config["targets"]["Demo"]["categories"] = ["washer"]
    seen = []
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
    other = {"output": str(tmp_path / "other"), "prompts": str(tmp_path / "lists"), "models": {"Padim": padim}}
    with pytest.raises(BenchmarkError, match=f"{abnormal[0]}: this prompt is not in the train split"):
        run_benchmark(config | other)


@pytest.mark.slow
def test_training_config_is_run_once(make_config, data, tmp_path):
    source = {"datamodule": "InCTRLDemo", "root": str(data), "categories": ["gear"], "options": COUNTS}
    options = {"auxiliary": [source], "k_shot": 1, "train_batch_size": 4, "steps_per_epoch": 2, "num_workers": 0}
    training = {
        "model": {"class_path": "InCTRL", "init_args": SMALL},
        "data": {"class_path": "GeneralistDataModule", "init_args": options},
        "trainer": {"max_epochs": 1, "accelerator": "cpu"},
    }
    file, other = tmp_path / "training.yaml", tmp_path / "elsewhere" / "training.yaml"
    file.write_text(yaml.safe_dump(training))
    config = make_config(models={"here": {"class_path": "InCTRL", "weights": str(file)}}, k_shots=[2])
    run_benchmark(config)
    (checkpoint,) = Path(config["output"]).glob("weights/here/*")
    assert re.fullmatch(r"training-[0-9a-f]{8}\.ckpt", checkpoint.name)
    made = checkpoint.stat().st_mtime_ns
    assert len(run_benchmark(config)) == 2
    assert list(checkpoint.parent.iterdir()) == [checkpoint]
    # Another config of the same file name, for another target, is another training.
    other.parent.mkdir()
    other.write_text(yaml.safe_dump(training | {"seed_everything": 5}))
    config["targets"]["Other"] = config["targets"]["Demo"] | {"categories": ["brick"]}
    config["models"]["here"]["weights"] = {"Demo": str(file), "Other": str(other)}
    assert len(run_benchmark(config)) == 3
    assert len(list(checkpoint.parent.iterdir())) == 2
    assert checkpoint.stat().st_mtime_ns == made
    training["trainer"]["max_epochs"] = 2
    file.write_text(yaml.safe_dump(training))
    with pytest.raises(BenchmarkError, match=r"weights\.Demo\.trainer\.max_epochs: was 1, is 2"):
        run_benchmark(config)
