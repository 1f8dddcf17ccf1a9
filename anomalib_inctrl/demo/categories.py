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
    angle,
    blend,
    box,
    coverage,
    fract,
    noise,
    radius,
    ramp,
    round_box,
    sample_plane,
)
from anomalib_inctrl.demo.families import blister, comb, cork, denim, fan, label, nut, spring


def washer(v: View) -> Scene:
    """A turned steel ring with four stamped marks."""
    r = radius(v.x, v.y)
    outer, inner = v.draw.look(0.78, 0.62, 0.85), v.draw.look(0.34, 0.18, 0.42)
    middle = (outer + inner) / 2
    outline = torch.maximum(r - outer, inner - r)
    turned = noise(v.draw, FINE, r, torch.zeros_like(r), 1.0)
    albedo = v.draw.colour(0.60, 0.61, 0.64) * (1 + turned * v.draw.uniform(0.05, 0.08) + v.noise(FINE) * 0.02)
    marks = torch.minimum(box(v.x.abs() - middle, v.y, 0.09, 0.022), box(v.x, v.y.abs() - middle, 0.022, 0.09))
    quarter = v.omitted(4) * (math.pi / 2)
    stamp = coverage(v.without(marks, torch.cos(quarter) * middle, torch.sin(quarter) * middle, 0.2))
    albedo = albedo * (1 - stamp * 0.45)
    return v.scene(albedo, outline, v.matte(0.17, 0.18, 0.21), relief=stamp * -0.01, bevel=0.05, gloss=0.25)


def gear(v: View) -> Scene:
    """A brass gear wheel with a keyed bore and six round windows."""
    r = radius(v.x, v.y)
    teeth = v.draw.look(16, 10, 22).floor()
    theta = angle(v.x, v.y, r)
    root = v.draw.look(0.70, 0.62, 0.74)
    wave = (torch.cos(theta * teeth) * 2.2).clamp(-1, 1)
    if v.omit is not None:
        turn = (v.omitted(1000) * (teeth / 1000)).floor() * (2 * math.pi / teeth)
        gone = radius(v.x - torch.cos(turn) * (root + 0.07), v.y - torch.sin(turn) * (root + 0.07))
        wave = torch.where(gone < 1.8 * root / teeth * math.pi / 2, -1.0, wave)
    body = (r - root - wave * 0.065) * 0.75
    bore = torch.minimum(r - 0.17, box(v.x - 0.17, v.y, 0.06, 0.05))
    sector = (theta * (6 / (2 * math.pi)) + 0.5).floor() * (2 * math.pi / 6)
    windows = radius(v.x - torch.cos(sector) * 0.43, v.y - torch.sin(sector) * 0.43) - 0.115
    outline = torch.maximum(body, -torch.minimum(bore, windows))
    hub = coverage(r - 0.26)
    albedo = v.draw.colour(0.72, 0.56, 0.26) * (1 + v.noise(FINE, 1.0, 6) * v.draw.uniform(0.04, 0.07))
    ring = ((r - 0.26).abs() * -30).clamp(-1, 0) * 0.012
    return v.scene(albedo, outline, v.matte(0.25, 0.27, 0.30), relief=hub * 0.02 + ring, bevel=0.045, gloss=0.22)


def capsule(v: View) -> Scene:
    """A two-coloured gelatine capsule with three printed bars."""
    rad = v.draw.look(0.30, 0.24, 0.36)
    half = v.x > 0.03
    rad = rad + half * 0.018
    along = (v.x.abs() - 0.42).clamp(min=0) * v.x.sign()
    across = radius(along, v.y)
    outline = across - rad
    dome = (rad * rad - across * across).clamp(min=0) + 0.004
    left, right = v.draw.colour(0.75, 0.16, 0.13), v.draw.colour(0.90, 0.82, 0.62)
    albedo = blend(left, right, half.float())
    third = v.omitted(3) * 0.11 - 0.36
    bars = box(fract((v.x + 0.415) / 0.11) * 0.11 - 0.055, v.y, 0.025, 0.11)
    bars = torch.maximum(bars, (v.x + 0.25).abs() - 0.165)
    print_ = coverage(v.without(bars, third, torch.zeros_like(third), 0.05))
    if v.omit is not None:
        print_ = print_ * ((v.x - third).abs() > 0.054)
    albedo = blend(albedo, v.draw.colour(0.93, 0.92, 0.90), print_ * 0.9)
    albedo = albedo * (1 + v.noise(FBM, 0.6) * 0.015)
    return v.scene(albedo, outline, v.matte(0.80, 0.81, 0.80, 0.015), relief=dome.sqrt() * 0.8, bevel=0.02, gloss=0.55)


