# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""One pass over a category equals anomalib's engine, setting by setting."""

from pathlib import Path

import pandas as pd
import pytest

from anomalib_inctrl import InCTRL, InCTRLv2
from anomalib_inctrl.backbones import OpenCLIPBackbone
from anomalib_inctrl.benchmark import run_benchmark
from anomalib_inctrl.benchmark.metrics import METRICS
from tests.shared import COUNTS, SMALL

KEY = ["model", "category", "k_shot", "seed"]


@pytest.fixture(scope="module")
def models(checkpoints):
    """Class and arguments by name: both models, and training-free ones."""
    found = {name: (name, {"weights": path}) for name, path in checkpoints.items()}
    more = {"baseline": {}, "shifted": {"prompt_shifts": 2}, "automatic": {"text_prompts": "automatic"}}
    return found | {name: ("InCTRLv2", SMALL | options) for name, options in more.items()}


@pytest.fixture(scope="module")
def results(models, data, tmp_path_factory):
    """All models at several K, zero-shot included."""
    folder = tmp_path_factory.mktemp("results")
    target = {"datamodule": "InCTRLDemo", "root": str(data), "categories": ["washer"], "options": COUNTS}
    entries = {}
    for name, (kind, options) in models.items():
        weights = options.get("weights")
        entries[name] = {"class_path": kind, "weights": weights, "init_args": {} if weights else options}
    config = {"output": str(folder), "models": entries, "targets": {"Demo": target}, "batch_size": 4}
    return folder, run_benchmark(config | {"k_shots": [0, 1, 3], "seeds": [0, 2]})


@pytest.mark.parametrize(("k_shot", "seed"), [(0, 0), (1, 2), (3, 0), (3, 2)])
@pytest.mark.parametrize("name", ["InCTRL", "InCTRLv2", "baseline", "shifted", "automatic"])
def test_every_setting_equals_the_engine(name, k_shot, seed, results, models, target, make_engine):
    folder, table = results
    kind, options = models[name]
    model = {"InCTRL": InCTRL, "InCTRLv2": InCTRLv2}[kind](k_shot=k_shot, seed=seed, visualizer=False, **options)
    engine = make_engine()
    expected = engine.test(model, datamodule=target(), verbose=False)[0]
    (row,) = table[(table.model == name) & (table.k_shot == k_shot) & (table.seed == seed)].to_dict("records")
    for metric in METRICS:
        assert row[metric] == pytest.approx(expected[metric], abs=1e-5), metric
    assert (row["normal"], row["abnormal"], row["masks"]) == (3, 6, 9)
    by_engine = pd.read_csv(Path(engine.trainer.default_root_dir) / "scores.csv").set_index("image_path")["score"]
    scores = pd.read_csv(folder / "scores" / name / "Demo" / "washer.csv")
    scores = scores[(scores.k_shot == k_shot) & (scores.seed == seed)].set_index("image_path")["score"]
    assert scores.index.tolist() == sorted(by_engine.index)
    assert scores.to_list() == pytest.approx(by_engine[scores.index].to_list(), abs=1e-5)
    listed = (folder / "prompts" / "Demo" / "washer" / f"k{k_shot}_seed{seed}.txt").read_text().split("\n")[:-1]
    assert listed == model.prompt_files["washer"]


def test_each_image_is_encoded_once(make_config, monkeypatch):
    seen = []
    encode = OpenCLIPBackbone.encode_image
    monkeypatch.setattr(
        OpenCLIPBackbone, "encode_image", lambda self, images: seen.append(len(images)) or encode(self, images)
    )
    config = make_config(k_shots=[1, 2, 4], seeds=[0, 1, 2])
    assert len(run_benchmark(config)) == 2 * 2 * 9
    files = Path(config["output"]).glob("prompts/Demo/*/*.txt")
    assert sum(seen) == 2 * 9 + len({line for file in files for line in file.read_text().split()})


def test_batch_size_does_not_change_results(make_config, tmp_path):
    configs = (make_config(batch_size=size, output=str(tmp_path / str(size))) for size in (1, 5, 64))
    first, *others = [run_benchmark(config).set_index(KEY)[list(METRICS)] for config in configs]
    for table in others:
        pd.testing.assert_frame_equal(table, first, atol=1.1e-6, rtol=0)
