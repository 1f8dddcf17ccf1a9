# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Product families to confirm results on: drawn after every decision on method and defaults had been taken.

Neither the demonstration encoder nor any heads were trained on them, and no choice was made by their figures.
"""

from __future__ import annotations

import math

import torch

from anomalib_inctrl.demo.drawing import (
    CELL_EDGE,
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


def nut(v: View) -> Scene:
    """A hexagon nut with a threaded bore."""
    r = radius(v.x, v.y)
    size, bore = v.draw.look(0.66, 0.55, 0.75), v.draw.look(0.34, 0.25, 0.40)
    hexagon = torch.maximum(v.y.abs(), v.x.abs() * math.cos(math.pi / 6) + v.y.abs() * 0.5) - size
    thread = (torch.cos(angle(v.x, v.y, r) + r * 140) * 0.5 + 0.5) * ramp(r, bore + 0.09, bore + 0.05)
    albedo = v.draw.colour(0.66, 0.64, 0.60) * (1 + v.noise(FINE, 1.0, 4) * 0.05) * (1 - thread * 0.4)
    chamfer = ramp(r, size - 0.02, size + 0.14) * -0.03
    # A corner worn off is what can be missing.
    corner = v.omitted(6) * (math.pi / 3)
    away = radius(v.x - torch.cos(corner) * size * 1.13, v.y - torch.sin(corner) * size * 1.13)
    hexagon = hexagon if v.omit is None else torch.maximum(hexagon, 0.16 - away)
    outline = torch.maximum(hexagon, bore - r)
    return v.scene(
        albedo * (1 - thread * 0.4), outline, v.matte(0.30, 0.31, 0.30), relief=chamfer, bevel=0.04, gloss=0.3
    )


def blister(v: View) -> Scene:
    """A strip of foil with two rows of tablets."""
    outline = round_box(v.x, v.y, 0.88, 0.56, 0.08)
    column, row = ((v.x + 0.8) / 0.4).floor(), ((v.y + 0.5) / 0.5).floor()
    inside = (column >= 0) & (column < 4) & (row >= 0) & (row < 2)
    here = inside & (column + row * 4 != v.omitted(8))
    x, y = v.x + 0.8 - (column + 0.5) * 0.4, v.y + 0.5 - (row + 0.5) * 0.5
    tablet = radius(x, y * 1.1) - v.draw.look(0.13, 0.10, 0.15)
    score = (x.abs() - 0.008).clamp(min=0)
    albedo = v.draw.colour(0.74, 0.75, 0.77) * (1 + v.noise(FINE) * 0.03)
    foil = ((fract(v.x * 14) - 0.5).abs() + (fract(v.y * 14) - 0.5).abs()) * 0.006
    pill = coverage(tablet) * here
    albedo = blend(albedo, v.draw.colour(0.90, 0.72, 0.62), pill)
    well = ramp(tablet, 0.05, -0.02) * inside * 0.02
    dome = (-tablet).clamp(0, 0.1) * here * 0.4 - ramp(score, 0.01, 0.0) * pill * 0.012
    return v.scene(albedo, outline, v.matte(0.22, 0.24, 0.28), relief=foil + well + dome, bevel=0.02, gloss=0.35)


def comb(v: View) -> Scene:
    """A plastic comb."""
    teeth = v.draw.look(18, 14, 24).floor()
    phase = (v.x + 0.8) / 1.6 * teeth
    tooth = torch.maximum((fract(phase) - 0.5).abs() * (1.6 / teeth) - 0.4 / teeth, box(v.x, v.y - 0.15, 0.8, 0.45))
    if v.omit is not None:
        tooth = torch.where((phase.floor() - v.omitted(1000) * teeth / 1000).abs() < 1.0, torch.ones_like(tooth), tooth)
    spine = round_box(v.x, v.y + 0.36, 0.86, 0.16, 0.08)
    outline = torch.minimum(spine, tooth)
    albedo = v.draw.colour(0.55, 0.20, 0.24) * (1 + v.noise(FBM, 0.5) * 0.08)
    return v.scene(albedo, outline, v.matte(0.86, 0.85, 0.82), bevel=0.03, gloss=0.4)


def fan(v: View) -> Scene:
    """A fan wheel with curved blades in a ring."""
    r = radius(v.x, v.y)
    blades = v.draw.look(7, 5, 10).floor()
    turned = angle(v.x, v.y, r) + r * v.draw.look(1.2, 0.6, 1.8)
    wave = torch.cos(turned * blades)
    if v.omit is not None:
        lost = (v.omitted(1000) * blades / 1000).floor() * (2 * math.pi / blades)
        apart = torch.cos(turned - lost)
        wave = torch.where(apart > math.cos(math.pi / 10), -torch.ones_like(wave), wave)
    blade = torch.maximum((0.25 - wave) * 0.12, torch.maximum(r - 0.70, 0.15 - r))
    hub, ring = r - 0.24, (r - 0.77).abs() - 0.06
    outline = torch.minimum(torch.minimum(blade, hub), ring)
    albedo = v.draw.colour(0.20, 0.22, 0.26) * (1 + v.noise(FINE) * 0.04)
    label = coverage(r - 0.14)
    albedo = blend(albedo, v.draw.colour(0.80, 0.78, 0.30), label)
    pitch = torch.sin(turned * blades) * 0.03 * ramp(hub, 0.0, 0.05)
    return v.scene(albedo, outline, v.matte(0.62, 0.63, 0.66), relief=pitch, bevel=0.03, gloss=0.25)


def spring(v: View) -> Scene:
    """A coil spring from the side."""
    coils = v.draw.look(9, 7, 12)
    phase = (v.x + 0.85) * coils / 1.7
    height = v.draw.look(0.34, 0.26, 0.42)
    bow = torch.cos(phase * (2 * math.pi)) * height
    wire = 0.055 + 0.02 * (1 - (v.y / height).clamp(-1, 1).square())
    slope = (1 + (torch.sin(phase * (2 * math.pi)) * height * 2 * math.pi * coils / 1.7).square()).sqrt()
    coil = torch.maximum((v.y - bow).abs() / slope - wire * 0.6, box(v.x, v.y, 0.85, height + 0.06))
    if v.omit is not None:
        coil = torch.maximum(coil, 0.12 - (v.x + 0.6 - v.omit * 1.2).abs())
    albedo = v.draw.colour(0.58, 0.60, 0.63) * (1 + v.noise(FINE, 1.0, 5) * 0.05)
    return v.scene(albedo, coil, v.matte(0.82, 0.80, 0.74), relief=-coil.clamp(-0.05, 0) * 0.6, bevel=0.03, gloss=0.4)


def label(v: View) -> Scene:
    """A paper label with a bar code, a bar of colour and lines of print."""
    outline = round_box(v.x, v.y, 0.86, 0.62, 0.05)
    widths = torch.sin(v.x * 61) + torch.sin(v.x * 97 + 1.3)
    code = torch.maximum(-(widths * 0.01), box(v.x + 0.2, v.y - 0.22, 0.52, 0.26))
    line = torch.maximum((fract(v.y * 9) - 0.5).abs() / 9 - 0.022, box(v.x + 0.25, v.y + 0.18, 0.48, 0.10))
    word = torch.maximum(line, (fract(v.x * 5 + v.y.floor() * 0.3) - 0.5).abs() / 5 - 0.075)
    mark = radius(v.x - 0.58, v.y - 0.22) - 0.16
    albedo = v.draw.colour(0.92, 0.91, 0.87) * (1 + v.noise(FINE) * 0.015)
    bar = box(v.x, v.y + 0.47, 0.86, 0.13)
    albedo = blend(albedo, v.draw.colour(0.12, 0.30, 0.58), coverage(bar))
    gone = v.omitted(3)
    ink = coverage(code) * (gone != 0) + coverage(word) * (gone != 1)
    albedo = blend(albedo, v.draw.colour(0.10, 0.10, 0.11), ink.clamp(0, 1) * 0.9)
    albedo = blend(albedo, v.draw.colour(0.80, 0.24, 0.16), coverage(mark) * (gone != 2))
    return v.scene(albedo, outline, v.matte(0.46, 0.40, 0.34), bevel=0.01, gloss=0.05)


def cork(v: View) -> Scene:
    """Pressed cork granulate."""
    state = v.draw.child(1), v.draw.child(1)
    edge, shade = noise(state[0], CELL_EDGE, v.x, v.y, 1.1), noise(state[1], FBM, v.x, v.y, 1.6)
    albedo = v.draw.colour(0.70, 0.52, 0.34) * (1 + shade * 0.10 + v.noise(FINE) * 0.05)
    gap = ramp(edge, 0.10, 0.02)
    return v.scene(albedo * (1 - gap * 0.35), relief=ramp(edge, 0.0, 0.3) * 0.01, gloss=0.03)


def denim(v: View) -> Scene:
    """Blue twill with a seam of orange thread."""
    pitch = v.draw.look(26, 20, 32)
    warp_x = v.x + v.noise(FBM, 0.6) * 0.006
    diagonal = fract((warp_x + v.y * 0.5) * pitch)
    rib = (diagonal - 0.5).abs() * 2
    albedo = blend(v.draw.colour(0.16, 0.23, 0.40), v.draw.colour(0.58, 0.64, 0.74), ramp(rib, 0.62, 0.95) * 0.7)
    albedo = albedo * (1 + v.noise(FINE) * 0.10)
    stitch = torch.maximum(((v.y - 0.42).abs() - 0.10).abs() - 0.016, (fract(v.x * 7) - 0.5).abs() / 7 - 0.05)
    if v.omit is not None:
        stitch = torch.maximum(stitch, 0.16 - (v.x + 0.7 - v.omit * 1.4).abs())
    albedo = blend(albedo, v.draw.colour(0.80, 0.50, 0.18), coverage(stitch))
    fold = ramp((v.y - 0.42).abs(), 0.26, 0.22) * 0.012
    return v.scene(albedo, relief=rib * 0.006 + fold + coverage(stitch) * 0.01, gloss=0.03)
