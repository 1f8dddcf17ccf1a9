# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Quality of the demonstration encoder, without trained heads, on categories that it has never seen.

    python benchmarks/quality.py [WEIGHTS]

prints, over seeds of rendering and prompts, mean and standard deviation of the metrics of the quality gates in
`tests/benchmarks/test_quality.py`, and the limits that follow from the metrics with the gates' own seed.
WEIGHTS is a file of `tools/encoder/train.py`, the packaged one if not given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from timing import script_parser
from torch.nn import functional as F

from anomalib_inctrl.backbones.openclip import CLIP_MEAN, CLIP_STD, OpenCLIPBackbone
from anomalib_inctrl.demo import UNSEEN_CATEGORIES, Sample, render_batch
from anomalib_inctrl.demo.categories import REGISTRY
from anomalib_inctrl.models.components.residuals import patch_residual

SHOTS, EACH = 4, 12
PHOTOGRAPHS = ("brick", "grass", "gravel")
RENDERED = tuple(name for name in UNSEEN_CATEGORIES if name not in PHOTOGRAPHS)
HELD_OUT = ("cut", "dent", "thread")  # kinds of defect in no training image either; a test compares with the tool
GATES = ("rendered", "unseen defects", "photographs", "digits")
SEEDS = range(5)
GATE_SEED, MARGIN = 7, 0.03  # with the same seed, only the arithmetic of another machine moves what is found

MEAN, STD = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))


@dataclass
class Case:
    """Prompts, then queries `(N, 3, H, W)` in [0, 1], and what is abnormal about the queries."""

    image: torch.Tensor
    label: np.ndarray
    mask: np.ndarray | None = None


def rendered(category: str, kinds: tuple[str, ...], seed: int) -> Case:
    """Images of a demo category; the defects are of the kinds in turn."""
    good = [Sample(category, index) for index in range(SHOTS + EACH)]
    bad = [Sample(category, 1000 + index, kinds[index % len(kinds)]) for index in range(EACH)]
    batch = render_batch([*good, *bad], seed=seed)
    return Case(batch.image / 255, np.repeat([0, 1], EACH), batch.mask[SHOTS:].numpy())


def digits(digit: int, seed: int) -> Case:
    """Handwritten digits, of which one is normal."""
    data = load_digits()
    draw = np.random.default_rng((seed, digit))
    own = draw.permutation(np.flatnonzero(data.target == digit))[: SHOTS + EACH]
    others = draw.permutation(np.flatnonzero(data.target != digit))[:EACH]
    image = torch.tensor(data.images[[*own, *others]], dtype=torch.float32)[:, None].expand(-1, 3, -1, -1) / 16
    image = F.interpolate(image, size=240, mode="bicubic", antialias=True).clamp(0, 1)
    return Case(image, np.repeat([0, 1], EACH))


def measure(backbone: OpenCLIPBackbone, case: Case) -> dict[str, float]:
    """AUROC of the largest patch residual over images, and of the residual over pixels."""
    with torch.no_grad():
        chunks = ((case.image - MEAN) / STD).split(12)
        patches = torch.cat([backbone.encode_image(chunk).patches for chunk in chunks])
        residual = patch_residual(patches[SHOTS:], patches[:SHOTS])
    found = {"image": float(roc_auc_score(case.label, residual.amax(dim=1)))}
    if case.mask is not None:
        area = F.interpolate(residual.view(-1, 1, *backbone.grid), case.mask.shape[-2:], mode="bilinear")[:, 0]
        found["pixel"] = float(roc_auc_score(case.mask[:, ::4, ::4].ravel(), area[:, ::4, ::4].numpy().ravel()))
    return found


def cases(gate: str, seed: int) -> list[Case]:
    """The images of a gate, by category or digit."""
    if gate == "digits":
        return [digits(digit, seed) for digit in range(10)]
    categories = PHOTOGRAPHS if gate == "photographs" else RENDERED
    found = []
    for category in categories:
        possible = REGISTRY[category].defects
        kinds = tuple(kind for kind in possible if gate != "unseen defects" or kind in HELD_OUT)
        if kinds:
            found.append(rendered(category, kinds, seed))
    return found


def means(backbone: OpenCLIPBackbone, gate: str, seed: int) -> dict[str, float]:
    """Means over the categories of a gate."""
    found = [measure(backbone, case) for case in cases(gate, seed)]
    return {key: float(np.mean([one[key] for one in found])) for key in found[0]}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print the metrics, those of random weights, and the limits."""
    parser = script_parser(__doc__)
    parser.add_argument("weights", nargs="?", default="demo", help="weights file; the packaged one if not given")
    args = parser.parse_args(argv)
    trained = OpenCLIPBackbone("mini-clip-16-240", args.weights)
    chance = OpenCLIPBackbone("mini-clip-16-240", None)
    for gate in GATES:
        found, at_random = ([means(model, gate, seed) for seed in (*SEEDS, GATE_SEED)] for model in (trained, chance))
        for key in found[0]:
            values, others = (np.array([one[key] for one in each]) for each in (found, at_random))
            print(
                f"{gate}, {key}: {values[:-1].mean():.3f} +- {values[:-1].std(ddof=1):.3f}, "
                f"random weights {others[:-1].mean():.3f} +- {others[:-1].std(ddof=1):.3f}; "
                f"seed of the gates: {values[-1]:.3f}, random weights {others[-1]:.3f}, "
                f"limit {values[-1] - MARGIN:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
