# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Changes of scores and maps when the backbone computes in half precision, on rendered images.

    python benchmarks/half_precision.py --backbone mini-clip-16-240 --pretrained demo --output half.json

Largest absolute changes over both models, without heads and with random ones, under autocast on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from quality import SHOTS, rendered
from timing import MODELS, parse, parser_of, report
from torch.nn import functional as F

from anomalib_inctrl.backbones import backbone_preprocessing
from anomalib_inctrl.backbones.openclip import create_openclip_model
from anomalib_inctrl.demo import UNSEEN_CATEGORIES
from anomalib_inctrl.demo.categories import REGISTRY

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_COMPONENTS = {"score": "score", "text_score": "text score", "patch_map": "patch residual map"}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure."""
    parser = parser_of(__doc__)
    parser.add_argument("--pretrained", help="weights of the backbone; random ones if not given")
    parser.add_argument("--categories", nargs="+", choices=UNSEEN_CATEGORIES, default=["capsule", "brick"])
    args = parse(parser, argv)
    clip = create_openclip_model(args.backbone, args.pretrained)
    preprocessing = backbone_preprocessing(args.backbone, args.pretrained, None)
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    largest = {name: dict.fromkeys(_COMPONENTS.values(), 0.0) for name in _TYPES}
    for category in args.categories:
        image = rendered(category, REGISTRY[category].defects, seed=7).image
        image = (F.interpolate(image, preprocessing.image_size, mode="bilinear", antialias=True) - mean) / std
        for model_class in MODELS.values():
            torch.manual_seed(0)
            model = model_class(clip)
            model.set_prompts(image[:SHOTS], category)
            for model.heads_trained in (False, True):
                with torch.no_grad():
                    exact = model.score_components(image[SHOTS:], category)
                for name, dtype in _TYPES.items():
                    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
                        rough = model.score_components(image[SHOTS:], category)
                    for field, title in _COMPONENTS.items():
                        change = float((getattr(rough, field).float() - getattr(exact, field)).abs().max())
                        largest[name][title] = max(largest[name][title], change)
    rows = [{"precision": name, **changes} for name, changes in largest.items()]
    report(args, f"Largest changes in half precision, {args.backbone}", rows)


if __name__ == "__main__":
    main()
