# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The categories of the demo data: products, and materials that fill the image, each drawn by one small function.

A function draws in the coordinates of the product; pose and light come later.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from anomalib_inctrl.demo.drawing import (
    CELL_EDGE,
    CELL_ID,
    FBM,
    FINE,
    Scene,
    View,
    blend,
    box,
    carve,
    cells,
    common,
    coverage,
    fract,
    noise,
    radius,
    ramp,
    round_box,
    sample_plane,
    union,
    zigzag,
)

_TURN = 2 * math.pi


def washer(v: View) -> Scene:
    """A turned steel ring with four stamped marks."""
    outer, inner = v.draw.look(0.78, 0.62, 0.85), v.draw.look(0.34, 0.18, 0.42)
    middle = (outer + inner) / 2
    turned = noise(v.draw, FINE, v.r, torch.zeros_like(v.r), 1.0)
    albedo = v.draw.colour(0.60, 0.61, 0.64) * (1 + turned * v.draw.uniform(0.05, 0.08) + v.noise(FINE) * 0.02)
    marks = union(box(v.x.abs() - middle, v.y, 0.09, 0.022), box(v.x, v.y.abs() - middle, 0.022, 0.09))
    stamp = coverage(v.unless_omitted(marks, v.around(v.omitted(4) * (_TURN / 4), middle) - 0.2))
    outline = common(v.r - outer, inner - v.r)
    return v.scene(
        albedo * (1 - stamp * 0.45), outline, (0.17, 0.18, 0.21), relief=stamp * -0.01, bevel=0.05, gloss=0.25
    )


def gear(v: View) -> Scene:
    """A brass gear wheel with a keyed bore and six round windows."""
    teeth, root = v.draw.look(16, 10, 22).floor(), v.draw.look(0.70, 0.62, 0.74)
    wave = (torch.cos(v.theta * teeth) * 2.2).clamp(-1, 1)
    if v.omit is not None:
        turn = (v.omitted(1000) * (teeth / 1000)).floor() * (_TURN / teeth)
        wave = torch.where(v.around(turn, root + 0.07) < 1.8 * root / teeth * math.pi / 2, -1.0, wave)
    windows = v.around((v.theta * (6 / _TURN) + 0.5).floor() * (_TURN / 6), 0.43) - 0.115
    outline = carve((v.r - root - wave * 0.065) * 0.75, v.r - 0.17, box(v.x - 0.17, v.y, 0.06, 0.05), windows)
    albedo = v.draw.colour(0.72, 0.56, 0.26) * (1 + v.noise(FINE, 1.0, 6) * v.draw.uniform(0.04, 0.07))
    hub = coverage(v.r - 0.26) * 0.02 + ((v.r - 0.26).abs() * -30).clamp(-1, 0) * 0.012
    return v.scene(albedo, outline, (0.25, 0.27, 0.30), relief=hub, bevel=0.045, gloss=0.22)


def capsule(v: View) -> Scene:
    """A two-coloured gelatine capsule with three printed bars."""
    half = v.x > 0.03
    rad = v.draw.look(0.30, 0.24, 0.36) + half * 0.018
    across = radius((v.x.abs() - 0.42).clamp(min=0), v.y)
    dome = (rad * rad - across * across).clamp(min=0) + 0.004
    albedo = blend(v.draw.colour(0.75, 0.16, 0.13), v.draw.colour(0.90, 0.82, 0.62), half.float())
    phase = (v.x + 0.415) / 0.11
    bars = common(box(fract(phase) * 0.11 - 0.055, v.y, 0.025, 0.11), (v.x + 0.25).abs() - 0.165)
    ink = coverage(bars) * (phase.floor() != v.omitted(3))
    albedo = blend(albedo, v.draw.colour(0.93, 0.92, 0.90), ink * 0.9) * (1 + v.noise(FBM, 0.6) * 0.015)
    return v.scene(albedo, across - rad, (0.80, 0.81, 0.80, 0.015), relief=dome.sqrt() * 0.8, bevel=0.02, gloss=0.55)


