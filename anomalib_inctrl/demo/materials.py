# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The materials of the demo data, which fill the image, each drawn by one small function."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from anomalib_inctrl.demo.drawing import (
    CELL_EDGE,
    CELL_ID,
    FBM,
    FINE,
    blend,
    coverage,
    fract,
    noise,
    radius,
    ramp,
    round_box,
    sample_plane,
)
from anomalib_inctrl.demo.scene import Scene, View


def tile(v: View) -> Scene:
    """Four glazed tiles with a blue flower each, in grey grout."""
    right, low = (v.x > 0).float(), (v.y > 0).float()
    x, y = v.x.abs() - 0.5, v.y.abs() - 0.5
    outline = round_box(x, y, 0.47, 0.47, 0.03)
    # further tiles beyond the four keep the image full when it is turned or shifted
    outline = torch.minimum(outline, 1.03 - torch.maximum(v.x.abs(), v.y.abs()))
    r = radius(x, y) + 1e-6
    two = (x * x - y * y) / (r * r)
    four = two * two * 2 - 1
    flower = (r - 0.24 - four * 0.13) * 0.7
    petal = v.omitted(16)
    side, arm = (petal / 4).floor(), petal - (petal / 4).floor() * 4
    mine = right + low * 2 == side
    ex = torch.where(arm < 2, arm * 2 - 1, torch.zeros_like(arm))
    ey = torch.where(arm < 2, torch.zeros_like(arm), arm * 2 - 5)
    lost = radius(x - ex * 0.28, y - ey * 0.28) - 0.14
    flower = torch.where(mine, torch.maximum(flower, -lost), flower)
    corner = radius(x.abs() - 0.44, y.abs() - 0.44)
    figure = torch.minimum(flower, (corner - 0.15).abs() - 0.028)
    albedo = v.draw.colour(0.86, 0.86, 0.82)
    albedo = blend(albedo, v.draw.colour(0.14, 0.26, 0.58), coverage(figure))
    albedo = blend(albedo, v.draw.colour(0.85, 0.62, 0.16), coverage(r - 0.075))
    glaze = v.noise(FBM, 0.35)
    albedo = albedo * (1 + glaze * 0.02)
    return v.scene(albedo, outline, v.matte(0.52, 0.50, 0.47, 0.06), relief=glaze * 0.003, bevel=0.035, gloss=0.22)


def mesh(v: View) -> Scene:
    """A woven wire mesh over a dark ground."""
    pitch = v.draw.look(0.29, 0.22, 0.36)
    wire = pitch * v.draw.look(0.17, 0.13, 0.22)
    ux, uy = v.x / pitch + 100, v.y / pitch + 100
    cx, cy = ux.floor(), uy.floor()
    dx, dy = (ux - cx - 0.5).abs() * pitch, (uy - cy - 0.5).abs() * pitch
    over = fract((cx + cy) / 2) * 4 - 1  # alternates between the wires
    # a wire segment between two crossings near the middle is left out
    if v.omit is not None:
        place = v.omitted(9)
        row = (place / 3).floor()
        lost = (cx == 99 + place - row * 3) & ((uy - 99 - row).abs() < 0.5)
        dx = torch.where(lost, dx + 1, dx)
    bow_x, bow_y = 1 - (dx / wire).square(), 1 - (dy / wire).square()
    hx = bow_x.clamp(min=-1) + over * torch.cos((uy - cy - 0.5) * math.pi) * 0.4
    hy = bow_y.clamp(min=-1) - over * torch.cos((ux - cx - 0.5) * math.pi) * 0.4
    outline = torch.minimum(dx, dy) - wire
    relief = torch.maximum(hx, hy).clamp(-1, 2) * 0.03
    albedo = v.draw.colour(0.66, 0.67, 0.68) * (1 + v.noise(FINE) * 0.05)
    return v.scene(albedo, outline, v.matte(0.13, 0.13, 0.15, 0.06), relief=relief, bevel=0.015, gloss=0.3)


