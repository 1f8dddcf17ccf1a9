# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Random products in the manner of the demo's, each composed of an outline, a surface and elements that repeat.

A product is a category of its own: it gets the demo's poses, light and defects. The functions that draw the demo's own
categories are not used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anomalib_inctrl.demo.categories import Category
from anomalib_inctrl.demo.drawing import (
    CELL_EDGE,
    CELL_ID,
    FBM,
    FINE,
    Scene,
    View,
    angle,
    blend,
    box,
    coverage,
    fract,
    noise,
    radius,
    ramp,
    round_box,
)

PATTERNS = ("grained", "striped", "chequered", "bricked", "pebbled", "fibrous")
_Shape = Callable[[Tensor, Tensor], Tensor]


def random_product(rng: np.random.Generator, pattern: str | None = None) -> tuple[str, Category]:
    """Compose a product, or with a pattern a texture or a part cut from one; gives its name in words and a category."""
    name = str(rng.choice(list(OUTLINES)))
    outline = OUTLINES[name](rng)
    if pattern is None:
        counts = int(rng.choice([0, 1, 2, 3], p=[0.1, 0.35, 0.35, 0.2]))
        arrays, surface = [_array(rng) for _ in range(counts)], _surface(rng)
    else:
        name = f"{pattern} surface" if name == "panel" or rng.random() < 0.4 else f"{pattern} part"
        outline = (lambda x, _: torch.full_like(x, -1.0)) if name.endswith("surface") else outline
        arrays, surface = [], _texture(rng, pattern)
    # Seen from nearer it turns about the middle of what is seen: what one image shows the others show as well.
    part = rng.random() < 0.4
    zoom = rng.uniform(0.5, 0.8) if part else rng.uniform(0.95, 1.1)
    middle = rng.uniform(-0.5, 0.5, 2) if part else np.zeros(2)
    finish, backdrop = _finish(rng), _colour(rng)
    light = {"bevel": rng.uniform(0.015, 0.08), "gloss": rng.choice([0.03, rng.uniform(0.05, 0.55)])}
    speckle = rng.uniform(0.01, 0.06)

    def render(v: View) -> Scene:
        v = replace(v, x=v.x * zoom + float(middle[0]), y=v.y * zoom + float(middle[1]))
        sdf = outline(v.x, v.y)
        albedo, relief = finish(sdf, *surface(v, zoom))
        lost = v.omitted(sum(count for count, *_ in arrays))
        for count, elements_of, is_hole, colour, strength, height in arrays:
            elements = elements_of(v, lost)
            lost = lost - count
            if is_hole:
                sdf = torch.maximum(sdf, -elements)
                continue
            albedo = blend(albedo, v.draw.colour(*colour), coverage(elements / zoom) * strength)
            relief = relief + ramp(elements, 0.0, -0.03) * height
        ground = v.matte(*backdrop, speckle)
        return v.scene(albedo, sdf / zoom, ground, relief=relief / zoom, **light)

    kinds: tuple[str, ...] = ("scratch", "crack", "stain", "colour", "contamination", "bent", "hole")
    kinds += (("chip",) if name.endswith("part") else ()) + (("missing",) if arrays and not part else ())
    turn = float(rng.choice([180.0, rng.uniform(4, 25), rng.uniform(1, 4)], p=[0.4, 0.2, 0.4]))
    return name, Category(render, kinds, turn, *rng.uniform(0.01, 0.05, 2).tolist())


def random_products(count: int = 300) -> dict[str, Category]:
    """The products `product-000`, `product-001`, ... that heads are trained on in the demonstration."""
    return {f"product-{n:03}": random_product(np.random.default_rng([20261128, n]))[1] for n in range(count)}


def _colour(rng: np.random.Generator) -> tuple[float, float, float]:
    """A colour, more often a dull one, as things are."""
    grey, vivid = rng.uniform(0.08, 0.92), rng.choice([0.04, 0.35])
    red, green, blue = np.clip(grey + rng.uniform(-vivid, vivid, 3), 0.02, 0.95).tolist()
    return red, green, blue


