# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Train the demonstration encoder `mini-clip-16-240` on rendered images and their captions.

Usage: python -m tools.encoder.train --out runs/mini-clip --images 1429632 [--start WEIGHTS]

The learning rate falls to zero over the images; the weights written are those at the end. What is printed on the way is
measured on the auxiliary categories as designed, which are in no training batch; the unseen categories are not used.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset
from torchmetrics.functional.classification import binary_auroc

from anomalib_inctrl.backbones.packaged import DEMO_BACKBONE, DEMO_PRETRAINED
from anomalib_inctrl.backbones.text_prompts import text_prompts
from anomalib_inctrl.demo import AUXILIARY_CATEGORIES, REGISTRY, Sample, render_batch
from anomalib_inctrl.models.components.residuals import patch_residual, text_score
from tools.encoder.data import DAMAGED, NAMES, Episode, draw_episode
from tools.encoder.model import LOSS_WEIGHTS, SIZE, Encoder, losses, prepare

_SEED = 0
_RATE = 1e-3
_FASTER = 2.0  # by what the learning rate of the blocks' matrices is larger
_DECAY = 0.05
_WARM_UP = 300  # steps
_ROUND = 16  # drawings that are held and gone through in turn: the same one again at once would teach less
_REPORT = 500  # steps between reports


class Drawings(Dataset[Episode]):
    """`count` drawings of `rows` products; drawing takes longer than a step, so that each serves for some."""

    def __init__(self, count: int, rows: int) -> None:
        self.count, self.rows = count, rows

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Episode:
        return draw_episode(self.rows, SIZE, (_SEED, number))


def optimisers(encoder: Encoder) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, which learns faster, and AdamW for everything else."""
    matrices = {name: p for name, p in encoder.named_parameters() if "transformer.resblocks" in name and p.ndim == 2}
    rest = [p for name, p in encoder.named_parameters() if name not in matrices]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": _DECAY},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [
        torch.optim.Muon(matrices.values(), lr=_FASTER * _RATE, weight_decay=_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=_RATE, betas=(0.9, 0.98)),
    ]


def train(encoder: Encoder, steps: int, rows: int, views: int, workers: int) -> None:
    """Train an encoder in place, on its device, in batches of `rows` products; `views` batches for each drawing."""
    device = encoder.mean.device
    patch_size = encoder.clip.visual.conv1.kernel_size[0]
    both = optimisers(encoder)
    schedules = [LambdaLR(o, lambda step: min(1.0, (step + 1) / _WARM_UP) * (1 - step / steps)) for o in both]
    drawings = iter(DataLoader(Drawings(-(-steps // views), rows), batch_size=None, num_workers=workers))
    # Some drawings in turn, `views` times, before the next ones come.
    rounds = iter(lambda: list(islice(drawings, _ROUND)), [])
    episodes = chain.from_iterable(held * views for held in rounds)
    start = time.monotonic()
    encoder.train()
    for step, episode in enumerate(islice(episodes, steps), start=1):
        image, mask = episode.image.to(device), episode.mask.to(device)
        components = losses(encoder, prepare(replace(episode, image=image, mask=mask), patch_size, (_SEED, step)))
        encoder.zero_grad()
        torch.stack([weight * components[name] for name, weight in LOSS_WEIGHTS.items()]).sum().backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        for optimiser, schedule in zip(both, schedules, strict=True):
            optimiser.step()
            schedule.step()
        if step % _REPORT == 0 or step == steps:
            encoder.eval()
            scores = [evaluate(encoder, category) for category in AUXILIARY_CATEGORIES]
            encoder.train()
            found = {name: float(value.detach()) for name, value in components.items()}
            found |= {name: sum(score[name] for score in scores) / len(scores) for name in scores[0]}
            figures = "  ".join(f"{name} {value:.3f}" for name, value in found.items())
            print(f"{step * rows * len(DAMAGED)} images  {time.monotonic() - start:.0f} s  {figures}", flush=True)


@torch.no_grad()
def evaluate(encoder: Encoder, category: str, prompts: int = 4, each: int = 16) -> dict[str, float]:
    """AUROCs without trained heads on an auxiliary category as designed, which is in no training batch."""
    kinds = REGISTRY[category].defects
    samples = [Sample(category, index) for index in range(prompts + each)]
    samples += [Sample(category, 1000 + index, kinds[index % len(kinds)]) for index in range(each)]
    image, mask = render_batch(samples, seed=1234)
    parts = [encoder.encode_image(chunk.to(encoder.mean.device) / 255) for chunk in image.split(10)]
    patches, embedding = (torch.cat(tensors).cpu() for tensors in zip(*parts, strict=True))
    sentences = text_prompts(NAMES[category][0])
    prototypes = torch.stack([F.normalize(encoder.encode_text(s[::5]).mean(dim=0), dim=-1).cpu() for s in sentences])
    residual = patch_residual(patches[prompts:], patches[:prompts])
    baseline = (text_score(embedding[prompts:], prototypes) + residual.amax(dim=1)) / 2
    area = F.interpolate(residual.view(-1, 1, *encoder.clip.visual.grid_size), mask.shape[-2:], mode="bilinear")[:, 0]
    return {
        "baseline": float(binary_auroc(baseline, (torch.arange(2 * each) >= each).long())),
        "pixel": float(binary_auroc(area[:, ::2, ::2].flatten(), mask[prompts:, ::2, ::2].flatten().long())),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Train and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights")
    parser.add_argument("--start", type=Path, help="weights to start from; random ones if not given")
    parser.add_argument("--images", type=int, required=True, help="images to train on, over all batches")
    parser.add_argument("--rows", type=int, default=48, help="products in a batch; fewer need less memory")
    parser.add_argument("--views", type=int, default=3, help="batches made of the same images, augmented differently")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw ahead")
    args = parser.parse_args(argv)
    steps = args.images // (args.rows * len(DAMAGED)) if args.rows > 0 else 0
    if steps < 1 or args.views < 1:
        parser.error("nothing to train on: --rows and --views must be positive, --images at least one batch.")

    torch.manual_seed(_SEED)
    encoder = Encoder().to("cuda" if torch.cuda.is_available() else "cpu")
    if args.start:
        encoder.load(args.start)
    train(encoder, steps, args.rows, args.views, args.workers)
    weights = args.out / f"{DEMO_BACKBONE}-{DEMO_PRETRAINED}.safetensors"
    weights.parent.mkdir(parents=True, exist_ok=True)
    encoder.save(weights)
    content = weights.read_bytes()
    print(f"{weights}  {len(content) / 1e6:.2f} MB  sha256 {hashlib.sha256(content).hexdigest()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
