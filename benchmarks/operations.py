# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of scoring over those of OpenCLIP's bare ``encode_image``; counted, not timed.

    python benchmarks/operations.py --output results/speed/operations.json

Nothing is computed, so the figures are the same on every machine, however busy. They bound what ``tower.py`` times:
what is not a matrix product (normalisation, maxima, copies) is not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import open_clip
import torch
from timing import CLASS_NAME, MODELS, make_model, parser_of, prepare, report
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from anomalib_inctrl.backbones import openclip_preprocessing
from anomalib_inctrl.backbones.text_prompts import text_prompts


def count(call: Callable[[], Any]) -> int:
    """Floating-point operations of a call's matrix products and convolutions."""
    # PyTorch's counter does not see into its fused attention.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            call()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    return int(counter.get_total_flops())


def main(argv: Sequence[str] | None = None) -> int:
    """Count both models' operations, and those of encoding prompts, or prompts and sentences, for every query.

    Args:
        argv: Arguments without the program's name; those of the process if None.

    Returns:
        0.
    """
    parser = parser_of(__doc__, rounds=1)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 2, 4, 8], help="numbers of prompts")
    args = parser.parse_args(argv)
    prepare(args)
    openclip_preprocessing(args.backbone, None)  # makes the package's own backbones known, refuses unknown ones
    sentences = sum(map(len, text_prompts(CLASS_NAME)))
    rows: list[dict[str, Any]] = []
    with FakeTensorMode(), torch.no_grad():
        clip = open_clip.model.CLIP(**open_clip.get_model_config(args.backbone)).eval()
        image = torch.empty(1, 3, *clip.visual.image_size)
        tokens = torch.zeros(sentences, clip.context_length, dtype=torch.long)
        tower, text = count(lambda: clip.encode_image(image)), count(lambda: clip.encode_text(tokens))
        for name in MODELS:
            for k_shot in args.shots:
                model = make_model(name, clip, k_shot)
                ours = count(lambda model=model: model(image, CLASS_NAME))
                rows.append(
                    {
                        "model": name, "K": k_shot, "GFLOP an image": ours / 1e9, "over the tower": ours / tower,
                        "prompts per query": (ours + k_shot * tower) / tower,
                        "and sentences": (ours + k_shot * tower + text) / tower,
                    }
                )  # fmt: skip
    report(args, f"Operations, {args.backbone}: the tower takes {tower / 1e9:.1f} GFLOP an image", rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
