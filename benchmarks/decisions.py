# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""False alarms and misses of thresholds that come from normal images alone.

    python benchmarks/decisions.py --output results/decisions
    python benchmarks/decisions.py --source ELPV --root FOLDER --categories monocrystalline --output results/elpv

For each category and draw, K normal training images are the prompts. The threshold is computed as `threshold="auto"`
does: from the prompts, each scored against the others, or from further normal training images. Test images then give
the share of normal ones above it (false alarms) and of abnormal ones not above it (misses). The training-free baseline
scores, or the heads of `--weights`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.progress import track
from timing import parse, script_parser
from torch import Tensor

from anomalib_inctrl import InCTRLv2
from anomalib_inctrl.backbones import ImageFeatures
from anomalib_inctrl.benchmark.one_pass import encode_files
from anomalib_inctrl.data import DataSource
from anomalib_inctrl.data.sources import build_datamodules, prepare, read_parts
from anomalib_inctrl.demo import CONFIRMATION_CATEGORIES
from anomalib_inctrl.io.files import write_text_atomic
from anomalib_inctrl.models.components.conformal import conformal_threshold
from anomalib_inctrl.models.components.prompt_bank import PromptContext
from anomalib_inctrl.models.components.residuals import unit


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = script_parser(__doc__)
    parser.add_argument("--source", default="InCTRLDemo", help="a datamodule")
    parser.add_argument("--root", default="datasets/InCTRLDemo")
    parser.add_argument("--categories", nargs="+", default=list(CONFIRMATION_CATEGORIES))
    parser.add_argument("--backbone", default="mini-clip-16-240")
    parser.add_argument("--pretrained", default="demo")
    parser.add_argument("--weights", help="checkpoint with trained heads")
    parser.add_argument("--shots", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument(
        "--calibration", type=int, nargs="+", default=[9, 19, 30], help="numbers of further normal images"
    )
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--test_images", type=int, default=200, help="at most, of each label")
    parser.add_argument("--output", type=Path, default=Path("results/decisions"))
    args = parse(parser, argv)
    module: Any = InCTRLv2(weights=args.weights, backbone=args.backbone, pretrained=args.pretrained).eval()
    rows: list[dict[str, Any]] = []
    source = DataSource(args.source, root=args.root, categories=args.categories)
    for name, datamodule in track(list(build_datamodules([source], "source").items()), "Categories"):
        prepare(datamodule)
        parts = read_parts(name, datamodule, "source")
        train, test = parts["train"].samples, parts["test"].samples
        sets = {
            "normal": train[train.label_index == 0],
            "test normal": test[test.label_index == 0].head(args.test_images),
            "test abnormal": test[test.label_index == 1].sample(frac=1, random_state=0).head(args.test_images),
        }
        # Of the training images no more than all draws can use.
        most = 4 * (max(args.shots) + max(args.calibration))
        sets["normal"] = sets["normal"].sample(frac=1, random_state=0).head(most)
        with torch.no_grad():
            features = {
                key: encode_files(module.model.backbone, module.pre_processor, [*map(Path, table.image_path)])
                for key, table in sets.items()
            }
        for draw in range(args.draws):
            rows += [{"category": name, "draw": draw} | row for row in decide(module.model, features, name, draw, args)]
    table = pd.DataFrame(rows)
    write_text_atomic(args.output / "rows.csv", table.to_csv(index=False))
    keys = ["prompts", "calibration", "promised"]
    print(table.groupby(keys)[["false alarms", "misses"]].mean().mul(100).round(1).to_string())


@torch.no_grad()
def decide(
    model: Any, features: dict[str, ImageFeatures], name: str, draw: int, args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """False alarms and misses of one draw of prompts, one row for each way to calibrate."""
    normal, prototypes = features["normal"], model.backbone.text_prototypes(name)

    def score(query: ImageFeatures, prompts: Sequence[int]) -> Tensor:
        chosen = normal.rows(list(prompts))
        scores: Tensor = model.score_query(
            query, PromptContext(unit(chosen.patches), chosen.embedding, prototypes)
        ).score
        return scores

    order = np.random.default_rng([draw, 0]).permutation(len(normal.embedding)).tolist()
    for shots in args.shots:
        prompts = order[:shots]
        good, bad = (score(features[key], prompts) for key in ("test normal", "test abnormal"))
        held_out = [score(normal.rows([row]), [other for other in prompts if other != row]) for row in prompts]
        further = score(normal.rows(order[max(args.shots) :]), prompts)
        ways = {f"{shots} prompts": torch.cat(held_out)}
        ways |= {f"{count} more": further[:count] for count in args.calibration if count <= len(further)}
        for way, scores in ways.items():
            for rate in (None, 0.1):
                if rate is not None and (rate * (len(scores) + 1) < 1 or round(1 / rate) == len(scores) + 1):
                    continue
                threshold = conformal_threshold(scores.tolist(), rate)
                yield {
                    "prompts": shots,
                    "calibration": way,
                    "promised": f"{rate or 1 / (len(scores) + 1):.0%}",
                    "false alarms": float((good > threshold).float().mean()),
                    "misses": float((bad <= threshold).float().mean()),
                }


if __name__ == "__main__":
    main()