def board(v: View) -> Scene:
    """A populated circuit board: two chips, two capacitors, a row of resistors, traces, mounting holes."""
    corner = radius(v.x.abs() - 0.76, v.y.abs() - 0.76)
    outline = carve(round_box(v.x, v.y, 0.88, 0.88, 0.06), corner - 0.055)
    green = v.draw.colour(0.08, 0.36, 0.20)
    lines = common(zigzag((v.x + v.y) * 7) / 10 - 0.016, box(v.x - 0.05, v.y - 0.06, 0.62, 0.50))
    rails = union((v.y + 0.68).abs() - 0.02, (v.x + 0.80).abs() - 0.02)
    traces = common(union(lines, rails), box(v.x, v.y, 0.82, 0.70))
    albedo = blend(green * (1 + v.noise(FBM, 0.8) * 0.03), green * 1.45 + 0.03, coverage(traces))

    parts: list[tuple[float | Tensor, Tensor, Tensor, Tensor, Tensor]] = []  # number, pads, dark, bright, relief
    for number, (cx, cy, w, h) in enumerate(((-0.38, -0.30, 0.25, 0.20), (0.38, 0.42, 0.19, 0.19))):  # chips
        x, y = v.x - cx, v.y - cy
        legs = common(zigzag(y / 0.08) * 0.08 - 0.02, box(x, y, w + 0.07, h), w - x.abs())
        case, dot = box(x, y, w, h), radius(x + w - 0.06, y + h - 0.06) - 0.025
        parts.append((number, legs, carve(case, dot), dot, ramp(case, 0.0, -0.03) * 0.035))
    for number, (cx, cy, rad) in enumerate(((0.48, -0.42, 0.20), (-0.58, 0.55, 0.15)), start=2):  # capacitors
        x, d = v.x - cx, radius(v.x - cx, v.y - cy)
        ring, stripe = (d - 0.07).abs() - 0.025, common(d - rad * 0.86, rad * 0.45 - x)
        parts.append((number, ring, stripe, carve(d - rad, stripe), ramp(d, rad, rad - 0.05) * 0.05))
    column, x = cells(v.x + 0.34, 0.26)  # resistors
    outside = (column < 0) | (column > 3)
    case, end = box(x, v.y - 0.70, 0.09, 0.055) + outside, 0.055 - x.abs()
    legs = box(x.abs() - 0.075, v.y - 0.70, 0.03, 0.055) + outside
    parts.append((column + 4, legs, carve(case, end), common(case, end), ramp(case, 0.0, -0.02) * 0.02))

    gone, pads = v.omitted(8), corner - 0.095
    dark, bright, relief = torch.zeros(3, *v.x.shape)
    for place, legs, dark_shape, bright_shape, height in parts:
        there = gone != place
        pads, relief = union(pads, legs), relief + height * there
        dark, bright = dark + coverage(dark_shape) * there, bright + coverage(bright_shape) * there
    albedo = blend(albedo, v.draw.colour(0.80, 0.66, 0.32), coverage(pads))
    albedo = blend(albedo, v.draw.colour(0.10, 0.10, 0.11), dark)
    albedo = blend(albedo, v.draw.colour(0.70, 0.71, 0.73), bright)
    return v.scene(albedo, outline, (0.72, 0.71, 0.68), relief=relief, bevel=0.02, gloss=0.10)


def screw(v: View) -> Scene:
    """A countersunk screw seen from the side."""
    threads, shank = v.draw.look(13, 10, 17), v.draw.look(0.13, 0.10, 0.16)
    tooth = zigzag(v.x * threads + v.y * 1.1) * 2
    cut = ramp(v.x, -0.42, -0.38) * ramp(v.x, 0.78, 0.50)
    if v.omit is not None:  # the thread is worn off over a short stretch
        cut = cut * (1 - ramp((v.x + 0.15 - v.omit * 0.5).abs(), 0.14, 0.10))
    width = (shank + tooth * cut * 0.05 + ramp(v.x, -0.50, -0.72) * 0.20) * ramp(v.x, 0.82, 0.58)
    outline = common((v.y.abs() - width) * 0.8, box(v.x - 0.03, v.y, 0.79, 0.5))
    dome = (1 - (v.y / width.clamp(min=0.02)).square()).clamp(min=0.02).sqrt() * width
    albedo = v.draw.colour(0.62, 0.60, 0.55) * (1 + v.noise(FINE, 1.0, 4) * 0.05) * (1 - cut * (1 - tooth) * 0.35)
    relief = dome * 0.7 + tooth * cut * 0.02
    return v.scene(albedo, outline, (0.86, 0.86, 0.84, 0.015), relief=relief, bevel=0.02, gloss=0.30)


