# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What the text score adds, how the text score of the normal prompts predicts it, and automatic text prompts.

    python benchmarks/text_alignment.py --output results/text_alignment

Measured by the training-free baseline of the demonstration encoder, or with `--weights` by trained heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from timing import parse, script_parser

from anomalib_inctrl import InCTRLDemo, InCTRLv2
from anomalib_inctrl.backbones.packaged import DEMO_BACKBONE, DEMO_PRETRAINED
from anomalib_inctrl.benchmark.one_pass import encode_files
from anomalib_inctrl.demo import CONFIRMATION_CATEGORIES, UNSEEN_CATEGORIES
from anomalib_inctrl.io.files import write_text_atomic
from anomalib_inctrl.models.components.prompt_bank import PromptContext
from anomalib_inctrl.models.components.residuals import unit
from anomalib_inctrl.models.components.text_alignment import measure_alignment
from anomalib_inctrl.prompts import create_selector

FAMILIES = {"development": UNSEEN_CATEGORIES, "confirmation": CONFIRMATION_CATEGORIES}


@torch.inference_mode()
def measure(module: Any, category: str, root: Path, k_shot: int, draws: int) -> Iterator[dict[str, Any]]:
    """Image AUROC in percent for each draw of prompts: of text and patch score, and of the score by `text_prompts`."""
    model, data = module.model, InCTRLDemo(root=root, category=category)
    data.prepare_data()
    data.setup()
    label = data.test_data.samples.label_index.to_numpy(dtype=int)
    query = encode_files(
        model.backbone, module.pre_processor, [Path(path) for path in data.test_data.samples.image_path]
    )
    candidates = sorted(Path(path) for path in data.train_data.samples.image_path)
    for draw in range(draws):
        paths = create_selector("random", draw).select(candidates, k_shot, lambda _: torch.empty(0))
        prompts = encode_files(model.backbone, module.pre_processor, paths)
        patches, temperature = unit(prompts.patches), model.temperature_image
        ensemble = model.backbone.text_prototypes(category)
        alignment = measure_alignment(model.backbone, category, ensemble, prompts.embedding, temperature)
        row: dict[str, Any] = {"category": category, "draw": draw, "normal text score": alignment.mean}
        for mode in ("ensemble", "automatic"):
            model.text_prompts = mode
            prototypes = model.text_prototypes(category, prompts.embedding)
            found = model.score_query(query, PromptContext(patches, prompts.embedding, prototypes))
            scores = {f"{mode} text": found.text_score, f"{mode} score": found.score, "patch score": found.patch_score}
            row |= {name: 100 * roc_auc_score(label, score.double().numpy()) for name, score in scores.items()}
        yield row


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = script_parser(__doc__)
    parser.add_argument("--weights", default=None, help="checkpoint of InCTRLv2 with trained heads")
    parser.add_argument("--shots", type=int, default=4, help="prompts of each category")
    parser.add_argument("--draws", type=int, default=3, help="draws of prompts")
    parser.add_argument("--data", type=Path, default=Path("datasets/InCTRLDemo"))
    parser.add_argument("--output", type=Path, default=Path("results/text_alignment"))
    args = parse(parser, argv)
    module = InCTRLv2(backbone=DEMO_BACKBONE, pretrained=DEMO_PRETRAINED, weights=args.weights).eval()
    rows = [
        {"families": families} | row
        for families, categories in FAMILIES.items()
        for category in categories
        for row in measure(module, category, args.data, args.shots, args.draws)
    ]
    table = pd.DataFrame(rows)
    write_text_atomic(args.output / "rows.csv", table.to_csv(index=False))
    values = [name for name in table if name not in {"families", "category", "draw"}]
    print(table.groupby(["families", "category"], sort=False)[values].mean().round(2).to_string())
    draws = table.groupby(["families", "draw"], sort=False)[values].mean().groupby("families", sort=False)
    print(pd.concat({"mean": draws.mean(), "standard deviation": draws.std()}, axis=1).round(2).T.to_string())


if __name__ == "__main__":
    main()