def weave(v: View) -> Scene:
    """A plain-woven cloth of two yarns."""
    pitch = 2 / v.draw.look(15, 11, 20)
    u, w = v.x / pitch + 100, v.y / pitch + 100
    cu, cw = u.floor(), w.floor()
    fu, fw = u - cu - 0.5, w - cw - 0.5
    over = fract((cu + cw) / 2) * 4 - 1
    warp = 1 - fu * fu * 3.4 + over * torch.cos(fw * math.pi) * 0.45
    weft = 1 - fw * fw * 3.4 - over * torch.cos(fu * math.pi) * 0.45
    if v.omit is not None:
        place = v.omitted(7)
        lost = (cu == 97 + place) & ((w - 98 - place * 0.6).abs() < 2.6)
        warp = torch.where(lost, warp - 1.6, warp)
    fibre_x, fibre_y = v.noise(FINE, 1.0, 5), noise(v.draw, FINE, v.x, v.y / 5, 1.0)
    top = ramp(warp - weft, -0.08, 0.08)
    yarn = blend(
        v.draw.colour(0.62, 0.56, 0.44) * (1 + fibre_x * 0.06),
        v.draw.colour(0.32, 0.38, 0.48) * (1 + fibre_y * 0.06),
        top,
    )
    height = torch.maximum(warp, weft).clamp(min=-0.8)
    albedo = yarn * (0.55 + 0.33 * height.clamp(max=1.4))
    return v.scene(albedo, relief=height * pitch * 0.22, gloss=0.03)


def leather(v: View) -> Scene:
    """Grained brown leather."""
    warp_x, warp_y = v.x + v.noise(FBM, 0.6) * 0.012, v.y + v.noise(FBM, 0.6) * 0.012
    creases = noise(v.draw, CELL_EDGE, warp_x, warp_y, 1.0)
    soft, fine = v.noise(FBM, 0.5), v.noise(FINE)
    pebble = ramp(creases, -0.05, 0.45 + soft * 0.08)
    albedo = v.draw.colour(0.46, 0.27, 0.16) * (0.78 + pebble * 0.22 + soft * 0.03 + fine * 0.03)
    return v.scene(albedo, relief=pebble * (2 - pebble) * 0.007 + fine * 0.0012, gloss=0.10)


def wood(v: View) -> Scene:
    """Planed softwood, grain running from left to right."""
    flow = v.y * 5 + v.noise(FBM, 0.45, 5) * 0.5
    ring = fract(flow)
    late = ring * ring * ramp(ring, 1.0, 0.88)
    pores = v.noise(FINE, 1.0, 14)
    albedo = blend(v.draw.colour(0.78, 0.59, 0.38, 0.03), v.draw.colour(0.52, 0.33, 0.17), late * 0.75)
    albedo = albedo * (1 + pores * v.draw.uniform(0.05, 0.08) + v.noise(FBM, 0.3) * 0.02)
    return v.scene(albedo, relief=pores * 0.0015, gloss=0.05)


def terrazzo(v: View) -> Scene:
    """Polished cement with stone chips of three colours."""
    state = v.draw.child(1), v.draw.child(1)  # the same place of the atlas for both channels
    edge, number = noise(state[0], CELL_EDGE, v.x, v.y, 0.5), noise(state[1], CELL_ID, v.x, v.y, 0.5)
    chip = ramp(edge, 0.14 + (1 - number) * 0.1, 0.19 + (1 - number) * 0.1) * ramp(number, 0.30, 0.31)
    albedo = v.draw.colour(0.74, 0.72, 0.68) * (1 + v.noise(FINE) * 0.035 + v.noise(FBM, 0.5) * 0.02)
    stone = blend(v.draw.colour(0.34, 0.30, 0.30), v.draw.colour(0.62, 0.36, 0.26), ramp(number, 0.55, 0.56))
    stone = blend(stone, v.draw.colour(0.90, 0.88, 0.84), ramp(number, 0.76, 0.77))
    albedo = blend(albedo, stone * (1 + v.noise(FBM) * 0.05), chip)
    return v.scene(albedo, gloss=0.12)


@cache
def _photograph(name: str) -> Tensor:
    """Read a grey photograph `(512, 512)` from scikit-image's wheel, scaled to mean 0.5."""
    from skimage import data

    image = torch.from_numpy(getattr(data, name)().copy()).float() / 255
    return image + (0.5 - image.mean())


def photographic(name: str, red: float, green: float, blue: float, field: float) -> Callable[[View], Scene]:
    """Make the function that draws windows into a photograph of scikit-image.

    Args:
        name: Name of the photograph.
        red: Red of its tint in [0, 1].
        green: Green.
        blue: Blue.
        field: Side of a window over that of the photograph.

    Returns:
        The function.
    """

    def render(v: View) -> Scene:
        room = 1 - 1.2 * field  # how far the window may wander without leaving the photograph
        x = v.x * field + v.draw.uniform(-room, room)
        y = v.y * field + v.draw.uniform(-room, room)
        grey = sample_plane(_photograph(name), x, y)
        return v.scene(v.draw.colour(red, green, blue) * (grey * 2), gloss=0.0)

    return render