# Outlines, signed distances in product coordinates.


def _round(rng: np.random.Generator) -> _Shape:
    """A disc, a ring or a rosette, with a bore or without."""
    outer, flutes = rng.uniform(0.6, 0.85), int(rng.integers(3, 13))
    depth = rng.choice([0.0, rng.uniform(0.01, 0.1)])
    inner = rng.choice([0.0, rng.uniform(0.08, 0.55)]) * outer

    def outline(x: Tensor, y: Tensor) -> Tensor:
        r = radius(x, y)
        sdf = r - outer
        if depth:
            sdf = (sdf + torch.cos(angle(x, y, r) * flutes) * depth) * 0.85
        return torch.maximum(sdf, inner - r) if inner else sdf

    return outline


def _boxy(rng: np.random.Generator) -> _Shape:
    """A plate, wide or square, its corners rounded or cut, its sides waved or notched."""
    wide, high = rng.uniform(0.6, 0.88), rng.uniform(0.25, 0.88)
    corner = rng.uniform(0.02, 0.2)
    wave, waves = rng.choice([0.0, 0.0, rng.uniform(0.01, 0.04)]), rng.uniform(10, 40)
    notch_at, notch = rng.uniform(-0.5, 0.5) * wide, rng.choice([0.0, rng.uniform(0.04, 0.15)])
    cut = rng.choice([9.0, rng.uniform(0.75, 0.95) * (wide + high)])

    def outline(x: Tensor, y: Tensor) -> Tensor:
        sdf = round_box(x, y, wide, high, corner)
        if wave:
            sdf = sdf + torch.cos(x * waves) * torch.cos(y * waves) * wave
        if notch:
            sdf = torch.maximum(sdf, -box(x - notch_at, y + high, notch, notch * 0.8))
        return torch.maximum(sdf, (x.abs() + y.abs() - cut) * 0.7)

    return outline


def _turned(rng: np.random.Generator) -> _Shape:
    """A turned part from the side: its half width changes along its length, with grooves on a stretch of it."""
    stations = np.linspace(-0.85, 0.85, int(rng.integers(3, 7)))
    widths = rng.uniform(0.08, 0.45, len(stations))
    pitch, deep = rng.uniform(6, 22), rng.choice([0.0, rng.uniform(0.015, 0.05)])
    slant = rng.choice([0.0, rng.uniform(-1.5, 1.5)])
    start, end = np.sort(rng.uniform(-0.8, 0.8, 2))
    steps = rng.random() < 0.4  # or cones

    def outline(x: Tensor, y: Tensor) -> Tensor:
        width = torch.full_like(x, float(widths[0]))
        for (a, b), (low, high) in zip(pairwise(stations), pairwise(widths), strict=True):
            width = width + ramp(x, float(b - 0.04 if steps else a), float(b)) * float(high - low)
        if deep:
            tooth = (fract(x * pitch + y * slant) - 0.5).abs() * 2
            width = width + tooth * ramp(x, start, start + 0.03) * ramp(x, end, end - 0.03) * deep
        return torch.maximum((y.abs() - width) * 0.8, x.abs() - 0.85)

    return outline


def _toothed(rng: np.random.Generator) -> _Shape:
    """A wheel or a rack with teeth."""
    teeth, deep, steep = int(rng.integers(6, 30)), rng.uniform(0.03, 0.09), rng.uniform(0.8, 4)
    root, bore = rng.uniform(0.55, 0.78), rng.choice([0.0, rng.uniform(0.1, 0.45)])
    straight = rng.random() < 0.3
    high = rng.uniform(0.25, 0.6)

    def outline(x: Tensor, y: Tensor) -> Tensor:
        r = radius(x, y)
        phase = x * (teeth * 1.8) if straight else angle(x, y, r) * teeth
        wave = (torch.cos(phase) * steep).clamp(-1, 1) * deep
        if straight:
            return torch.maximum((y.abs() - high - wave) * 0.75, x.abs() - 0.85)
        sdf = (r - root - wave) * 0.75
        return torch.maximum(sdf, bore - r) if bore else sdf

    return outline