def cap(v: View) -> Scene:
    """A crown cap from above: fluted rim, printed ring and star."""
    wave = torch.cos(v.theta * v.draw.look(21, 17, 27).floor())
    star = (v.r - 0.24 - torch.cos(v.theta * 5) * 0.11) * 0.6
    star = v.unless_omitted(star, v.around(v.omitted(5) * (_TURN / 5), 0.32) - 0.14)
    print_ = union(star, (v.r - 0.47).abs() - 0.035)
    albedo = blend(v.draw.colour(0.66, 0.10, 0.12), v.draw.colour(0.92, 0.80, 0.45), coverage(print_))
    albedo = albedo * (1 + v.noise(FINE) * 0.02)
    relief = wave * ramp(v.r, 0.60, 0.70) * 0.03 + ramp(v.r, 0.80, 0.56) * 0.09
    outline = (v.r - 0.76 - wave * 0.035) * 0.9
    return v.scene(albedo, outline, (0.60, 0.62, 0.64), relief=relief, bevel=0.04, gloss=0.30)


def connector(v: View) -> Scene:
    """A black two-row plug with gold pins and two mounting ears."""
    body = union(round_box(v.x, v.y, 0.72, 0.40, 0.05), round_box(v.x, v.y, 0.92, 0.16, 0.12))
    outline = carve(body, radius(v.x.abs() - 0.82, v.y) - 0.055, box(v.x, v.y + 0.40, 0.12, 0.06))
    cavity = round_box(v.x, v.y, 0.64, 0.31, 0.04)
    cell, x = cells(v.x, 0.15)
    pins, wells = (common(box(x, v.y.abs() - 0.14, w, h), v.x.abs() - 0.60) for w, h in ((0.034, 0.055), (0.052, 0.08)))
    column, row = v.omitted_cell(8, 2)
    here = (cell != column - 4) | ((v.y > 0) != row)
    albedo = v.draw.colour(0.19, 0.19, 0.21) * (1 + v.noise(FINE) * v.draw.uniform(0.06, 0.12))
    albedo = albedo * (1 - coverage(cavity) * 0.35 - coverage(wells) * 0.4)
    albedo = blend(albedo, v.draw.colour(0.88, 0.71, 0.32), coverage(pins) * here)
    relief = ramp(cavity, 0.0, -0.03) * -0.03 + ramp(pins, 0.0, -0.03) * here * 0.03
    return v.scene(albedo, outline, (0.64, 0.66, 0.68), relief=relief, bevel=0.03, gloss=0.10)


def key(v: View) -> Scene:
    """A flat cylinder-lock key."""
    cuts = ((0.02, 0.10), (0.18, 0.15), (0.34, 0.08), (0.50, 0.14), (0.64, 0.10))
    notch = common(torch.zeros_like(v.x), *(depth - (v.x - at).abs() * 1.1 for at, depth in cuts))
    if v.omit is not None:  # the tooth between two cuts is gone
        notch = common(notch, 0.17 - (v.x - 0.10 - v.omitted(4) * 0.155).abs() * 0.6)
    tip, teeth = (v.x - 0.80 + v.y.abs() * 0.9) * 0.7, (v.y - 0.15 + notch) * 0.7
    blade = common(box(v.x - 0.25, v.y - 0.01, 0.55, 0.14), tip, teeth)
    solid = union(radius(v.x + 0.52, v.y) - 0.34, blade, box(v.x + 0.20, v.y, 0.05, 0.22))
    outline = carve(solid, round_box(v.x + 0.66, v.y, 0.06, 0.13, 0.05))
    groove = coverage(common((v.y + 0.055).abs() - 0.022, (v.x - 0.30).abs() - 0.44))
    emblem = coverage((radius(v.x + 0.42, v.y) - 0.12).abs() - 0.018)
    albedo = v.draw.colour(0.70, 0.63, 0.45) * (1 + v.noise(FINE, 1.0, 8) * v.draw.uniform(0.05, 0.08))
    albedo, relief = albedo * (1 - groove * 0.3 - emblem * 0.25), (groove + emblem) * -0.015
    return v.scene(albedo, outline, (0.28, 0.22, 0.20), relief=relief, bevel=0.035, gloss=0.25)


