# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Random products in the manner of the demo's, each composed of an outline, a surface and elements that repeat.

A product is a category of its own: it gets the demo's poses, light and defects. The functions that draw the demo's own
categories are not used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anomalib_inctrl.demo.categories import Category
from anomalib_inctrl.demo.drawing import (
    CELL_EDGE,
    FBM,
    FINE,
    Scene,
    View,
    angle,
    blend,
    box,
    carve,
    common,
    coverage,
    fract,
    noise,
    radius,
    ramp,
    round_box,
    union,
    zigzag,
)

_TURN = 2 * math.pi
_NONE = -9.0  # size of a hole that is not there
Outline = Callable[[View], Tensor]
Surface = Callable[[View, float], tuple[Tensor, Tensor]]  # view and zoom to colour and height
_Elements = Callable[[View, Tensor], Tensor]  # view and number of the lost one to signed distance to the others
# Elements of one kind: how many, which function, whether holes, colour, how much of it shows, height.
_Array = tuple[int, _Elements, bool, tuple[float, float, float], float, float]


def random_product(rng: np.random.Generator) -> tuple[str, Category]:
    """Compose a product; gives its name in words and its category."""
    name = _pick(rng, *OUTLINES)
    outline = OUTLINES[name](rng)
    counts = _pick(rng, 0, 1, 2, 3, p=[0.1, 0.35, 0.35, 0.2])
    arrays, surface = [_array(rng) for _ in range(counts)], _surface(rng)
    return name, compose(rng, outline, surface, arrays, solid=name != "panel")


def compose(
    rng: np.random.Generator, outline: Outline, surface: Surface, arrays: Sequence[_Array] = (), *, solid: bool
) -> Category:
    """Choose view, finish and light of a product; only one that is `solid`, with edges, can have chips."""
    # Seen from nearer it turns about the middle of what is seen: what one image shows the others show as well.
    part = rng.random() < 0.4
    zoom = rng.uniform(0.5, 0.8) if part else rng.uniform(0.95, 1.1)
    cx, cy = rng.uniform(-0.5, 0.5, 2).tolist() if part else (0.0, 0.0)
    finish, backdrop = _finish(rng), random_colour(rng)
    light = {"bevel": rng.uniform(0.015, 0.08), "gloss": _pick(rng, 0.03, rng.uniform(0.05, 0.55))}
    speckle = rng.uniform(0.01, 0.06)

    def render(v: View) -> Scene:
        v = replace(v, x=v.x * zoom + cx, y=v.y * zoom + cy)
        sdf = outline(v)
        albedo, relief = finish(sdf, *surface(v, zoom))
        lost = v.omitted(sum(count for count, *_ in arrays))
        for count, elements_of, is_hole, colour, strength, height in arrays:
            elements = elements_of(v, lost)
            lost = lost - count
            if is_hole:
                sdf = carve(sdf, elements)
            else:
                albedo = blend(albedo, v.draw.colour(*colour), coverage(elements / zoom) * strength)
                relief = relief + ramp(elements, 0.0, -0.03) * height
        return v.scene(albedo, sdf / zoom, (*backdrop, speckle), relief=relief / zoom, **light)

    kinds: tuple[str, ...] = ("scratch", "crack", "stain", "colour", "contamination", "bent", "hole")
    kinds += (("chip",) if solid else ()) + (("missing",) if arrays and not part else ())
    turn = _pick(rng, 180.0, rng.uniform(4, 25), rng.uniform(1, 4), p=[0.4, 0.2, 0.4])
    return Category(render, kinds, turn, *rng.uniform(0.01, 0.05, 2).tolist())


def random_products(count: int = 300) -> dict[str, Category]:
    """The products `product-000`, `product-001`, ... that heads are trained on in the demonstration."""
    return {f"product-{n:03}": random_product(np.random.default_rng([20261128, n]))[1] for n in range(count)}


def _pick(rng: np.random.Generator, *options: Any, p: Sequence[float] | None = None) -> Any:
    return options[rng.choice(len(options), p=p)]


def random_colour(rng: np.random.Generator) -> tuple[float, float, float]:
    """A colour, more often a dull one, as things are."""
    grey, vivid = rng.uniform(0.08, 0.92), _pick(rng, 0.04, 0.35)
    red, green, blue = np.clip(grey + rng.uniform(-vivid, vivid, 3), 0.02, 0.95).tolist()
    return red, green, blue


