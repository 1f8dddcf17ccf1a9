# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Peak memory of scoring over batch size and number of prompts.

    python benchmarks/memory.py --output results/speed/memory.json

Tensors are counted operation by operation without being computed (see ``tensor_memory.py``), at full size, so the
figures are the same on every machine. "over the tower" is what scoring needs beyond OpenCLIP's ``encode_image``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import open_clip
import torch
from tensor_memory import peak_bytes
from timing import CLASS_NAME, MODELS, make_model, parser_of, prepare, report
from torch._subclasses.fake_tensor import FakeTensorMode

from anomalib_inctrl.backbones import openclip_preprocessing


def main(argv: Sequence[str] | None = None) -> int:
    """Count both models' memory.

    Args:
        argv: Arguments without the program's name; those of the process if None.

    Returns:
        0.
    """
    parser = parser_of(__doc__, rounds=1)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 64], help="batch sizes")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 4, 8, 64], help="numbers of prompts")
    args = parser.parse_args(argv)
    prepare(args)
    openclip_preprocessing(args.backbone, None)  # makes the package's own backbones known, refuses unknown ones
    rows: list[dict[str, Any]] = []
    with FakeTensorMode(), torch.no_grad():
        clip = open_clip.model.CLIP(**open_clip.get_model_config(args.backbone)).eval()
        for name in MODELS:
            for batch in args.batches:
                images = torch.empty(batch, 3, *clip.visual.image_size)
                tower = peak_bytes(lambda images=images: clip.encode_image(images))
                for k_shot in args.shots:
                    model = make_model(name, clip, k_shot)
                    features = model.backbone.encode_image(images)
                    context = model.bank.select(CLASS_NAME)
                    whole = peak_bytes(lambda model=model, images=images: model(images, CLASS_NAME))
                    scoring = peak_bytes(
                        lambda model=model, query=features, context=context: model.score_features(query, context)
                    )
                    rows.append(
                        {
                            "model": name, "batch": batch, "K": k_shot, "tower MB": tower / 1e6,
                            "over the tower MB": (whole - tower) / 1e6, "scoring alone MB": scoring / 1e6,
                            "prompts MB": context.patches.nbytes / 1e6,
                        }
                    )  # fmt: skip
    report(args, f"Peak memory, {args.backbone}", rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