def biscuit(v: View) -> Scene:
    """A square butter biscuit with a scalloped edge and docking holes."""
    k, pitch = math.pi * 7 / 0.68, 0.26
    outline = round_box(v.x, v.y, 0.70, 0.70, 0.10) + torch.cos(v.x * k) * torch.cos(v.y * k) * 0.03
    cx, cy = (v.x / pitch).round().clamp(-2, 2), (v.y / pitch).round().clamp(-2, 2)
    column, row = v.omitted_cell(5, 5)
    dots = radius(v.x - cx * pitch, v.y - cy * pitch) + ((cx + 2 == column) & (cy + 2 == row))
    frame = round_box(v.x, v.y, 0.60, 0.60, 0.06).abs()
    crumb, baked = v.noise(FBM, 1.0), v.noise(FINE)
    albedo = v.draw.colour(0.80, 0.60, 0.33, 0.04) * (1 + crumb * 0.03 + baked * 0.03)
    albedo = blend(albedo, v.draw.colour(0.55, 0.32, 0.13, 0.05), ramp(outline, -0.16, 0.0) * 0.7)
    albedo = albedo * (1 - ramp(dots, 0.045, 0.025) * 0.55)
    relief = ramp(dots, 0.06, 0.02) * -0.03 + ramp(frame, 0.035, 0.0) * -0.015 + crumb * 0.006 + baked * 0.002
    return v.scene(albedo, outline, (0.36, 0.42, 0.46), relief=relief, bevel=0.08, gloss=0.03)


def tile(v: View) -> Scene:
    """Four glazed tiles with a blue flower each, in grey grout."""
    x, y = v.x.abs() - 0.5, v.y.abs() - 0.5
    # further tiles beyond the four keep the image full when it is turned or shifted
    outline = union(round_box(x, y, 0.47, 0.47, 0.03), 1.03 - torch.maximum(v.x.abs(), v.y.abs()))
    r = radius(x, y) + 1e-6
    two = (x * x - y * y) / (r * r)
    flower = (r - 0.24 - (two * two * 2 - 1) * 0.13) * 0.7
    arm, side = v.omitted_cell(4, 4)
    ex, ey = (arm * 2 - 1) * (arm < 2), (arm * 2 - 5) * (arm >= 2)
    mine = (v.x > 0) + (v.y > 0) * 2 == side
    flower = torch.where(mine, carve(flower, radius(x - ex * 0.28, y - ey * 0.28) - 0.14), flower)
    figure = union(flower, (radius(x.abs() - 0.44, y.abs() - 0.44) - 0.15).abs() - 0.028)
    albedo = blend(v.draw.colour(0.86, 0.86, 0.82), v.draw.colour(0.14, 0.26, 0.58), coverage(figure))
    albedo = blend(albedo, v.draw.colour(0.85, 0.62, 0.16), coverage(r - 0.075))
    glaze = v.noise(FBM, 0.35)
    albedo = albedo * (1 + glaze * 0.02)
    return v.scene(albedo, outline, (0.52, 0.50, 0.47, 0.06), relief=glaze * 0.003, bevel=0.035, gloss=0.22)