_CHIPS = ((-0.38, -0.30, 0.25, 0.20), (0.38, 0.42, 0.19, 0.19))
_CANS = ((0.48, -0.42, 0.20), (-0.58, 0.55, 0.15))


def board(v: View) -> Scene:
    """A populated circuit board: two chips, two capacitors, a row of resistors, traces, mounting holes."""
    size = 0.88
    outline = round_box(v.x, v.y, size, size, 0.06)
    ax, ay = v.x.abs() - 0.76, v.y.abs() - 0.76
    corner = radius(ax, ay)
    outline = torch.maximum(outline, 0.055 - corner)
    green = v.draw.colour(0.08, 0.36, 0.20)
    albedo = green * (1 + v.noise(FBM, 0.8) * 0.03)

    lines = (fract((v.x + v.y) * 7) - 0.5).abs() / 10 - 0.016
    lines = torch.maximum(lines, box(v.x - 0.05, v.y - 0.06, 0.62, 0.50))
    rails = torch.minimum((v.y + 0.68).abs() - 0.02, (v.x + 0.80).abs() - 0.02)
    traces = torch.maximum(torch.minimum(lines, rails), box(v.x, v.y, 0.82, 0.70))
    albedo = blend(albedo, green * 1.45 + 0.03, coverage(traces))

    # each list collects coverage of one colour; few blends of whole images are what keeps this fast
    gone = v.omitted(8)
    pads = corner - 0.095
    relief = torch.zeros_like(v.x)
    black, metal = torch.zeros_like(v.x), torch.zeros_like(v.x)
    for number, (cx, cy, w, h) in enumerate(_CHIPS):
        x, y = v.x - cx, v.y - cy
        legs = torch.maximum((fract(y / 0.08) - 0.5).abs() * 0.08 - 0.02, box(x, y, w + 0.07, h))
        pads = torch.minimum(pads, torch.maximum(legs, w - x.abs()))
        there = (gone != number).float()
        case = box(x, y, w, h)
        dot = radius(x + w - 0.06, y + h - 0.06) - 0.025
        black += coverage(torch.maximum(case, -dot)) * there
        metal += coverage(dot) * there
        relief += ramp(case, 0.0, -0.03) * there * 0.035
    for number, (cx, cy, rad) in enumerate(_CANS, start=2):
        x, d = v.x - cx, radius(v.x - cx, v.y - cy)
        there = (gone != number).float()
        stripe = torch.maximum(d - rad * 0.86, rad * 0.45 - x)
        pads = torch.minimum(pads, (d - 0.07).abs() - 0.025)
        metal += coverage(torch.maximum(d - rad, -stripe)) * there
        black += coverage(stripe) * there
        relief += ramp(d, rad, rad - 0.05) * there * 0.05
    cell = ((v.x + 0.34) / 0.26).floor()  # four resistors side by side
    x, y = v.x + 0.34 - (cell + 0.5) * 0.26, v.y - 0.70
    row = ((cell >= 0) & (cell < 4)).float()
    there = row * (cell + 4 != gone)
    resistor, end = box(x, y, 0.09, 0.055), 0.055 - x.abs()
    pads = torch.minimum(pads, box(x.abs() - 0.075, y, 0.03, 0.055) + (1 - row))
    black += coverage(torch.maximum(resistor, -end)) * there
    metal += coverage(torch.maximum(resistor, end)) * there
    relief += ramp(resistor, 0.0, -0.02) * there * 0.02
    albedo = blend(albedo, v.draw.colour(0.80, 0.66, 0.32), coverage(pads))
    albedo = blend(albedo, v.draw.colour(0.10, 0.10, 0.11), black)
    albedo = blend(albedo, v.draw.colour(0.70, 0.71, 0.73), metal)
    return v.scene(albedo, outline, v.matte(0.72, 0.71, 0.68), relief=relief, bevel=0.02, gloss=0.10)