def _jointed(rng: np.random.Generator) -> _Shape:
    """Some discs and bars in one, mirrored or not, with a hole or two."""
    mirrored = rng.random() < 0.5
    pieces = [
        (rng.random() < 0.4, *rng.uniform(-0.45, 0.45, 2).tolist(), *rng.uniform(0.12, 0.42, 2).tolist())
        for _ in range(int(rng.integers(2, 5)))
    ]
    bar = rng.uniform(0.4, 0.85), rng.uniform(0.06, 0.25)
    holes = rng.uniform((-0.5, -0.5, 0.05), (0.5, 0.5, 0.14), (int(rng.integers(0, 3)), 3)).tolist()

    def outline(x: Tensor, y: Tensor) -> Tensor:
        if mirrored:
            x = x.abs()
        sdf = round_box(x, y, *bar, 0.04)
        for is_disc, cx, cy, w, h in pieces:
            piece = radius(x - cx, y - cy) - w if is_disc else round_box(x - cx, y - cy, w, h, 0.05)
            sdf = torch.minimum(sdf, piece)
        for cx, cy, reach in holes:
            sdf = torch.maximum(sdf, reach - radius(x - cx, y - cy))
        return torch.maximum(sdf, torch.maximum(x.abs(), y.abs()) - 0.9)

    return outline


def _panel(rng: np.random.Generator) -> _Shape:
    """Fills the image, whole or laid of pieces with joints."""
    wide, high = rng.uniform(0.35, 1.2, 2)
    joint, shift = rng.choice([0.0, 0.0, rng.uniform(0.01, 0.05)]), rng.choice([0.0, 0.5])

    def outline(x: Tensor, y: Tensor) -> Tensor:
        if not joint:
            return torch.full_like(x, -1.0)
        line = (y / high).floor()
        u = fract(x / wide + line * shift) - 0.5
        return round_box(u * wide, (y / high - line - 0.5) * high, wide / 2 - joint, high / 2 - joint, 0.03)

    return outline


OUTLINES = {
    "round part": _round,
    "boxy part": _boxy,
    "turned part": _turned,
    "toothed part": _toothed,
    "jointed part": _jointed,
    "panel": _panel,
}
"""Functions that choose an outline, by the name of the product in words."""


# Surfaces: colour and height before elements are put on.


def _surface(rng: np.random.Generator) -> Callable[[View, float], tuple[Tensor, Tensor]]:
    """One colour or two, with a grain that may be drawn out or go round, and perhaps a relief or a printed pattern."""
    first, second = _colour(rng), _colour(rng)
    grain, stretch, strong = rng.choice([FBM, FINE]), rng.choice([1.0, rng.uniform(3, 14)]), rng.uniform(0.01, 0.08)
    goes_round = rng.random() < 0.15
    split = str(rng.choice(["none", "none", "line", "disc", "stripes", "cells", "soft"]))
    at, pitch, share = rng.uniform(-0.3, 0.3), rng.uniform(3, 14), rng.uniform(0.25, 0.6)
    tilt = rng.choice([0.0, math.pi / 2, rng.uniform(0, math.pi)])
    cos, sin = math.cos(tilt), math.sin(tilt)
    height = rng.choice([0.0, rng.uniform(-0.02, 0.02)])

    def surface(v: View, zoom: float) -> tuple[Tensor, Tensor]:
        r = radius(v.x, v.y)
        along, across = v.x * cos + v.y * sin, v.y * cos - v.x * sin
        if goes_round:
            rough = noise(v.draw, int(grain), r, torch.zeros_like(r), 1.0)
        else:
            rough = v.noise(int(grain)) if stretch == 1 else noise(v.draw, int(grain), along / stretch, across, 1.0)
        albedo = v.draw.colour(*first)
        if split == "line":
            part = coverage((along - at) / zoom)
        elif split == "disc":
            part = coverage(((r - 0.4 - at).abs() - 0.06 * (1 + pitch / 7)) / zoom)
        elif split == "stripes":
            part = coverage(((fract(along * pitch / 2) - 0.5).abs() - share / 2) / (zoom * pitch / 2))
        elif split == "cells":
            part = ramp(noise(v.draw, CELL_EDGE, v.x, v.y, float(share) * 2), 0.1, 0.3)
        elif split == "soft":
            part = (v.noise(FBM, 0.5) * 0.35 + 0.5).clamp(0, 1)
        else:
            part = torch.zeros_like(r)
        albedo = blend(albedo, v.draw.colour(*second), part)
        return albedo * (1 + rough * strong), part * height + rough * (0.02 * strong)

    return surface


