# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Random products without a name: textures and parts drawn from random numbers, several pictures of each.

They are there for variety: an encoder that has met thousands of kinds of surface compares surfaces by what they look
like, not by which of a few categories they belong to. Cheap on purpose: a handful of noise fields per picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

FAMILIES = (
    "grained surface",
    "striped surface",
    "chequered surface",
    "bricked surface",
    "pebbled surface",
    "fibrous surface",
)
"""Names of the textures, in words."""

PARTS = ("grained part", "striped part", "chequered part", "bricked part", "pebbled part", "fibrous part")
"""Names of the parts that are cut from the textures, in words."""

EFFECTS = ("a foreign particle", "a stain", "a hole", "a smeared spot", "a displaced spot", "a rough spot")
"""What a defect does to the surface, in words."""

_VISIBLE = 10 / 255  # as in the demo renderer; on a restless surface it takes more to be seen
_BACKGROUND = EFFECTS.index("a hole")
_DISPLACED = EFFECTS.index("a displaced spot")


class Pictures(NamedTuple):
    """Pictures of random products.

    Attributes:
        image: `(G, N, 3, S, S)` in `[0, 1]`; the pictures of a row show one product, each in its own pose and light.
        mask: `(G, N, S, S)` bool, where a defect changed the picture.
        name: What each row shows, in words.
        effect: `G` lists of `N` kinds of defect, in words; meaningless where the mask is empty.
    """

    image: Tensor
    mask: Tensor
    name: list[str]
    effect: list[list[str]]


@dataclass
class _Random:
    """Random numbers of the CPU, the same on every device, but for noise, of which there is much."""

    generator: torch.Generator
    device: torch.device

    def __post_init__(self) -> None:
        self.noise = generator_on(self.device, self.generator)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return (torch.rand(*shape, generator=self.generator) * (high - low) + low).to(self.device)

    def log_uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return self.uniform(math.log(low), math.log(high), *shape).exp()

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.noise, device=self.device)

    def integers(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=self.generator).to(self.device)

    def chance(self, probability: float, *shape: int) -> Tensor:
        return self.uniform(0, 1, *shape) < probability


def generator_on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """One that draws on a device, its seed drawn from another; that other itself on the CPU."""
    if device.type == "cpu":
        return generator
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=generator)))


def random_pictures(
    rows: int, damaged: list[bool], size: int, generator: torch.Generator, device: torch.device | str = "cpu"
) -> Pictures:
    """Draw random products.

    Args:
        rows: Number of products `G`.
        damaged: For each of the `N` pictures of a product, whether it gets a defect.
        size: Side `S` of the pictures in pixels.
        generator: Where the random numbers come from; on the CPU.
        device: Where to draw.

    Returns:
        The pictures.
    """
    r = _Random(generator, torch.device(device))
    count = len(damaged)
    x, y = _pose(r, rows, count, size)
    family = r.integers(len(FAMILIES), rows)
    height, tone = _surface(r, x, y, family)
    colour = _colour(r, height, tone)
    is_part = r.chance(0.5, rows)
    backdrop = r.uniform(0, 0.9, rows, 1, 3, 1, 1).expand_as(colour) + 0.02 * r.normal(rows, count, 1, size, size)
    inside = torch.where(is_part[:, None, None, None], _part(r, x, y), torch.ones_like(x))
    light = _light(r, rows, count, size)
    shade = _shade(r, height + 2 * inside, light.device)
    clean = ((backdrop + (colour * shade - backdrop) * inside[:, :, None]) * light).clamp(0, 1)

    effect = r.integers(len(EFFECTS), rows, count)
    # Where nothing has a place of its own, nothing can be out of place.
    orderly = ((family > 0) & (family < 4))[:, None]
    effect = torch.where(orderly | (effect != _DISPLACED), effect, torch.zeros_like(effect))
    where = _sites(r, inside, size) & torch.tensor(damaged, device=r.device)[None, :, None, None]
    other = _damage(r, clean, (backdrop * light).clamp(0, 1), effect)
    strength = r.uniform(0.5, 1, rows, count, 1, 1, 1)
    strength = torch.where((effect == _BACKGROUND)[:, :, None, None, None], torch.ones_like(strength), strength)
    broken = clean + (other - clean) * strength * where[:, :, None]
    level = _VISIBLE + 0.5 * clean.std(dim=(3, 4)).mean(dim=2)[:, :, None, None]
    mask = ((broken - clean).abs().amax(dim=2) > level) & where
    names = [(PARTS if part else FAMILIES)[kind] for kind, part in zip(family.tolist(), is_part.tolist(), strict=True)]
    return Pictures(
        torch.where(mask[:, :, None], broken, clean),
        mask,
        names,
        [[EFFECTS[e] for e in row] for row in effect.tolist()],
    )