def screw(v: View) -> Scene:
    """A countersunk screw seen from the side."""
    threads = v.draw.look(13, 10, 17)
    shank = v.draw.look(0.13, 0.10, 0.16)
    phase = v.x * threads + v.y * 1.1
    tooth = (fract(phase) - 0.5).abs() * 2
    cut = ramp(v.x, -0.42, -0.38) * ramp(v.x, 0.78, 0.50)
    if v.omit is not None:  # the thread is worn off over a short stretch
        cut = cut * (1 - ramp((v.x + 0.15 - v.omit * 0.5).abs(), 0.14, 0.10))
    head = ramp(v.x, -0.50, -0.72) * 0.20
    tip = ramp(v.x, 0.82, 0.58)
    width = (shank + tooth * cut * 0.05 + head) * tip
    outline = torch.maximum((v.y.abs() - width) * 0.8, box(v.x - 0.03, v.y, 0.79, 0.5))
    dome = (1 - (v.y / width.clamp(min=0.02)).square()).clamp(min=0.02).sqrt() * width
    albedo = v.draw.colour(0.62, 0.60, 0.55) * (1 + v.noise(FINE, 1.0, 4) * 0.05)
    albedo = albedo * (1 - cut * (1 - tooth) * 0.35)
    relief = dome * 0.7 + tooth * cut * 0.02
    return v.scene(albedo, outline, v.matte(0.86, 0.86, 0.84, 0.015), relief=relief, bevel=0.02, gloss=0.30)


def cap(v: View) -> Scene:
    """A crown cap from above: fluted rim, printed ring and star."""
    r = radius(v.x, v.y)
    theta = angle(v.x, v.y, r)
    flutes = v.draw.look(21, 17, 27).floor()
    wave = torch.cos(theta * flutes)
    outline = (r - 0.76 - wave * 0.035) * 0.9
    rim = ramp(r, 0.60, 0.70)
    relief = wave * rim * 0.03 + ramp(r, 0.80, 0.56) * 0.09
    star = (r - 0.24 - torch.cos(theta * 5) * 0.11) * 0.6
    turn = v.omitted(5) * (2 * math.pi / 5)
    star = v.without(star, torch.cos(turn) * 0.32, torch.sin(turn) * 0.32, 0.14)
    ring = (r - 0.47).abs() - 0.035
    albedo = v.draw.colour(0.66, 0.10, 0.12)
    albedo = blend(albedo, v.draw.colour(0.92, 0.80, 0.45), coverage(torch.minimum(star, ring)))
    albedo = albedo * (1 + v.noise(FINE) * 0.02)
    return v.scene(albedo, outline, v.matte(0.60, 0.62, 0.64), relief=relief, bevel=0.04, gloss=0.30)


def connector(v: View) -> Scene:
    """A black two-row plug with gold pins and two mounting ears."""
    housing = round_box(v.x, v.y, 0.72, 0.40, 0.05)
    ears = round_box(v.x, v.y, 0.92, 0.16, 0.12)
    holes = radius(v.x.abs() - 0.82, v.y) - 0.055
    notch = box(v.x, v.y + 0.40, 0.12, 0.06)
    outline = torch.maximum(torch.minimum(housing, ears), -torch.minimum(holes, notch))
    cavity = round_box(v.x, v.y, 0.64, 0.31, 0.04)
    pitch = 1.20 / 8
    cell = (v.x / pitch).floor()
    px = v.x - (cell + 0.5) * pitch
    pins = torch.maximum(box(px, v.y.abs() - 0.14, 0.034, 0.055), v.x.abs() - 0.60)
    number = v.omitted(16)
    row = (number / 8).floor()
    column = number - row * 8 - 4
    lost = (cell == column) & ((v.y > 0).float() == row)
    pin = coverage(pins) * (1 - lost.float())
    well = coverage(torch.maximum(box(px, v.y.abs() - 0.14, 0.052, 0.08), v.x.abs() - 0.60))
    albedo = v.draw.colour(0.19, 0.19, 0.21) * (1 + v.noise(FINE) * v.draw.uniform(0.06, 0.12))
    albedo = albedo * (1 - coverage(cavity) * 0.35 - well * 0.4)
    albedo = blend(albedo, v.draw.colour(0.88, 0.71, 0.32), pin)
    relief = ramp(cavity, 0.0, -0.03) * -0.03 + ramp(pins, 0.0, -0.03) * (1 - lost.float()) * 0.03
    return v.scene(albedo, outline, v.matte(0.64, 0.66, 0.68), relief=relief, bevel=0.03, gloss=0.10)


_BITS = ((0.02, 0.10), (0.18, 0.15), (0.34, 0.08), (0.50, 0.14), (0.64, 0.10))


