# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Textures, and parts cut from them, for the training data of the demonstration encoder."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from anomalib_inctrl.demo.categories import Category
from anomalib_inctrl.demo.drawing import CELL_EDGE, CELL_ID, FBM, FINE, View, blend, box, fract, noise
from anomalib_inctrl.demo.random_products import OUTLINES, Surface, compose, random_colour, turned_axes

PATTERNS = ("grained", "striped", "chequered", "bricked", "pebbled", "fibrous")


def textured_product(rng: np.random.Generator, pattern: str) -> tuple[str, Category]:
    """Compose a texture or a part cut from one; gives its name in words and its category."""
    name = list(OUTLINES)[rng.choice(len(OUTLINES))]
    outline = OUTLINES[name](rng)
    fills_image = name == "panel" or rng.random() < 0.4
    if fills_image:
        outline = lambda v: torch.full_like(v.x, -1.0)  # noqa: E731
    category = compose(rng, outline, _texture(rng, pattern), solid=not fills_image)
    return f"{pattern} {'surface' if fills_image else 'part'}", category


def _texture(rng: np.random.Generator, pattern: str) -> Surface:
    """A pattern in three colours, each pattern in many sizes and contrasts."""
    colours = [torch.tensor(random_colour(rng)).view(3, 1, 1) for _ in range(3)]
    pitch, squash, steep = math.exp(rng.uniform(0.4, 2.5)), rng.uniform(0.4, 1.2), rng.uniform(1, 5)
    coarse, bent, shift, share = rng.uniform(0.3, 2), rng.uniform(0, 0.04), rng.uniform(0, 0.5), rng.uniform(0, 0.6)
    level, sharp, third = rng.uniform(-0.8, 0.8), math.exp(rng.uniform(-0.4, 2.1)), rng.uniform(0, 0.4)
    deep = rng.uniform(0, 0.02)
    tilts = rng.uniform(0, math.pi, 4)

    def surface(v: View, _: float) -> tuple[Tensor, Tensor]:
        rough, fine = v.noise(FBM, coarse), v.noise(FINE, coarse)
        x, y = (v.x + bent * rough) * pitch, (v.y + bent * fine) * pitch * squash
        height = tone = rough
        if pattern in ("striped", "chequered"):
            wave = torch.sin(2 * math.pi * x) * (torch.sin(2 * math.pi * y) if pattern == "chequered" else 1.0)
            height = (wave * steep).clamp(-1, 1)
        elif pattern == "bricked":
            row = y.floor()
            x = x + shift * row
            height = (box(fract(x) - 0.5, fract(y) - 0.5, 0.5, 0.5) * (-4 * steep)).clamp(max=1) * 2 - 1
            tone = fract(torch.sin(x.floor() * 12.9898 + row * 78.233) * 437.5453) * 3 - 1.5
        elif pattern == "pebbled":  # the same place of the atlas for both channels
            edge, number = (noise(v.draw.child(1), c, v.x, v.y / squash, coarse) for c in (CELL_EDGE, CELL_ID))
            height, tone = (edge * 3).clamp(max=1) * 2 - 1, number * 3 - 1.5
        elif pattern == "fibrous":  # crests in some directions, each shown where it is the highest
            axes = [turned_axes(v, tilt) for tilt in tilts]
            crests = [noise(v.draw, FINE, along / 6, across, coarse) for along, across in axes]
            highest, strand = torch.stack(crests).max(dim=0)
            height, tone = highest - 1, strand - 1.5 + 0.3 * fine
        height, tone = height * (1 - share) + fine * share, tone * (1 - share) + fine * share
        albedo = blend(colours[0], colours[1], ((height - level) * sharp).sigmoid())
        albedo = albedo + (colours[2] - colours[0]) * (tone * third).clamp(-0.5, 0.5)
        return albedo.clamp(0.02, 0.98), height * deep

    return surface