def mesh(v: View) -> Scene:
    """A woven wire mesh over a dark ground."""
    pitch = v.draw.look(0.29, 0.22, 0.36)
    wire = pitch * v.draw.look(0.17, 0.13, 0.22)
    (cx, u), (cy, w) = cells(v.x / pitch + 100, 1), cells(v.y / pitch + 100, 1)
    dx, dy = u.abs() * pitch, w.abs() * pitch
    over = fract((cx + cy) / 2) * 4 - 1  # alternates between the wires
    if v.omit is not None:  # a wire segment between two crossings near the middle
        column, row = v.omitted_cell(3, 3)
        dx = dx + ((cx == 99 + column) & ((v.y / pitch + 1 - row).abs() < 0.5))
    hx = (1 - (dx / wire).square()).clamp(min=-1) + over * torch.cos(w * math.pi) * 0.4
    hy = (1 - (dy / wire).square()).clamp(min=-1) - over * torch.cos(u * math.pi) * 0.4
    relief = torch.maximum(hx, hy).clamp(-1, 2) * 0.03
    albedo = v.draw.colour(0.66, 0.67, 0.68) * (1 + v.noise(FINE) * 0.05)
    return v.scene(albedo, union(dx, dy) - wire, (0.13, 0.13, 0.15, 0.06), relief=relief, bevel=0.015, gloss=0.3)


def weave(v: View) -> Scene:
    """A plain-woven cloth of two yarns."""
    pitch = 2 / v.draw.look(15, 11, 20)
    w = v.y / pitch + 100
    (column, fu), (row, fw) = cells(v.x / pitch + 100, 1), cells(w, 1)
    over = fract((column + row) / 2) * 4 - 1
    warp = 1 - fu * fu * 3.4 + over * torch.cos(fw * math.pi) * 0.45
    weft = 1 - fw * fw * 3.4 - over * torch.cos(fu * math.pi) * 0.45
    if v.omit is not None:
        place = v.omitted(7)
        warp = warp - ((column == 97 + place) & ((w - 98 - place * 0.6).abs() < 2.6)) * 1.6
    fibre_x, fibre_y = v.noise(FINE, 1.0, 5), noise(v.draw, FINE, v.x, v.y / 5, 1.0)
    first = v.draw.colour(0.62, 0.56, 0.44) * (1 + fibre_x * 0.06)
    second = v.draw.colour(0.32, 0.38, 0.48) * (1 + fibre_y * 0.06)
    height = torch.maximum(warp, weft).clamp(min=-0.8)
    albedo = blend(first, second, ramp(warp - weft, -0.08, 0.08)) * (0.55 + 0.33 * height.clamp(max=1.4))
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
    ring = fract(v.y * 5 + v.noise(FBM, 0.45, 5) * 0.5)
    late = ring * ring * ramp(ring, 1.0, 0.88)
    pores = v.noise(FINE, 1.0, 14)
    albedo = blend(v.draw.colour(0.78, 0.59, 0.38, 0.03), v.draw.colour(0.52, 0.33, 0.17), late * 0.75)
    albedo = albedo * (1 + pores * v.draw.uniform(0.05, 0.08) + v.noise(FBM, 0.3) * 0.02)
    return v.scene(albedo, relief=pores * 0.0015, gloss=0.05)


def terrazzo(v: View) -> Scene:
    """Polished cement with stone chips of three colours."""
    # children with the same number give the same place of the atlas for both channels
    edge, number = (noise(v.draw.child(1), channel, v.x, v.y, 0.5) for channel in (CELL_EDGE, CELL_ID))
    chip = ramp(edge, 0.14 + (1 - number) * 0.1, 0.19 + (1 - number) * 0.1) * ramp(number, 0.30, 0.31)
    albedo = v.draw.colour(0.74, 0.72, 0.68) * (1 + v.noise(FINE) * 0.035 + v.noise(FBM, 0.5) * 0.02)
    stone = blend(v.draw.colour(0.34, 0.30, 0.30), v.draw.colour(0.62, 0.36, 0.26), ramp(number, 0.55, 0.56))
    stone = blend(stone, v.draw.colour(0.90, 0.88, 0.84), ramp(number, 0.76, 0.77))
    return v.scene(blend(albedo, stone * (1 + v.noise(FBM) * 0.05), chip), gloss=0.12)


# The families to confirm results on: drawn after every decision on method and defaults had been taken. Neither the
# demonstration encoder nor any heads were trained on them, and no choice was made by their figures.


