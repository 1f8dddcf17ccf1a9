# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""How much scores and maps change when the backbone computes in half precision, on rendered pictures.

    python benchmarks/half_precision.py --backbone mini-clip-16-240 --pretrained demo --output half.json

Largest absolute changes over both models, without heads and with random ones, under autocast on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timing import MODELS, parser_of, prepare, report
from torch import Tensor

from anomalib_inctrl.backbones import backbone_preprocessing
from anomalib_inctrl.backbones.openclip import create_openclip_model
from anomalib_inctrl.demo import UNSEEN_CATEGORIES, Sample, render_batch
from anomalib_inctrl.demo.categories import REGISTRY

SHOTS = 4
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
TERMS = {"score": "score", "text_score": "text score", "patch_map": "patch residual map"}


def pictures(category: str, each: int) -> Tensor:
    """Prompts, then as many normal and defective pictures, `(SHOTS + 2 * each, 3, 240, 240)` in [0, 1]."""
    kinds = REGISTRY[category].defects
    good = [Sample(category, index) for index in range(SHOTS + each)]
    bad = [Sample(category, 1000 + index, kinds[index % len(kinds)]) for index in range(each)]
    return render_batch([*good, *bad], seed=7).image / 255


def main(argv: Sequence[str] | None = None) -> int:
    """Measure.

    Args:
        argv: Arguments without the program's name; those of the process if None.

    Returns:
        0.
    """
    parser = parser_of(__doc__, rounds=1)
    parser.add_argument("--pretrained", help="weights of the backbone; random ones if not given")
    parser.add_argument("--categories", nargs="+", choices=UNSEEN_CATEGORIES, default=["capsule", "brick"])
    parser.add_argument("--each", type=int, default=12, help="normal pictures of a category, and defective ones")
    args = parser.parse_args(argv)
    prepare(args)
    clip = create_openclip_model(args.backbone, args.pretrained)
    preprocessing = backbone_preprocessing(args.backbone, args.pretrained, None)
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    largest = {name: dict.fromkeys(TERMS, 0.0) for name in TYPES}
    for category in args.categories:
        image = torch.nn.functional.interpolate(
            pictures(category, args.each), preprocessing.image_size, mode="bilinear", antialias=True
        )
        image = (image - mean) / std
        for make in MODELS.values():
            torch.manual_seed(0)
            model = make(clip).eval()
            model.set_prompts(image[:SHOTS], category)
            for heads_trained in (False, True):
                model.heads_trained = heads_trained
                with torch.no_grad():
                    exact = model.score_components(image[SHOTS:], category)
                for name, dtype in TYPES.items():
                    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
                        rough = model.score_components(image[SHOTS:], category)
                    for term, most in largest[name].items():
                        change = (getattr(rough, term).float() - getattr(exact, term)).abs().max()
                        largest[name][term] = max(most, float(change))
    rows: list[dict[str, Any]] = [
        {"precision": name, **{TERMS[term]: change for term, change in changes.items()}}
        for name, changes in largest.items()
    ]
    report(args, f"Largest changes in half precision, {args.backbone}", rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
