# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The products of the demo data, each drawn in its own coordinates by one small function; pose and light come later."""

from __future__ import annotations

import math

import torch

from anomalib_inctrl.demo.drawing import (
    FBM,
    FINE,
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
from anomalib_inctrl.demo.scene import Scene, View


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