def nut(v: View) -> Scene:
    """A hexagon nut with a threaded bore."""
    size, bore = v.draw.look(0.66, 0.55, 0.75), v.draw.look(0.34, 0.25, 0.40)
    hexagon = torch.maximum(v.y.abs(), v.x.abs() * math.cos(math.pi / 6) + v.y.abs() * 0.5) - size
    thread = (torch.cos(v.theta + v.r * 140) * 0.5 + 0.5) * ramp(v.r, bore + 0.09, bore + 0.05)
    albedo = v.draw.colour(0.66, 0.64, 0.60) * (1 + v.noise(FINE, 1.0, 4) * 0.05)
    albedo = albedo * (1 - thread * 0.4) * (1 - thread * 0.4)
    # A corner worn off is what can be missing.
    hexagon = v.unless_omitted(hexagon, v.around(v.omitted(6) * (_TURN / 6), size * 1.13) - 0.16)
    chamfer = ramp(v.r, size - 0.02, size + 0.14) * -0.03
    return v.scene(albedo, common(hexagon, bore - v.r), (0.30, 0.31, 0.30), relief=chamfer, bevel=0.04, gloss=0.3)


def blister(v: View) -> Scene:
    """A strip of foil with two rows of tablets."""
    (column, x), (row, y) = cells(v.x + 0.8, 0.4), cells(v.y + 0.5, 0.5)
    inside = (column >= 0) & (column < 4) & (row >= 0) & (row < 2)
    here = inside & (column + row * 4 != v.omitted(8))
    tablet = radius(x, y * 1.1) - v.draw.look(0.13, 0.10, 0.15)
    albedo, pill = v.matte(0.74, 0.75, 0.77), coverage(tablet) * here
    albedo = blend(albedo, v.draw.colour(0.90, 0.72, 0.62), pill)
    relief = (zigzag(v.x * 14) + zigzag(v.y * 14)) * 0.006 + ramp(tablet, 0.05, -0.02) * inside * 0.02
    score = ramp((x.abs() - 0.008).clamp(min=0), 0.01, 0.0) * pill * 0.012
    relief = relief + ((-tablet).clamp(0, 0.1) * here * 0.4 - score)
    outline = round_box(v.x, v.y, 0.88, 0.56, 0.08)
    return v.scene(albedo, outline, (0.22, 0.24, 0.28), relief=relief, bevel=0.02, gloss=0.35)


def comb(v: View) -> Scene:
    """A plastic comb."""
    teeth = v.draw.look(18, 14, 24).floor()
    phase = (v.x + 0.8) / 1.6 * teeth
    tooth = common(zigzag(phase) * (1.6 / teeth) - 0.4 / teeth, box(v.x, v.y - 0.15, 0.8, 0.45))
    if v.omit is not None:
        tooth = torch.where((phase.floor() - v.omitted(1000) * teeth / 1000).abs() < 1.0, 1.0, tooth)
    outline = union(round_box(v.x, v.y + 0.36, 0.86, 0.16, 0.08), tooth)
    albedo = v.draw.colour(0.55, 0.20, 0.24) * (1 + v.noise(FBM, 0.5) * 0.08)
    return v.scene(albedo, outline, (0.86, 0.85, 0.82), bevel=0.03, gloss=0.4)


def fan(v: View) -> Scene:
    """A fan wheel with curved blades in a ring."""
    blades = v.draw.look(7, 5, 10).floor()
    turned = v.theta + v.r * v.draw.look(1.2, 0.6, 1.8)
    wave = torch.cos(turned * blades)
    if v.omit is not None:
        lost = (v.omitted(1000) * blades / 1000).floor() * (_TURN / blades)
        wave = torch.where(torch.cos(turned - lost) > math.cos(math.pi / 10), -1.0, wave)
    blade = common((0.25 - wave) * 0.12, v.r - 0.70, 0.15 - v.r)
    outline = union(blade, v.r - 0.24, (v.r - 0.77).abs() - 0.06)
    albedo = blend(v.matte(0.20, 0.22, 0.26, 0.04), v.draw.colour(0.80, 0.78, 0.30), coverage(v.r - 0.14))
    pitch = torch.sin(turned * blades) * 0.03 * ramp(v.r - 0.24, 0.0, 0.05)
    return v.scene(albedo, outline, (0.62, 0.63, 0.66), relief=pitch, bevel=0.03, gloss=0.25)