def key(v: View) -> Scene:
    """A flat cylinder-lock key."""
    bow = radius(v.x + 0.52, v.y) - 0.34
    blade = box(v.x - 0.25, v.y - 0.01, 0.55, 0.14)
    blade = torch.maximum(blade, (v.x - 0.80 + v.y.abs() * 0.9) * 0.7)
    notch = torch.full_like(v.x, -1.0)
    for at, depth in _BITS:
        notch = torch.maximum(notch, depth - (v.x - at).abs() * 1.1)
    if v.omit is not None:  # the tooth between two cuts is gone
        notch = torch.maximum(notch, 0.17 - (v.x - 0.10 - v.omitted(4) * 0.155).abs() * 0.6)
    blade = torch.maximum(blade, (v.y - 0.15 + notch.clamp(min=0)) * 0.7)
    collar = box(v.x + 0.20, v.y, 0.05, 0.22)
    hole = round_box(v.x + 0.66, v.y, 0.06, 0.13, 0.05)
    outline = torch.maximum(torch.minimum(torch.minimum(bow, blade), collar), -hole)
    groove = coverage(torch.maximum((v.y + 0.055).abs() - 0.022, (v.x - 0.30).abs() - 0.44))
    emblem = coverage((radius(v.x + 0.42, v.y) - 0.12).abs() - 0.018)
    albedo = v.draw.colour(0.70, 0.63, 0.45) * (1 + v.noise(FINE, 1.0, 8) * v.draw.uniform(0.05, 0.08))
    albedo = albedo * (1 - groove * 0.3 - emblem * 0.25)
    return v.scene(
        albedo, outline, v.matte(0.28, 0.22, 0.20), relief=(groove + emblem) * -0.015, bevel=0.035, gloss=0.25
    )


def biscuit(v: View) -> Scene:
    """A square butter biscuit with a scalloped edge and docking holes."""
    k = math.pi * 7 / 0.68
    outline = round_box(v.x, v.y, 0.70, 0.70, 0.10) + torch.cos(v.x * k) * torch.cos(v.y * k) * 0.03
    pitch = 0.26
    cx, cy = (v.x / pitch).round().clamp(-2, 2), (v.y / pitch).round().clamp(-2, 2)
    dots = radius(v.x - cx * pitch, v.y - cy * pitch)
    number = v.omitted(25)
    row = (number / 5).floor()
    lost = (cx + 2 == number - row * 5) & (cy + 2 == row)
    dots = torch.where(lost, dots + 1, dots)
    frame = (round_box(v.x, v.y, 0.60, 0.60, 0.06)).abs()
    crumb, baked = v.noise(FBM, 1.0), v.noise(FINE)
    albedo = v.draw.colour(0.80, 0.60, 0.33, 0.04) * (1 + crumb * 0.03 + baked * 0.03)
    albedo = blend(albedo, v.draw.colour(0.55, 0.32, 0.13, 0.05), ramp(outline, -0.16, 0.0) * 0.7)
    albedo = albedo * (1 - ramp(dots, 0.045, 0.025) * 0.55)
    relief = ramp(dots, 0.06, 0.02) * -0.03 + ramp(frame, 0.035, 0.0) * -0.015 + crumb * 0.006 + baked * 0.002
    return v.scene(albedo, outline, v.matte(0.36, 0.42, 0.46), relief=relief, bevel=0.08, gloss=0.03)


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


def _photographic(name: str, red: float, green: float, blue: float, field: float) -> Callable[[View], Scene]:
    """Make the function that draws windows, `field` of its side large, into a tinted photograph of scikit-image."""

    def render(v: View) -> Scene:
        room = 1 - 1.2 * field  # how far the window may wander without leaving the photograph
        x = v.x * field + v.draw.uniform(-room, room)
        y = v.y * field + v.draw.uniform(-room, room)
        grey = sample_plane(_photograph(name), x, y)
        return v.scene(v.draw.colour(red, green, blue) * (grey * 2), gloss=0.0)

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
_BAKED = ("crack", "chip", "hole", "stain", "colour", "missing", "contamination", "thread")
_GLAZED = ("crack", "chip", "hole", "stain", "colour", "missing", "contamination", "scratch")
_WIRE = ("cut", "stain", "colour", "bent", "missing", "thread", "contamination")

REGISTRY: dict[str, Category] = {
    "biscuit": Category(biscuit, _BAKED, turn=180),
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
    "tile": Category(tile, _GLAZED, turn=2),
    "washer": Category(washer, (*_SOLID, "crack"), turn=180),
    "weave": Category(weave, (*_CLOTH, "bent", "missing"), turn=4),
    "wood": Category(wood, (*_STONE, "dent", "cut"), turn=3),
}
"""All categories by name, sorted."""