def _texture(rng: np.random.Generator, pattern: str) -> Callable[[View, float], tuple[Tensor, Tensor]]:
    """A pattern in three colours, each pattern in many sizes and contrasts."""
    colours = [torch.tensor(_colour(rng)).view(3, 1, 1) for _ in range(3)]
    pitch, squash, steep = float(np.exp(rng.uniform(0.4, 2.5))), rng.uniform(0.4, 1.2), rng.uniform(1, 5)
    coarse, bent, shift, share = rng.uniform(0.3, 2), rng.uniform(0, 0.04), rng.uniform(0, 0.5), rng.uniform(0, 0.6)
    level, sharp, third = rng.uniform(-0.8, 0.8), float(np.exp(rng.uniform(-0.4, 2.1))), rng.uniform(0, 0.4)
    deep = rng.uniform(0, 0.02)
    turns = [(math.cos(angle), math.sin(angle)) for angle in rng.uniform(0, math.pi, 4)]

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
            crests = [
                noise(v.draw, FINE, (v.x * cos + v.y * sin) / 6, v.y * cos - v.x * sin, coarse) for cos, sin in turns
            ]
            highest, strand = torch.stack(crests).max(dim=0)
            height, tone = highest - 1, strand - 1.5 + 0.3 * fine
        height, tone = height * (1 - share) + fine * share, tone * (1 - share) + fine * share
        albedo = blend(colours[0], colours[1], ((height - level) * sharp).sigmoid())
        albedo = albedo + (colours[2] - colours[0]) * (tone * third).clamp(-0.5, 0.5)
        return albedo.clamp(0.02, 0.98), height * deep

    return surface


def _finish(rng: np.random.Generator) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """What follows the outline: a rim of another shade, a vault, a frame pressed in."""
    rim, shade = rng.choice([0.0, rng.uniform(0.05, 0.2)]), rng.uniform(0.5, 1.3)
    vault = rng.choice([0.0, 0.0, rng.uniform(0.2, 0.7)])
    frame, sunk = rng.choice([0.0, rng.uniform(0.06, 0.2)]), rng.uniform(-0.03, 0.03)

    def finish(sdf: Tensor, albedo: Tensor, relief: Tensor) -> tuple[Tensor, Tensor]:
        if rim:
            albedo = albedo * (1 + ramp(sdf, -rim, -rim / 2) * (shade - 1))
        if vault:
            depth = (-sdf).clamp(0.0, 0.4)
            relief = relief + (depth * (0.8 - depth) + 1e-4).sqrt() * vault
        if frame:
            relief = relief + ramp(sdf, -frame, -frame - 0.03) * sunk
        return albedo, relief

    return finish


# Elements that repeat, of which one may be missing.


_Layout = tuple[int, float, Callable[[View, Tensor], Tensor]]
_Array = tuple[int, Callable[[View, Tensor], Tensor], bool, tuple[float, float, float], float, float]


def _array(rng: np.random.Generator) -> _Array:
    """Elements of one kind: how many, signed distance to the nearest but the lost one, whether holes, colour, height.

    Between colour and height stands how much of the colour shows.
    """
    layouts: Any = [_ring, _lattice, _few]
    count, size, sdf = rng.choice(layouts, p=[0.3, 0.45, 0.25])(rng)
    effect = str(rng.choice(["print", "stud", "well", "hole"], p=[0.4, 0.25, 0.2, 0.15]))
    height = {"print": 0.0, "stud": 1.0, "well": -1.0, "hole": 0.0}[effect] * rng.uniform(0.3, 0.6) * size
    strength = float(rng.uniform(0.5, 1.0)) if effect == "print" else float(rng.choice([0.0, rng.uniform(0.3, 1.0)]))
    return count, sdf, effect == "hole", _colour(rng), strength, float(np.clip(height, -0.04, 0.05))