# Outlines, signed distances in product coordinates.


def _round(rng: np.random.Generator) -> Outline:
    """A disc, a ring or a rosette, with a bore or without."""
    outer, flutes = rng.uniform(0.6, 0.85), int(rng.integers(3, 13))
    depth = _pick(rng, 0.0, rng.uniform(0.01, 0.1))
    inner = _pick(rng, _NONE, rng.uniform(0.08, 0.55)) * outer
    flatter = 0.85 if depth else 1.0
    return lambda v: common((v.r - outer + torch.cos(v.theta * flutes) * depth) * flatter, inner - v.r)


def _boxy(rng: np.random.Generator) -> Outline:
    """A plate, wide or square, its corners rounded or cut, its sides waved or notched."""
    wide, high = rng.uniform(0.6, 0.88), rng.uniform(0.25, 0.88)
    corner = rng.uniform(0.02, 0.2)
    wave, waves = _pick(rng, 0.0, 0.0, rng.uniform(0.01, 0.04)), rng.uniform(10, 40)
    notch_at, notch = rng.uniform(-0.5, 0.5) * wide, _pick(rng, _NONE, rng.uniform(0.04, 0.15))
    cut = _pick(rng, 9.0, rng.uniform(0.75, 0.95) * (wide + high))

    def outline(v: View) -> Tensor:
        plate = round_box(v.x, v.y, wide, high, corner) + torch.cos(v.x * waves) * torch.cos(v.y * waves) * wave
        plate = carve(plate, box(v.x - notch_at, v.y + high, notch, notch * 0.8))
        return common(plate, (v.x.abs() + v.y.abs() - cut) * 0.7)

    return outline


def _turned(rng: np.random.Generator) -> Outline:
    """A turned part from the side: its half width changes along its length, with grooves on a stretch of it."""
    stations = np.linspace(-0.85, 0.85, int(rng.integers(3, 7))).tolist()
    widths = rng.uniform(0.08, 0.45, len(stations)).tolist()
    pitch, deep = rng.uniform(6, 22), _pick(rng, 0.0, rng.uniform(0.015, 0.05))
    slant = _pick(rng, 0.0, rng.uniform(-1.5, 1.5))
    start, end = np.sort(rng.uniform(-0.8, 0.8, 2))
    steps = rng.random() < 0.4  # or cones

    def outline(v: View) -> Tensor:
        width = torch.full_like(v.x, widths[0])
        for (a, b), (low, high) in zip(pairwise(stations), pairwise(widths), strict=True):
            width = width + ramp(v.x, b - 0.04 if steps else a, b) * (high - low)
        tooth = zigzag(v.x * pitch + v.y * slant) * 2
        width = width + tooth * ramp(v.x, start, start + 0.03) * ramp(v.x, end, end - 0.03) * deep
        return common((v.y.abs() - width) * 0.8, v.x.abs() - 0.85)

    return outline


def _toothed(rng: np.random.Generator) -> Outline:
    """A wheel or a rack with teeth."""
    teeth, deep, steep = int(rng.integers(6, 30)), rng.uniform(0.03, 0.09), rng.uniform(0.8, 4)
    root, bore = rng.uniform(0.55, 0.78), _pick(rng, _NONE, rng.uniform(0.1, 0.45))
    straight = rng.random() < 0.3
    high = rng.uniform(0.25, 0.6)

    def outline(v: View) -> Tensor:
        wave = (torch.cos(v.x * (teeth * 1.8) if straight else v.theta * teeth) * steep).clamp(-1, 1) * deep
        if straight:
            return common((v.y.abs() - high - wave) * 0.75, v.x.abs() - 0.85)
        return common((v.r - root - wave) * 0.75, bore - v.r)

    return outline


