# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The kinds of defect, each a small function that changes a scene before it is lit.

Two more kinds, `bent` and `missing`, change where or what is drawn, so that the product is drawn again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from anomalib_inctrl.demo.drawing import (
    FBM,
    FINE,
    Draw,
    Scene,
    axes,
    blend,
    box,
    carve,
    common,
    coverage,
    noise,
    radius,
    ramp,
    union,
)

_CANDIDATES = 96
_MARGIN = 0.05  # how far inside the outline a defect's middle should lie
_TURN = 6.2832
_REACH = 0.84  # how far from the middle of the image it may lie


@dataclass
class Site:
    """Where a defect is and how it looks; scalars are tensors without axes."""

    u: Tensor  # local coordinate (H, W) along the defect
    v: Tensor  # and across it
    size: Tensor  # in [0, 1], small to large
    strength: Tensor  # in [0, 1], faint to plain
    luma: Tensor  # brightness of the image at the site in [0, 1]
    draw: Draw

    def span(self, small: float, large: float) -> Tensor:
        """A length between `small` and `large` by the size of the defect."""
        return small * torch.exp(self.size * math.log(large / small))

    def blob(self, reach: Tensor, wobble: float = 0.22) -> Tensor:
        """Signed distance to an irregular patch of about the radius `reach`."""
        stretch = self.draw.uniform(0.65, 1.0)
        wobbling = noise(self.draw, FBM, self.u, self.v, 2.0) * wobble
        return radius(self.u * stretch, self.v / stretch) - reach * (1 + wobbling)

    def line(self, bow: float, jitter: float) -> Tensor:
        """Distance `(H, W)` across a line along u that bows and wanders."""
        path = self.u * self.u * self.draw.uniform(-bow, bow)
        return (self.v - path - self.along(FBM, 1.5) * jitter).abs()

    def along(self, channel: int, scale: float) -> Tensor:
        """Noise `(H, W)` that changes along u only."""
        return noise(self.draw, channel, self.u, torch.zeros_like(self.u), scale)

    def contrast(self) -> Tensor:
        """A grey level clearly darker or lighter than the site, a scalar."""
        dark = (self.luma > self.draw.uniform(0.3, 0.5)).float()
        return dark * self.draw.uniform(0.02, 0.15) + (1 - dark) * self.draw.uniform(0.85, 1.0)


def choose_site(outline: Tensor, clean: Tensor, on_rim: bool, draw: Draw, least: float = 0.0) -> Site:
    """Choose where on the solid, or on its rim, a defect goes, and its size and strength, at least `least`."""
    side = outline.shape[-1]
    spots = (draw.uniforms(2 * _CANDIDATES).view(2, -1) * 2 - 1) * _REACH
    columns, rows = ((spots + 1) * (side / 2)).long()
    depth = outline[rows, columns]
    # the first candidate that is well inside, or else the one deepest inside; the nearest to the rim for rim kinds
    order = torch.arange(_CANDIDATES, 0, -1)
    best = (-depth.abs() if on_rim else torch.where(depth < -_MARGIN, order + 10.0, -depth)).argmax()
    luma = clean[:, rows[best], columns[best]].float().mean() / 255

    phi = draw.uniform(0, _TURN)
    cos, sin = torch.cos(phi), torch.sin(phi)
    x, y = axes(side)
    dx, dy = x - spots[0, best], y - spots[1, best]
    size, strength = draw.uniform(least, 1), draw.uniform(least, 1)
    return Site(dx * cos + dy * sin, dy * cos - dx * sin, size, strength, luma, draw.child(0))


def _painted(scene: Scene, colour: Tensor, weight: Tensor, lift: Tensor | float = 0.0) -> Scene:
    return replace(scene, albedo=blend(scene.albedo, colour, weight), relief=scene.relief + lift)


def _carved(scene: Scene, hole: Tensor) -> Scene:
    return replace(scene, outline=carve(scene.outline, hole))


def scratch(scene: Scene, at: Site) -> Scene:
    """A long shallow line that shows bright or dark."""
    length, width = at.span(0.12, 0.70), at.draw.uniform(0.006, 0.018)
    groove = coverage(common(at.line(0.4, 0.004) - width, at.u.abs() - length))
    return _painted(scene, at.contrast(), groove * (0.35 + 0.6 * at.strength), groove * -0.012)


def crack(scene: Scene, at: Site) -> Scene:
    """A dark jagged line with a branch, tapering off."""
    length = at.span(0.15, 0.75)
    jagged = at.along(FINE, 0.7) * 0.022 + at.along(FBM, 1.0) * 0.05
    width = (0.009 + 0.016 * at.strength) * ramp(at.u.abs(), length, length * 0.3)
    trunk = common((at.v - jagged).abs() - width, at.u.abs() - length)
    slope, start = at.draw.uniform(0.5, 1.1) * at.draw.sign(), at.draw.uniform(-0.4, 0.2) * length
    along = at.u - start
    thin = width * 0.7 * ramp(along, length * 0.6, 0.0)
    branch = common((at.v - jagged - along * slope).abs() - thin, -along, along - length * 0.6)
    line = coverage(union(trunk, branch))
    return _painted(scene, torch.tensor(0.03), line * (0.55 + 0.4 * at.strength), line * -0.02)