def _element(rng: np.random.Generator, size: float) -> _Shape:
    """The outline of one element, of about the radius `size`."""
    kind = str(rng.choice(["disc", "bar", "plate", "ring", "cross", "star", "wedge"]))
    slim = float(rng.uniform(0.2, 0.5))

    def star(u: Tensor, v: Tensor) -> Tensor:
        r = radius(u, v)
        return (r - size * (0.7 + 0.3 * torch.cos(angle(u, v, r) * 5))) * 0.7

    shapes: dict[str, _Shape] = {
        "disc": lambda u, v: radius(u, v) - size,
        "bar": lambda u, v: box(u, v, size * slim, size),
        "plate": lambda u, v: round_box(u, v, size, size * (0.5 + slim), size * 0.2),
        "ring": lambda u, v: (radius(u, v) - size * 0.8).abs() - size * 0.2,
        "cross": lambda u, v: torch.minimum(box(u, v, size, size * slim), box(u, v, size * slim, size)),
        "star": star,
        "wedge": lambda u, v: torch.maximum(u.abs() * 0.87 + v * 0.5, -v) - size * 0.5,
    }
    return shapes[kind]


def _ring(rng: np.random.Generator) -> _Layout:
    n, around = int(rng.integers(3, 15)), rng.uniform(0.25, 0.65)
    size = float(min(rng.uniform(0.03, 0.16), 0.8 * math.pi * around / n))
    shape, start = _element(rng, size), rng.uniform(0, 6.28)

    def sdf(v: View, lost: Tensor) -> Tensor:
        theta = angle(v.x, v.y, radius(v.x, v.y)) - start
        sector = (theta * (n / (2 * math.pi))).round()
        turn = sector * (2 * math.pi / n) + start
        cos, sin = torch.cos(turn), torch.sin(turn)
        found = shape(v.y * cos - v.x * sin, v.x * cos + v.y * sin - around)
        return torch.where(torch.remainder(sector, n) == lost, found + 1, found)

    return n, size, sdf


def _lattice(rng: np.random.Generator) -> _Layout:
    columns = int(rng.integers(2, 9))
    row_counts: Any = [1, rng.integers(2, 6)]
    rows = int(rng.choice(row_counts, p=[0.45, 0.55]))
    wide, high = rng.uniform(0.12, 0.3, 2)
    cx, cy = rng.uniform(-0.15, 0.15, 2) * (rng.random() < 0.5)
    size = float(min(rng.uniform(0.02, 0.14), 0.45 * min(wide, high)))
    shape, quarter = _element(rng, size), rng.random() < 0.5

    def sdf(v: View, lost: Tensor) -> Tensor:
        x, y = (v.y, v.x) if quarter else (v.x, v.y)
        x, y = x - cx, y - cy
        column = (x / wide + (columns - 1) / 2).round().clamp(0, columns - 1)
        row = (y / high + (rows - 1) / 2).round().clamp(0, rows - 1)
        found = shape(x - (column - (columns - 1) / 2) * wide, y - (row - (rows - 1) / 2) * high)
        return torch.where(row * columns + column == lost, found + 1, found)

    return columns * rows, size, sdf


def _few(rng: np.random.Generator) -> _Layout:
    n = int(rng.integers(1, 5))
    places = rng.uniform(-0.55, 0.55, (n, 2))
    size = float(rng.uniform(0.05, 0.22))
    shape = _element(rng, size)

    def sdf(v: View, lost: Tensor) -> Tensor:
        each = [shape(v.x - float(x), v.y - float(y)) for x, y in places]
        return reduce(torch.minimum, [torch.where(lost == i, found + 1, found) for i, found in enumerate(each)])

    return n, size, sdf