def _jointed(rng: np.random.Generator) -> Outline:
    """Some discs and bars in one, mirrored or not, with a hole or two."""
    mirrored = rng.random() < 0.5
    pieces = [
        (rng.random() < 0.4, *rng.uniform(-0.45, 0.45, 2).tolist(), *rng.uniform(0.12, 0.42, 2).tolist())
        for _ in range(int(rng.integers(2, 5)))
    ]
    bar = rng.uniform(0.4, 0.85), rng.uniform(0.06, 0.25)
    holes = rng.uniform((-0.5, -0.5, 0.05), (0.5, 0.5, 0.14), (int(rng.integers(0, 3)), 3)).tolist()

    def outline(v: View) -> Tensor:
        x, y = v.x.abs() if mirrored else v.x, v.y
        sdf = round_box(x, y, *bar, 0.04)
        for is_disc, cx, cy, w, h in pieces:
            sdf = union(sdf, radius(x - cx, y - cy) - w if is_disc else round_box(x - cx, y - cy, w, h, 0.05))
        sdf = carve(sdf, *(radius(x - cx, y - cy) - reach for cx, cy, reach in holes))
        return common(sdf, box(x, y, 0.9, 0.9))

    return outline


def _panel(rng: np.random.Generator) -> Outline:
    """Fills the image, whole or laid of pieces with joints."""
    wide, high = rng.uniform(0.35, 1.2, 2)
    joint, shift = _pick(rng, _NONE, _NONE, rng.uniform(0.01, 0.05)), _pick(rng, 0.0, 0.5)

    def outline(v: View) -> Tensor:
        line = (v.y / high).floor()
        u = fract(v.x / wide + line * shift) - 0.5
        return round_box(u * wide, (v.y / high - line - 0.5) * high, wide / 2 - joint, high / 2 - joint, 0.03)

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


def _surface(rng: np.random.Generator) -> Surface:
    """One colour or two, with a grain that may be drawn out or go round, and perhaps a relief or a printed pattern."""
    first, second = random_colour(rng), random_colour(rng)
    grain, stretch, strong = _pick(rng, FBM, FINE), _pick(rng, 1.0, rng.uniform(3, 14)), rng.uniform(0.01, 0.08)
    goes_round = rng.random() < 0.15
    split = _pick(rng, "none", "none", "line", "disc", "stripes", "cells", "soft")
    at, pitch, share = rng.uniform(-0.3, 0.3), rng.uniform(3, 14), rng.uniform(0.25, 0.6)
    tilt = _pick(rng, 0.0, math.pi / 2, rng.uniform(0, math.pi))
    height = _pick(rng, 0.0, rng.uniform(-0.02, 0.02))

    def surface(v: View, zoom: float) -> tuple[Tensor, Tensor]:
        along, across = turned_axes(v, tilt)
        if goes_round:
            rough = noise(v.draw, grain, v.r, torch.zeros_like(v.r), 1.0)
        else:
            rough = v.noise(grain) if stretch == 1 else noise(v.draw, grain, along / stretch, across, 1.0)
        albedo = v.draw.colour(*first)
        part = {
            "none": lambda: torch.zeros_like(v.x),
            "line": lambda: coverage((along - at) / zoom),
            "disc": lambda: coverage(((v.r - 0.4 - at).abs() - 0.06 * (1 + pitch / 7)) / zoom),
            "stripes": lambda: coverage((zigzag(along * pitch / 2) - share / 2) / (zoom * pitch / 2)),
            "cells": lambda: ramp(noise(v.draw, CELL_EDGE, v.x, v.y, share * 2), 0.1, 0.3),
            "soft": lambda: (v.noise(FBM, 0.5) * 0.35 + 0.5).clamp(0, 1),
        }[split]()
        albedo = blend(albedo, v.draw.colour(*second), part)
        return albedo * (1 + rough * strong), part * height + rough * (0.02 * strong)

    return surface


def turned_axes(v: View, tilt: float) -> tuple[Tensor, Tensor]:
    """Coordinates along and across a direction."""
    cos, sin = math.cos(tilt), math.sin(tilt)
    return v.x * cos + v.y * sin, v.y * cos - v.x * sin


def _finish(rng: np.random.Generator) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """What follows the outline: a rim of another shade, a vault, a frame pressed in."""
    rim, shade = _pick(rng, 0.0, rng.uniform(0.05, 0.2)), rng.uniform(0.5, 1.3)
    vault = _pick(rng, 0.0, 0.0, rng.uniform(0.2, 0.7))
    frame, sunk = _pick(rng, 99.0, rng.uniform(0.06, 0.2)), rng.uniform(-0.03, 0.03)

    def finish(sdf: Tensor, albedo: Tensor, relief: Tensor) -> tuple[Tensor, Tensor]:
        if rim:
            albedo = albedo * (1 + ramp(sdf, -rim, -rim / 2) * (shade - 1))
        depth = (-sdf).clamp(0.0, 0.4)
        relief = relief + (depth * (0.8 - depth) + 1e-4).sqrt() * vault
        return albedo, relief + ramp(sdf, -frame, -frame - 0.03) * sunk

    return finish