def spring(v: View) -> Scene:
    """A coil spring from the side."""
    coils, height = v.draw.look(9, 7, 12), v.draw.look(0.34, 0.26, 0.42)
    phase = (v.x + 0.85) * coils / 1.7 * _TURN
    wire = 0.055 + 0.02 * (1 - (v.y / height).clamp(-1, 1).square())
    slope = (1 + (torch.sin(phase) * height * 2 * math.pi * coils / 1.7).square()).sqrt()
    coil = (v.y - torch.cos(phase) * height).abs() / slope - wire * 0.6
    coil = common(coil, box(v.x, v.y, 0.85, height + 0.06))
    if v.omit is not None:
        coil = common(coil, 0.12 - (v.x + 0.6 - v.omit * 1.2).abs())
    albedo = v.draw.colour(0.58, 0.60, 0.63) * (1 + v.noise(FINE, 1.0, 5) * 0.05)
    return v.scene(albedo, coil, (0.82, 0.80, 0.74), relief=-coil.clamp(-0.05, 0) * 0.6, bevel=0.03, gloss=0.4)


def label(v: View) -> Scene:
    """A paper label with a bar code, a bar of colour and lines of print."""
    widths = torch.sin(v.x * 61) + torch.sin(v.x * 97 + 1.3)
    code = common(-(widths * 0.01), box(v.x + 0.2, v.y - 0.22, 0.52, 0.26))
    line = common(zigzag(v.y * 9) / 9 - 0.022, box(v.x + 0.25, v.y + 0.18, 0.48, 0.10))
    word = common(line, zigzag(v.x * 5 + v.y.floor() * 0.3) / 5 - 0.075)
    mark = radius(v.x - 0.58, v.y - 0.22) - 0.16
    albedo, bar = v.matte(0.92, 0.91, 0.87, 0.015), box(v.x, v.y + 0.47, 0.86, 0.13)
    albedo = blend(albedo, v.draw.colour(0.12, 0.30, 0.58), coverage(bar))
    gone = v.omitted(3)
    ink = coverage(code) * (gone != 0) + coverage(word) * (gone != 1)
    albedo = blend(albedo, v.draw.colour(0.10, 0.10, 0.11), ink.clamp(0, 1) * 0.9)
    albedo = blend(albedo, v.draw.colour(0.80, 0.24, 0.16), coverage(mark) * (gone != 2))
    return v.scene(albedo, round_box(v.x, v.y, 0.86, 0.62, 0.05), (0.46, 0.40, 0.34), bevel=0.01, gloss=0.05)


def cork(v: View) -> Scene:
    """Pressed cork granulate."""
    edge, shade = noise(v.draw.child(1), CELL_EDGE, v.x, v.y, 1.1), noise(v.draw.child(1), FBM, v.x, v.y, 1.6)
    albedo = v.draw.colour(0.70, 0.52, 0.34) * (1 + shade * 0.10 + v.noise(FINE) * 0.05)
    albedo = albedo * (1 - ramp(edge, 0.10, 0.02) * 0.35)
    return v.scene(albedo, relief=ramp(edge, 0.0, 0.3) * 0.01, gloss=0.03)


def denim(v: View) -> Scene:
    """Blue twill with a seam of orange thread."""
    pitch = v.draw.look(26, 20, 32)
    rib = zigzag((v.x + v.noise(FBM, 0.6) * 0.006 + v.y * 0.5) * pitch) * 2
    albedo = blend(v.draw.colour(0.16, 0.23, 0.40), v.draw.colour(0.58, 0.64, 0.74), ramp(rib, 0.62, 0.95) * 0.7)
    albedo = albedo * (1 + v.noise(FINE) * 0.10)
    seam = (v.y - 0.42).abs()
    stitch = common((seam - 0.10).abs() - 0.016, zigzag(v.x * 7) / 7 - 0.05)
    if v.omit is not None:
        stitch = common(stitch, 0.16 - (v.x + 0.7 - v.omit * 1.4).abs())
    albedo = blend(albedo, v.draw.colour(0.80, 0.50, 0.18), coverage(stitch))
    relief = rib * 0.006 + ramp(seam, 0.26, 0.22) * 0.012 + coverage(stitch) * 0.01
    return v.scene(albedo, relief=relief, gloss=0.03)


