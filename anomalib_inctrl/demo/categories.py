# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The categories of the demo data: which function draws them, their poses and their kinds of defect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from anomalib_inctrl.demo.materials import leather, mesh, photographic, terrazzo, tile, weave, wood
from anomalib_inctrl.demo.products import biscuit, board, cap, capsule, connector, gear, key, screw, washer
from anomalib_inctrl.demo.scene import Scene, View


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
_brick = photographic("brick", 0.60, 0.50, 0.45, 0.62)
_grass = photographic("grass", 0.42, 0.50, 0.30, 0.55)
_gravel = photographic("gravel", 0.52, 0.50, 0.48, 0.55)

REGISTRY: dict[str, Category] = {
    "biscuit": Category(biscuit, _BAKED, turn=180),
    "board": Category(board, (*_SOLID, "crack"), turn=2),
    "brick": Category(_brick, (*_STONE, "dent"), turn=2),
    "cap": Category(cap, (*_SOLID, "thread"), turn=180),
    "capsule": Category(capsule, _PILL, turn=8),
    "connector": Category(connector, (*_SOLID, "thread"), turn=3),
    "gear": Category(gear, (*_SOLID, "crack"), turn=180),
    "grass": Category(_grass, _LOOSE, turn=180),
    "gravel": Category(_gravel, (*_LOOSE, "crack"), turn=180),
    "key": Category(key, (*_SOLID, "crack"), turn=6),
    "leather": Category(leather, (*_CLOTH, "scratch", "dent"), turn=180),
    "mesh": Category(mesh, _WIRE, turn=4),
    "screw": Category(screw, _SOLID, turn=180),
    "terrazzo": Category(terrazzo, (*_STONE, "dent"), turn=180),
    "tile": Category(tile, _GLAZED, turn=2),
    "washer": Category(washer, (*_SOLID, "crack"), turn=180),
    "weave": Category(weave, (*_CLOTH, "bent", "missing"), turn=4),
    "wood": Category(wood, (*_STONE, "dent", "cut"), turn=3),
}
"""All categories by name, sorted."""
