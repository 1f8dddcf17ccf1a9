# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""One pass over a category equals anomalib's engine, setting by setting."""

from pathlib import Path

import pandas as pd
import pytest
from anomalib.engine import Engine

from anomalib_inctrl import InCTRL, InCTRLDemo, InCTRLv2
from anomalib_inctrl.benchmark import run_benchmark
from anomalib_inctrl.benchmark.metrics import METRICS
from tests.benchmark.conftest import BACKBONE, COUNTS

KEY = ["model", "category", "k_shot", "seed"]


@pytest.fixture(scope="module")
def results(data, checkpoints, tmp_path_factory):
    """Both models and the baseline at several K, zero-shot included."""
    folder = tmp_path_factory.mktemp("results")
    baseline = {"class_path": "InCTRLv2", "init_args": {"backbone": BACKBONE, "pretrained": None}}
    config = {
        "output": str(folder),
        "models": {name: {"class_path": name, "weights": path} for name, path in checkpoints.items()}
        | {"baseline": baseline, "shifted": baseline | {"init_args": baseline["init_args"] | {"prompt_shifts": 2}}}
        | {"automatic": baseline | {"init_args": baseline["init_args"] | {"text_prompts": "automatic"}}},
        "targets": {
            "Demo": {"datamodule": "InCTRLDemo", "root": str(data), "categories": ["washer"], "options": COUNTS}
        },
        "k_shots": [0, 1, 3],
        "seeds": [0, 2],
        "batch_size": 4,
    }
    return folder, run_benchmark(config)


@pytest.mark.parametrize(("k_shot", "seed"), [(0, 0), (1, 2), (3, 0), (3, 2)])
@pytest.mark.parametrize("name", ["InCTRL", "InCTRLv2", "baseline", "shifted", "automatic"])
def test_every_setting_equals_the_engine(name, k_shot, seed, results, data, checkpoints, tmp_path):
    folder, table = results
    kind = InCTRL if name == "InCTRL" else InCTRLv2
    given = {"weights": checkpoints[name]} if name in checkpoints else {"backbone": BACKBONE, "pretrained": None}
    given |= {"prompt_shifts": 2} if name == "shifted" else {}
    given |= {"text_prompts": "automatic"} if name == "automatic" else {}
    model = kind(k_shot=k_shot, seed=seed, visualizer=False, **given)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    engine = Engine(default_root_dir=tmp_path, **quiet)
    expected = engine.test(model, datamodule=InCTRLDemo(root=data, category="washer", **COUNTS), verbose=False)[0]
    (row,) = table[(table.model == name) & (table.k_shot == k_shot) & (table.seed == seed)].to_dict("records")
    for metric in METRICS:
        assert row[metric] == pytest.approx(expected[metric], abs=1e-5), metric
    assert (row["normal"], row["abnormal"], row["masks"]) == (5, 6, 11)
    by_engine = pd.read_csv(Path(engine.trainer.default_root_dir) / "scores.csv").set_index("image_path")["score"]
    scores = pd.read_csv(folder / "scores" / name / "Demo" / "washer.csv")
    scores = scores[(scores.k_shot == k_shot) & (scores.seed == seed)].set_index("image_path")["score"]
    assert scores.index.tolist() == sorted(by_engine.index)
    assert scores.to_list() == pytest.approx(by_engine[scores.index].to_list(), abs=1e-5)
    listed = (folder / "prompts" / "Demo" / "washer" / f"k{k_shot}_seed{seed}.txt").read_text().split("\n")[:-1]
    assert listed == model.prompt_files["washer"]


def test_each_image_is_encoded_once(make_config, monkeypatch):
    from anomalib_inctrl.backbones import OpenCLIPBackbone

    seen = []
    encode = OpenCLIPBackbone.encode_image
    monkeypatch.setattr(
        OpenCLIPBackbone, "encode_image", lambda self, images: seen.append(len(images)) or encode(self, images)
    )
    config = make_config(k_shots=[1, 2, 4], seeds=[0, 1, 2])
    table = run_benchmark(config)
    assert len(table) == 2 * 2 * 9
    lists = {
        category: {
            line
            for file in Path(config["output"]).glob(f"prompts/Demo/{category}/*.txt")
            for line in file.read_text().split()
        }
        for category in ("washer", "brick")
    }
    assert sum(seen) == 2 * 11 + sum(map(len, lists.values()))


def test_batch_size_does_not_change_results(make_config, tmp_path):
    tables = [
        run_benchmark(make_config(batch_size=size, seeds=[0], output=str(tmp_path / str(size)))).set_index(KEY)[
            list(METRICS)
        ]
        for size in (1, 5, 64)
    ]
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0], atol=1.1e-6, rtol=0)