@cache
def _photograph(name: str) -> Tensor:
    """Read a grey photograph `(512, 512)` from scikit-image's wheel, scaled to mean 0.5."""
    from skimage import data

    image = torch.from_numpy(getattr(data, name)().copy()).float() / 255
    return image + (0.5 - image.mean())


def _photographic(name: str, red: float, green: float, blue: float, field: float) -> Callable[[View], Scene]:
    """Make the function that draws windows, `field` of its side large, into a tinted photograph of scikit-image."""
    room = 1 - 1.2 * field  # how far the window may wander without leaving the photograph

    def render(v: View) -> Scene:
        x, y = (axis * field + v.draw.uniform(-room, room) for axis in (v.x, v.y))
        return v.scene(v.draw.colour(red, green, blue) * (sample_plane(_photograph(name), x, y) * 2), gloss=0.0)

    return render


@dataclass(frozen=True)
class Category:
    """A product or material.

    Attributes:
        render: Function that draws it.
        defects: Kinds of defect that it can have.
        turn: Largest rotation in degrees; 180 is any.
        shift: Largest displacement from the middle.
        zoom: Largest relative deviation in size.
    """

    render: Callable[[View], Scene]
    defects: tuple[str, ...]
    turn: float = 3.0
    shift: float = 0.03
    zoom: float = 0.03


_SOLID = ("scratch", "dent", "chip", "stain", "colour", "bent", "missing", "contamination")
_CLOTH = ("cut", "hole", "stain", "colour", "thread", "contamination")
_STONE = ("crack", "scratch", "hole", "stain", "colour", "contamination", "thread")
_LOOSE = ("hole", "cut", "stain", "colour", "thread", "contamination")
_PILL = ("scratch", "crack", "dent", "hole", "stain", "bent", "missing", "contamination")
_BAKED = ("crack", "chip", "hole", "stain", "colour", "missing", "contamination")
_WIRE = ("cut", "stain", "colour", "bent", "missing", "thread", "contamination")

REGISTRY: dict[str, Category] = {
    "biscuit": Category(biscuit, (*_BAKED, "thread"), turn=180),
    "blister": Category(blister, (*_PILL, "thread"), turn=4),
    "board": Category(board, (*_SOLID, "crack"), turn=2),
    "brick": Category(_photographic("brick", 0.60, 0.50, 0.45, 0.62), (*_STONE, "dent"), turn=2),
    "cap": Category(cap, (*_SOLID, "thread"), turn=180),
    "capsule": Category(capsule, _PILL, turn=8),
    "comb": Category(comb, (*_SOLID, "thread"), turn=6),
    "connector": Category(connector, (*_SOLID, "thread"), turn=3),
    "cork": Category(cork, (*_STONE, "cut"), turn=180),
    "denim": Category(denim, (*_CLOTH, "missing"), turn=4),
    "fan": Category(fan, (*_SOLID, "crack"), turn=180),
    "gear": Category(gear, (*_SOLID, "crack"), turn=180),
    "grass": Category(_photographic("grass", 0.42, 0.50, 0.30, 0.55), _LOOSE, turn=180),
    "gravel": Category(_photographic("gravel", 0.52, 0.50, 0.48, 0.55), (*_LOOSE, "crack"), turn=180),
    "key": Category(key, (*_SOLID, "crack"), turn=6),
    "label": Category(label, (*_SOLID[3:], "scratch", "cut"), turn=5),
    "leather": Category(leather, (*_CLOTH, "scratch", "dent"), turn=180),
    "mesh": Category(mesh, _WIRE, turn=4),
    "nut": Category(nut, (*_SOLID, "crack"), turn=180),
    "screw": Category(screw, _SOLID, turn=180),
    "spring": Category(spring, ("stain", "colour", "bent", "missing", "contamination", "thread"), turn=8),
    "terrazzo": Category(terrazzo, (*_STONE, "dent"), turn=180),
    "tile": Category(tile, (*_BAKED, "scratch"), turn=2),
    "washer": Category(washer, (*_SOLID, "crack"), turn=180),
    "weave": Category(weave, (*_CLOTH, "bent", "missing"), turn=4),
    "wood": Category(wood, (*_STONE, "dent", "cut"), turn=3),
}
"""All categories by name, sorted."""
