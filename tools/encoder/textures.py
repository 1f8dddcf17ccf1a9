# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Random products without a name: textures and parts drawn from random numbers, several images of each.

They are there for variety: an encoder that has met thousands of kinds of surface compares surfaces by their appearance,
not by which of a few categories they belong to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anomalib_inctrl.demo.drawing import axes, blend, box, coverage, fract, radius

_PATTERNS = ("grained", "striped", "chequered", "bricked", "pebbled", "fibrous")
_ORDERLY = ("striped", "chequered", "bricked")
FAMILIES = tuple(f"{pattern} surface" for pattern in _PATTERNS)
"""Names of the textures, in words."""

PARTS = tuple(f"{pattern} part" for pattern in _PATTERNS)
"""Names of the parts that are cut from the textures, in words."""

EFFECTS = ("a foreign particle", "a stain", "a hole", "a smeared spot", "a displaced spot", "a rough spot")
"""What a defect does to the surface, in words."""

_VISIBLE = 10 / 255  # as in the demo renderer; on a restless surface it takes more to be seen


def random_texture(
    rng: np.random.Generator, damaged: Sequence[bool], size: int
) -> tuple[Tensor, Tensor, str, list[str]]:
    """Draw a random product.

    Args:
        rng: Decides everything.
        damaged: For each of the `N` images, whether it gets a defect.
        size: Side `S` of the images in pixels.

    Returns:
        Images `(N, 3, S, S)` uint8 of one product, each in its own pose and light; masks `(N, S, S)` bool, where a
        defect changed the image; the product's name; `N` kinds of defect, meaningless where the mask is empty.
    """
    count = len(damaged)
    pattern = str(rng.choice(_PATTERNS))
    x, y = _pose(rng, count, size)
    height, tone = _surface(rng, pattern, x, y)
    is_part = rng.random() < 0.5
    inside = _part(rng, x, y) if is_part else torch.ones_like(x)
    backdrop = torch.tensor(rng.uniform(0, 0.9, (3, 1, 1)), dtype=torch.float32)
    backdrop = backdrop + 0.02 * _normal(rng, count, 1, size, size)
    surface = _colour(rng, height, tone) * _shade(rng, height + 2 * inside)
    light = _light(rng, count, size)
    backdrop = backdrop * light
    image = (backdrop + (surface * light - backdrop) * inside[:, None]).clamp(0, 1)

    effects = EFFECTS if pattern in _ORDERLY else [e for e in EFFECTS if e != "a displaced spot"]  # nothing to displace
    effect = [str(rng.choice(effects)) for _ in range(count)]
    mask = torch.zeros(count, size, size, dtype=torch.bool)
    for n in (n for n, is_damaged in enumerate(damaged) if is_damaged):
        where = _site(rng, inside[n])
        strength = 1.0 if effect[n] == "a hole" else rng.uniform(0.5, 1)
        broken = _damaged(rng, image[n], backdrop[n].clamp(0, 1), effect[n])
        changed = (broken - image[n]).abs().amax(dim=0) * strength
        mask[n] = where & (changed > _VISIBLE + 0.5 * image[n].std(dim=(1, 2)).mean())
        image[n] = blend(image[n], broken, mask[n] * strength)
    return image.mul(255).round_().byte(), mask, (PARTS if is_part else FAMILIES)[_PATTERNS.index(pattern)], effect


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _each(rng: np.random.Generator, low: float, high: float, count: int) -> Tensor:
    """A random number for each image, `(N, 1, 1)`."""
    return torch.tensor(rng.uniform(low, high, (count, 1, 1)), dtype=torch.float32)