# Elements that repeat, of which one may be missing.


def _array(rng: np.random.Generator) -> _Array:
    count, size, elements = _pick(rng, _ring, _lattice, _few, p=[0.3, 0.45, 0.25])(rng)
    effect = _pick(rng, "print", "stud", "well", "hole", p=[0.4, 0.25, 0.2, 0.15])
    height = {"print": 0.0, "stud": 1.0, "well": -1.0, "hole": 0.0}[effect] * rng.uniform(0.3, 0.6) * size
    strength = rng.uniform(0.5, 1.0) if effect == "print" else _pick(rng, 0.0, rng.uniform(0.3, 1.0))
    return count, elements, effect == "hole", random_colour(rng), strength, min(max(height, -0.04), 0.05)


def _element(rng: np.random.Generator, size: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The outline of one element, of about the radius `size`."""
    shapes: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "disc": lambda u, v: radius(u, v) - size,
        "bar": lambda u, v: box(u, v, size * slim, size),
        "plate": lambda u, v: round_box(u, v, size, size * (0.5 + slim), size * 0.2),
        "ring": lambda u, v: (radius(u, v) - size * 0.8).abs() - size * 0.2,
        "cross": lambda u, v: union(box(u, v, size, size * slim), box(u, v, size * slim, size)),
        "star": lambda u, v: (radius(u, v) - size * (0.7 + 0.3 * torch.cos(angle(u, v, radius(u, v)) * 5))) * 0.7,
        "wedge": lambda u, v: common(u.abs() * 0.87 + v * 0.5, -v) - size * 0.5,
    }
    kind, slim = _pick(rng, *shapes), rng.uniform(0.2, 0.5)
    return shapes[kind]


def _ring(rng: np.random.Generator) -> tuple[int, float, _Elements]:
    n, around = int(rng.integers(3, 15)), rng.uniform(0.25, 0.65)
    size = min(rng.uniform(0.03, 0.16), 0.8 * math.pi * around / n)
    shape, start = _element(rng, size), rng.uniform(0, 6.28)

    def elements(v: View, lost: Tensor) -> Tensor:
        sector = ((v.theta - start) * (n / _TURN)).round()
        turn = sector * (_TURN / n) + start
        cos, sin = torch.cos(turn), torch.sin(turn)
        found = shape(v.y * cos - v.x * sin, v.x * cos + v.y * sin - around)
        return found + (torch.remainder(sector, n) == lost)

    return n, size, elements


def _lattice(rng: np.random.Generator) -> tuple[int, float, _Elements]:
    columns = int(rng.integers(2, 9))
    rows = _pick(rng, 1, int(rng.integers(2, 6)), p=[0.45, 0.55])
    wide, high = rng.uniform(0.12, 0.3, 2)
    cx, cy = rng.uniform(-0.15, 0.15, 2) * (rng.random() < 0.5)
    size = min(rng.uniform(0.02, 0.14), 0.45 * min(wide, high))
    shape, quarter = _element(rng, size), rng.random() < 0.5

    def place(x: Tensor, pitch: float, count: int) -> tuple[Tensor, Tensor]:
        number = (x / pitch + (count - 1) / 2).round().clamp(0, count - 1)
        return number, x - (number - (count - 1) / 2) * pitch

    def elements(v: View, lost: Tensor) -> Tensor:
        x, y = (v.y, v.x) if quarter else (v.x, v.y)
        (column, x), (row, y) = place(x - cx, wide, columns), place(y - cy, high, rows)
        return shape(x, y) + (row * columns + column == lost)

    return columns * rows, size, elements


def _few(rng: np.random.Generator) -> tuple[int, float, _Elements]:
    n = int(rng.integers(1, 5))
    places = rng.uniform(-0.55, 0.55, (n, 2)).tolist()
    size = rng.uniform(0.05, 0.22)
    shape = _element(rng, size)

    def elements(v: View, lost: Tensor) -> Tensor:
        return union(*(shape(v.x - x, v.y - y) + (lost == i) for i, (x, y) in enumerate(places)))

    return n, size, elements