def _axes(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    axis = (torch.arange(size, device=device) + 0.5) * (2 / size) - 1
    return axis[None, :].expand(size, size), axis[:, None].expand(size, size)


def _pose(r: _Random, rows: int, count: int, size: int) -> tuple[Tensor, Tensor]:
    """Product coordinates `(G, N, S, S)`; half of the products may lie at any angle."""
    free = r.chance(0.5, rows, 1)
    turn = r.uniform(-1, 1, rows, count) * torch.where(free, math.pi, 0.08) + r.uniform(-3.2, 3.2, rows, 1)
    turn, zoom = turn[..., None, None], 1 + r.uniform(-0.04, 0.04, rows, count, 1, 1)
    x, y = _axes(size, r.device)
    x, y = x - r.uniform(-0.06, 0.06, rows, count, 1, 1), y - r.uniform(-0.06, 0.06, rows, count, 1, 1)
    return (x * turn.cos() + y * turn.sin()) * zoom, (y * turn.cos() - x * turn.sin()) * zoom


def _noise(r: _Random, rows: int, count: int, size: int, least: float = 0.0) -> Tensor:
    """Noise `(G, N, S, S)` of unit variance; each row has its own spectrum, coarse to fine.

    Half of the rows are stretched, or all of them, at least `least` times.
    """
    fy = torch.fft.fftfreq(size, 1 / size, device=r.device)[:, None]
    fx = torch.fft.rfftfreq(size, 1 / size, device=r.device)[None, :]
    turn, stretch = r.uniform(0, math.pi, rows, 1, 1), r.log_uniform(1, 8, rows, 1, 1) ** r.chance(0.5, rows, 1, 1)
    stretch = stretch.clamp(min=least)
    along, across = fx * turn.cos() + fy * turn.sin(), (fy * turn.cos() - fx * turn.sin()) * stretch
    frequency = (along.square() + across.square()).sqrt().clamp(min=0.5)
    centre, width = r.log_uniform(1.5, size / 5, rows, 1, 1), r.uniform(0.25, 1, rows, 1, 1)
    band = torch.exp(-((frequency / centre).log() / width).square() / 2)
    slope = frequency ** -r.uniform(0.7, 2.2, rows, 1, 1)
    slope = slope / slope.square().mean(dim=(1, 2), keepdim=True).sqrt()
    band = band / band.square().mean(dim=(1, 2), keepdim=True).sqrt()
    share = r.uniform(0, 1, rows, 1, 1)
    amplitude = (band * share + slope * (1 - share))[:, None]
    field = torch.fft.irfft2(torch.fft.rfft2(r.normal(rows, count, size, size)) * amplitude, s=(size, size))
    return field / field.std(dim=(2, 3), keepdim=True).clamp(min=1e-4)


def _surface(r: _Random, x: Tensor, y: Tensor, family: Tensor) -> tuple[Tensor, Tensor]:
    """Height and tone of the surfaces, each `(G, N, S, S)` of about unit variance."""
    rows, count, size, _ = x.shape
    rough, fine = _noise(r, rows, count, size), _noise(r, rows, count, size)
    bent = r.uniform(0, 0.04, rows, 1, 1, 1)
    u, v = x + bent * rough, y + bent * fine
    pitch = r.log_uniform(1.5, size / 20, rows, 1, 1, 1)
    u, v = u * pitch, v * pitch * r.log_uniform(0.4, 1.2, rows, 1, 1, 1)
    stripes = (2 * math.pi * u).sin() * r.uniform(1, 4, rows, 1, 1, 1)
    checks = (2 * math.pi * u).sin() * (2 * math.pi * v).sin() * r.uniform(1, 5, rows, 1, 1, 1)
    line = v.floor()
    u = u + r.uniform(0, 0.5, rows, 1, 1, 1) * line
    edge = torch.minimum((u - u.floor() - 0.5).abs().neg() + 0.5, (v - v.floor() - 0.5).abs().neg() + 0.5)
    cell = (u.floor() * 12.9898 + line * 78.233 + r.uniform(0, 100, rows, count, 1, 1)).sin() * 437.5453
    bricks = (edge / r.uniform(0.05, 0.15, rows, 1, 1, 1)).clamp(max=1) * 2 - 1
    pebbles, stone = _pebbles(r, x, y, (family == 4).nonzero()[:, 0])
    fibres, strand = _fibres(r, rough, fine, (family == 5).nonzero()[:, 0])
    pattern = torch.stack([rough, stripes.clamp(-1, 1), checks.clamp(-1, 1), bricks, pebbles, fibres])
    pattern = pattern[family, torch.arange(rows, device=r.device)]
    toned = torch.stack([rough, rough, rough, (cell - cell.floor()) * 3 - 1.5, stone, strand])
    toned = toned[family, torch.arange(rows, device=r.device)]
    share = r.uniform(0, 0.6, rows, 1, 1, 1)
    return pattern * (1 - share) + fine * share, toned * (1 - share) + fine * share


def _pebbles(r: _Random, x: Tensor, y: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Domes around scattered points with a tone each, `(G, N, S, S)`; zero but for the rows `own`."""
    rows, count, size, _ = x.shape
    height, tone = torch.zeros_like(x), torch.zeros_like(x)
    pitch = r.log_uniform(1.5, size / 12, rows, 1, 1, 1)
    stretch, start = r.log_uniform(1, 2.5, rows, 1, 1, 1), r.uniform(0, 100, rows, count, 1, 1)
    if not len(own):
        return height, tone
    u, v = x[own] * pitch[own] + start[own], y[own] * (pitch * stretch)[own] + start[own]
    column, line = u.floor(), v.floor()
    nearest, second, shade = torch.full_like(u, 9.0), torch.full_like(u, 9.0), torch.zeros_like(u)
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            seed = (column + i) * 12.9898 + (line + j) * 78.233
            across, along, hue = ((seed * factor).sin() * 437.5453 for factor in (1.0, 1.7, 2.3))
            across, along, hue = across - across.floor(), along - along.floor(), hue - hue.floor()
            distance = (column + i + across - u).square() + (line + j + along - v).square()
            closer = distance < nearest
            second = torch.where(closer, nearest, torch.minimum(second, distance))
            shade = torch.where(closer, hue, shade)
            nearest = torch.minimum(nearest, distance)
    height[own] = ((second.sqrt() - nearest.sqrt()) * 3).clamp(max=1) * 2 - 1
    tone[own] = shade * 3 - 1.5
    return height, tone


def _fibres(r: _Random, rough: Tensor, fine: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Strands that lie across one another, `(G, N, S, S)`; zero but for the rows `own`.

    The strands are crests of stretched noise in some directions, each shown where it is the highest.
    """
    count, size = rough.shape[1:3]
    height, tone = torch.zeros_like(rough), torch.zeros_like(rough)
    if not len(own):
        return height, tone
    layers = torch.stack([_noise(r, len(own), count, size, least=4.0) for _ in range(4)])
    highest, which = layers.max(dim=0)
    height[own] = highest - 1
    tone[own] = which.float() - 1.5 + 0.3 * fine[own]
    return height, tone


def _colour(r: _Random, height: Tensor, tone: Tensor) -> Tensor:
    """Paint the surfaces with three colours each, `(G, N, 3, S, S)`."""
    rows = len(height)
    base = r.uniform(0.05, 0.95, rows, 1, 3, 1, 1)
    reach = r.uniform(0.05, 0.6, rows, 1, 1, 1, 1)
    second, third = (base + reach * r.uniform(-1, 1, rows, 1, 3, 1, 1) for _ in range(2))
    steep = r.log_uniform(0.7, 8, rows, 1, 1, 1)
    level = r.uniform(-0.8, 0.8, rows, 1, 1, 1)
    first_share = ((height - level) * steep).sigmoid()[:, :, None]
    second_share = (tone * r.uniform(0, 0.4, rows, 1, 1, 1)).clamp(-0.5, 0.5)[:, :, None]
    return (base + (second - base) * first_share + (third - base) * second_share).clamp(0.02, 0.98)


def _shade(r: _Random, height: Tensor, device: torch.device) -> Tensor:
    """Light from one side on the relief, `(G, N, 1, S, S)` around 1."""
    rows, count, _, _ = height.shape
    angle = r.uniform(0, 2 * math.pi, rows, 1) + r.uniform(-0.5, 0.5, rows, count)
    dx = torch.zeros_like(height, device=device)
    dy = torch.zeros_like(height, device=device)
    dx[..., 1:], dy[..., 1:, :] = height.diff(dim=-1), height.diff(dim=-2)
    slope = dx * angle.cos()[..., None, None] + dy * angle.sin()[..., None, None]
    return (1 + slope * r.uniform(0, 0.35, rows, 1, 1, 1)).clamp(0.4, 1.7)[:, :, None]


def _light(r: _Random, rows: int, count: int, size: int) -> Tensor:
    """Uneven light, `(G, N, 1, S, S)` around 1."""
    x, y = _axes(size, r.device)
    angle = r.uniform(0, 2 * math.pi, rows, count, 1, 1)
    tilt = r.uniform(0, 0.12, rows, count, 1, 1)
    return (r.uniform(0.88, 1.12, rows, count, 1, 1) * (1 + tilt * (x * angle.cos() + y * angle.sin())))[:, :, None]


def _part(r: _Random, x: Tensor, y: Tensor) -> Tensor:
    """Coverage `(G, N, S, S)` of parts: rounded outlines, some long, some with a bore or a ring of holes."""
    rows, size = len(x), x.shape[-1]
    long = torch.where(r.chance(0.4, rows), r.uniform(1.5, 3.5, rows), r.uniform(1, 1.3, rows))[:, None, None, None]
    y = y * long
    radius, theta = (x.square() + y.square()).sqrt(), torch.atan2(y, x)
    outline = r.uniform(0.55, 0.9, rows, 1, 1, 1) * torch.ones_like(x)
    for _ in range(3):
        fold = r.integers(12, rows, 1, 1, 1) + 1
        depth = r.uniform(0, 0.12, rows, 1, 1, 1) * r.chance(0.5, rows, 1, 1, 1)
        outline = outline + depth * (theta * fold + r.uniform(0, 6.3, rows, 1, 1, 1)).cos()
    boxy = torch.maximum(x.abs(), y.abs())
    reach = torch.where(r.chance(0.3, rows, 1, 1, 1), boxy, radius)
    distance = reach - outline
    bore = r.uniform(0.1, 0.45, rows, 1, 1, 1) * r.chance(0.4, rows, 1, 1, 1) - radius
    folds = (r.integers(7, rows, 1, 1, 1) + 2).float()
    sector = (theta * folds / (2 * math.pi)).round() * (2 * math.pi / folds)
    ring = r.uniform(0.3, 0.55, rows, 1, 1, 1)
    hole = ((x - ring * sector.cos()).square() + (y - ring * sector.sin()).square()).sqrt()
    hole = r.uniform(0.05, 0.12, rows, 1, 1, 1) * r.chance(0.4, rows, 1, 1, 1) - hole
    return (0.5 - torch.maximum(torch.maximum(distance, bore), hole) * (size / 2)).clamp(0, 1)


def _sites(r: _Random, inside: Tensor, size: int) -> Tensor:
    """Places and outlines of defects `(G, N, S, S)`: blobs and thin curved lines on the product."""
    rows, count = inside.shape[:2]
    # The place is a random pixel of the product.
    weight = inside.flatten(2) + 1e-6
    pick = (weight.cumsum(dim=2) / weight.sum(dim=2, keepdim=True) < r.uniform(0, 1, rows, count, 1)).sum(dim=2)
    pick = pick.clamp(max=size * size - 1)
    x, y = _axes(size, r.device)
    x = x - ((pick % size + 0.5) * (2 / size) - 1)[..., None, None]
    y = y - ((pick // size + 0.5) * (2 / size) - 1)[..., None, None]
    turn = r.uniform(0, math.pi, rows, count, 1, 1)
    x, y = x * turn.cos() + y * turn.sin(), y * turn.cos() - x * turn.sin()
    rough = _noise(r, rows, count, size)
    reach = r.log_uniform(5 / size, 0.3, rows, count, 1, 1)
    blob = (x.square() + (y * r.log_uniform(1, 3, rows, count, 1, 1)).square()).sqrt() < reach * (1 + 0.25 * rough)
    length, width = r.log_uniform(0.1, 0.7, rows, count, 1, 1), r.log_uniform(1.2, 6, rows, count, 1, 1) / size
    curve = y + r.uniform(-0.8, 0.8, rows, count, 1, 1) * x.square() + 0.015 * rough
    line = (x.abs() < length) & (curve.abs() < width)
    return torch.where(r.chance(0.35, rows, count, 1, 1), line, blob)


def _damage(r: _Random, clean: Tensor, backdrop: Tensor, effect: Tensor) -> Tensor:
    """What the pictures look like where they are damaged, `(G, N, 3, S, S)`."""
    rows, count, _, size, _ = clean.shape
    flat = r.uniform(0, 1, rows, count, 3, 1, 1)
    grain = 1 + 0.15 * _noise(r, rows, count, size)[:, :, None]
    stain = clean * r.log_uniform(0.4, 1.6, rows, count, 1, 1, 1) * (0.8 + 0.4 * flat)
    pixels = clean.flatten(0, 1)
    smeared = torch.nn.functional.avg_pool2d(pixels, 11, 1, 5, count_include_pad=False).view_as(clean)
    moved = torch.roll(clean, (size // 9, size // 5), dims=(3, 4))
    dark = backdrop * (0.2 + 0.8 * flat[:, :, :1])
    rough = clean + 0.25 * _noise(r, rows, count, size)[:, :, None]
    every = torch.stack([flat * grain, stain, dark, smeared, moved, rough])
    index = (torch.arange(rows, device=r.device)[:, None], torch.arange(count, device=r.device)[None])
    return every[effect, index[0], index[1]].clamp(0, 1)