def hole(scene: Scene, at: Site) -> Scene:
    """Material gone right through."""
    return _carved(scene, at.blob(at.span(0.04, 0.18)))


def cut(scene: Scene, at: Site) -> Scene:
    """A slit right through."""
    length, width = at.span(0.12, 0.48), 0.012 + 0.014 * at.strength
    gape = width * (1 - (at.u / length).square()).clamp(min=0)
    return _carved(scene, common(at.line(0.5, 0.003) - gape, at.u.abs() - length))


def chip(scene: Scene, at: Site) -> Scene:
    """A piece broken out of the rim."""
    reach = at.span(0.08, 0.22)
    ragged = noise(at.draw, FINE, at.u, at.v, 0.5) * 0.018
    return _carved(scene, common(box(at.u, at.v, reach, reach * 0.8), (at.u + at.v).abs() - reach * 1.2) + ragged)


def stain(scene: Scene, at: Site) -> Scene:
    """Something spilt that darkens or bleaches, with a soft edge and a darker border."""
    reach = at.span(0.09, 0.38)
    spill = at.blob(reach, 0.30)
    body, border = ramp(spill, reach * 0.12, reach * -0.12), ramp((spill + reach * 0.1).abs(), reach * 0.16, 0.0)
    weight = (body * 0.75 + border * 0.25) * (0.30 + 0.55 * at.strength)
    bleach = (at.luma < 0.25).float()  # a dark stain would not show on dark ground
    brown = _channels(*(at.draw.uniform(low, high) for low, high in ((0.30, 0.55), (0.22, 0.40), (0.10, 0.30))))
    return _painted(scene, scene.albedo * brown * (1 - bleach) + (brown * 0.5 + 0.45) * bleach, weight)


def colour(scene: Scene, at: Site) -> Scene:
    """A patch of another hue and about the same brightness."""
    reach = at.span(0.10, 0.36)
    edge = at.draw.uniform(0.08, 0.35)
    weight = ramp(at.blob(reach, 0.12), reach * edge, -reach * edge) * at.draw.uniform(0.6, 0.95)
    hue, vivid = at.draw.uniform(0, _TURN), 0.12 + 0.33 * at.strength
    tint = _channels(*(1 + vivid * torch.cos(hue + turn) for turn in (0.0, 2.0944, 4.1888)))
    return _painted(scene, (scene.albedo.mean(dim=0, keepdim=True) * 0.85 + 0.06) * tint, weight)


def dent(scene: Scene, at: Site) -> Scene:
    """A hollow or a bump that shows by its shading alone."""
    reach = at.span(0.12, 0.34)
    falloff = (1 - (radius(at.u, at.v * at.draw.uniform(1.0, 1.6)) / reach).square()).clamp(min=0)
    depth = reach * (0.28 + 0.45 * at.strength) * at.draw.sign()
    return replace(scene, relief=scene.relief + falloff * falloff * depth)


def thread(scene: Scene, at: Site) -> Scene:
    """A hair or thread lying on top."""
    length, width = at.span(0.25, 0.75), 0.007 + 0.008 * at.strength
    waves = torch.sin(at.u * at.draw.uniform(4, 9) + at.draw.uniform(0, 6)) * at.draw.uniform(0.02, 0.09)
    path = (at.v - waves - at.u * at.u * at.draw.uniform(-0.5, 0.5)).abs()
    cover = coverage(common(path * 0.8 - width, at.u.abs() - length)) * 0.92
    return replace(scene, over=cover, over_colour=at.contrast().expand(3, 1, 1))


def contamination(scene: Scene, at: Site) -> Scene:
    """A crumb of foreign matter with a few specks beside it, lying on top."""
    reach = at.span(0.045, 0.17)
    shape = at.blob(reach, 0.28)
    for _ in range(3):
        away, around = reach * at.draw.uniform(1.3, 2.2), at.draw.uniform(0, _TURN)
        speck = radius(at.u - torch.cos(around) * away, at.v - torch.sin(around) * away) - reach * 0.25
        shape = union(shape, speck)
    tint = _channels(*(at.draw.uniform(-0.12, 0.12) for _ in range(3)))
    lit = 0.85 + 0.15 * (at.u / reach).clamp(-1, 1)
    cover = coverage(shape) * (0.65 + 0.3 * at.strength) * lit
    return replace(scene, over=cover, over_colour=(at.contrast() * 0.8 + 0.1 + tint).clamp(0, 1))


def _channels(*values: Tensor) -> Tensor:
    return torch.stack(values).view(3, 1, 1)


def bend(x: Tensor, y: Tensor, at: Site) -> tuple[Tensor, Tensor]:
    """Displace image coordinates around a site; what is drawn at them comes out bent."""
    reach = at.span(0.28, 0.50)
    window = (1 - (at.u * at.u + at.v * at.v) / (reach * reach)).clamp(min=0)
    push = window * window * reach * (0.20 + 0.22 * at.strength)
    phi = at.draw.uniform(0, _TURN)
    return x + push * torch.cos(phi), y + push * torch.sin(phi)


KINDS: dict[str, Callable[[Scene, Site], Scene]] = {
    kind.__name__: kind for kind in (chip, colour, contamination, crack, cut, dent, hole, scratch, stain, thread)
}
"""The kinds of defect by name, but `bent` and `missing`, for which the product is drawn again."""