def _normal(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def _pose(rng: np.random.Generator, count: int, size: int) -> tuple[Tensor, Tensor]:
    """Product coordinates `(N, S, S)`; half of the products may lie at any angle."""
    reach = math.pi if rng.random() < 0.5 else 0.08
    turn = _each(rng, -reach, reach, count) + rng.uniform(-3.2, 3.2)
    zoom = _each(rng, 0.96, 1.04, count)
    x, y = axes(size)
    x, y = x - _each(rng, -0.06, 0.06, count), y - _each(rng, -0.06, 0.06, count)
    return (x * turn.cos() + y * turn.sin()) * zoom, (y * turn.cos() - x * turn.sin()) * zoom


def _noise(rng: np.random.Generator, count: int, size: int, least_stretch: float = 1.0) -> Tensor:
    """Noise `(N, S, S)` of unit variance with a random spectrum, coarse or fine, in half of the cases stretched."""
    fy = torch.fft.fftfreq(size, 1 / size)[:, None]
    fx = torch.fft.rfftfreq(size, 1 / size)
    turn, stretch = rng.uniform(0, math.pi), _log_uniform(rng, 1, 8) if rng.random() < 0.5 else 1.0
    along = fx * math.cos(turn) + fy * math.sin(turn)
    across = (fy * math.cos(turn) - fx * math.sin(turn)) * max(stretch, least_stretch)
    frequency = radius(along, across).clamp(min=0.5)
    centre, width = _log_uniform(rng, 1.5, size / 5), rng.uniform(0.25, 1)
    band = torch.exp(-((frequency / centre).log() / width).square() / 2)
    slope = frequency ** -rng.uniform(0.7, 2.2)
    share = rng.uniform(0, 1)
    amplitude = band / band.square().mean().sqrt() * share + slope / slope.square().mean().sqrt() * (1 - share)
    field = torch.fft.irfft2(torch.fft.rfft2(_normal(rng, count, size, size)) * amplitude, s=(size, size))
    return field / field.std(dim=(1, 2), keepdim=True).clamp(min=1e-4)


def _surface(rng: np.random.Generator, pattern: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Height and tone of the surface, each `(N, S, S)` of about unit variance."""
    count, size, _ = x.shape
    rough, fine = _noise(rng, count, size), _noise(rng, count, size)
    bent, pitch = rng.uniform(0, 0.04), _log_uniform(rng, 1.5, size / 20)
    u, v = (x + bent * rough) * pitch, (y + bent * fine) * pitch * _log_uniform(rng, 0.4, 1.2)
    height = tone = rough
    if pattern == "striped":
        height = ((2 * math.pi * u).sin() * rng.uniform(1, 4)).clamp(-1, 1)
    elif pattern == "chequered":
        height = ((2 * math.pi * u).sin() * (2 * math.pi * v).sin() * rng.uniform(1, 5)).clamp(-1, 1)
    elif pattern == "bricked":
        line = v.floor()
        u = u + rng.uniform(0, 0.5) * line
        edge = -box(fract(u) - 0.5, fract(v) - 0.5, 0.5, 0.5)
        height = (edge / rng.uniform(0.05, 0.15)).clamp(max=1) * 2 - 1
        tone = _hash(u.floor(), line + _each(rng, 0, 100, count)) * 3 - 1.5
    elif pattern == "pebbled":
        height, tone = _pebbles(rng, x, y)
    elif pattern == "fibrous":  # crests of stretched noise in some directions, each shown where it is the highest
        highest, strand = torch.stack([_noise(rng, count, size, least_stretch=4) for _ in range(4)]).max(dim=0)
        height, tone = highest - 1, strand - 1.5 + 0.3 * fine
    share = rng.uniform(0, 0.6)
    return height * (1 - share) + fine * share, tone * (1 - share) + fine * share


def _hash(column: Tensor, row: Tensor, factor: float = 1.0) -> Tensor:
    """A number in `[0, 1)` for each cell of a grid."""
    return fract(((column * 12.9898 + row * 78.233) * factor).sin() * 437.5453)


def _pebbles(rng: np.random.Generator, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Stones in mortar: height and tone of the cells around random points."""
    count, size, _ = x.shape
    pitch, start = _log_uniform(rng, 1.5, size / 12), _each(rng, 0, 100, count)
    u, v = x * pitch + start, y * pitch * _log_uniform(rng, 1, 2.5) + start
    nearest, second, shade = torch.full_like(u, 9.0), torch.full_like(u, 9.0), torch.zeros_like(u)
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            column, row = u.floor() + i, v.floor() + j
            across, along, hue = (_hash(column, row, factor) for factor in (1.0, 1.7, 2.3))
            distance = (column + across - u).square() + (row + along - v).square()
            shade = torch.where(distance < nearest, hue, shade)
            second = torch.minimum(second, torch.maximum(nearest, distance))
            nearest = torch.minimum(nearest, distance)
    return ((second.sqrt() - nearest.sqrt()) * 3).clamp(max=1) * 2 - 1, shade * 3 - 1.5


def _colour(rng: np.random.Generator, height: Tensor, tone: Tensor) -> Tensor:
    """Paint the surface with three colours, `(N, 3, S, S)`."""
    base, reach = rng.uniform(0.05, 0.95, 3), rng.uniform(0.05, 0.6)
    colours = [base, *(base + reach * rng.uniform(-1, 1, 3) for _ in range(2))]
    first, second, third = (torch.tensor(c, dtype=torch.float32).view(3, 1, 1) for c in colours)
    second_share = ((height - rng.uniform(-0.8, 0.8)) * _log_uniform(rng, 0.7, 8)).sigmoid()[:, None]
    third_share = (tone * rng.uniform(0, 0.4)).clamp(-0.5, 0.5)[:, None]
    return (first + (second - first) * second_share + (third - first) * third_share).clamp(0.02, 0.98)


def _shade(rng: np.random.Generator, height: Tensor) -> Tensor:
    """Light from one side on the relief, `(N, 1, S, S)` around 1."""
    angle = rng.uniform(0, 2 * math.pi) + _each(rng, -0.5, 0.5, len(height))
    dx, dy = F.pad(height.diff(dim=-1), (1, 0)), F.pad(height.diff(dim=-2), (0, 0, 1, 0))
    return (1 + (dx * angle.cos() + dy * angle.sin()) * rng.uniform(0, 0.35)).clamp(0.4, 1.7)[:, None]


def _light(rng: np.random.Generator, count: int, size: int) -> Tensor:
    """Uneven light, `(N, 1, S, S)` around 1."""
    x, y = axes(size)
    angle, tilt = _each(rng, 0, 2 * math.pi, count), _each(rng, 0, 0.12, count)
    return (_each(rng, 0.88, 1.12, count) * (1 + tilt * (x * angle.cos() + y * angle.sin())))[:, None]


def _part(rng: np.random.Generator, x: Tensor, y: Tensor) -> Tensor:
    """Coverage `(N, S, S)` of a part: a rounded outline, maybe long, with a bore or a ring of holes or neither."""
    y = y * (rng.uniform(1.5, 3.5) if rng.random() < 0.4 else rng.uniform(1, 1.3))
    r, theta = radius(x, y), torch.atan2(y, x)
    outline = torch.full_like(x, rng.uniform(0.55, 0.9))
    for _ in range(3):
        if rng.random() < 0.5:
            fold = int(rng.integers(1, 13))
            outline = outline + rng.uniform(0, 0.12) * (theta * fold + rng.uniform(0, 6.3)).cos()
    sdf = (torch.maximum(x.abs(), y.abs()) if rng.random() < 0.3 else r) - outline
    if rng.random() < 0.4:
        sdf = torch.maximum(sdf, rng.uniform(0.1, 0.45) - r)
    if rng.random() < 0.4:
        step, ring = 2 * math.pi / int(rng.integers(2, 9)), rng.uniform(0.3, 0.55)
        sector = (theta / step).round() * step
        sdf = torch.maximum(sdf, rng.uniform(0.05, 0.12) - radius(x - ring * sector.cos(), y - ring * sector.sin()))
    return coverage(sdf)


def _site(rng: np.random.Generator, inside: Tensor) -> Tensor:
    """Outline of a defect `(S, S)` bool: a blob or a thin curved line around a random pixel of the product."""
    size = len(inside)
    pixels = inside.flatten().nonzero()
    pixel = int(pixels[rng.integers(len(pixels))]) if len(pixels) else 0
    x, y = axes(size)
    x, y = x - x[0, pixel % size], y - y[pixel // size, 0]
    turn = rng.uniform(0, math.pi)
    x, y = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    rough = _noise(rng, 1, size)[0]
    if rng.random() < 0.35:
        curve = y + rng.uniform(-0.8, 0.8) * x.square() + 0.015 * rough
        return (x.abs() < _log_uniform(rng, 0.1, 0.7)) & (curve.abs() < _log_uniform(rng, 1.2, 6) / size)
    return radius(x, y * _log_uniform(rng, 1, 3)) < _log_uniform(rng, 5 / size, 0.3) * (1 + 0.25 * rough)


def _damaged(rng: np.random.Generator, clean: Tensor, backdrop: Tensor, effect: str) -> Tensor:
    """The image `(3, S, S)` as it is where it is damaged."""
    size = clean.shape[-1]
    flat = torch.tensor(rng.uniform(0, 1, (3, 1, 1)), dtype=torch.float32)
    if effect == "a stain":
        found = clean * _log_uniform(rng, 0.4, 1.6) * (0.8 + 0.4 * flat)
    elif effect == "a hole":
        found = backdrop * (0.2 + 0.8 * flat[:1])
    elif effect == "a smeared spot":
        found = F.avg_pool2d(clean, 11, 1, 5, count_include_pad=False)
    elif effect == "a displaced spot":
        found = torch.roll(clean, (size // 9, size // 5), dims=(1, 2))
    elif effect == "a rough spot":
        found = clean + 0.25 * _noise(rng, 1, size)
    else:
        found = flat * (1 + 0.15 * _noise(rng, 1, size))
    return found.clamp(0, 1)
