# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The categories of the demo data: what is drawn, how it lies, what can be wrong with it."""

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
        render: Draws it.
        words: What a caption calls it.
        material: What it is made of, in words.
        defects: Kinds of defect that it can have.
        turn: Largest rotation in degrees; 180 is any.
        shift: Largest displacement from the middle.
        zoom: Largest relative deviation in size.
    """

    render: Callable[[View], Scene]
    words: str
    material: str
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
    "biscuit": Category(biscuit, "biscuit", "baked dough", _BAKED, turn=180),
    "board": Category(board, "circuit board", "laminate", (*_SOLID, "crack"), turn=2),
    "brick": Category(_brick, "brick paving", "brick", (*_STONE, "dent"), turn=2),
    "cap": Category(cap, "bottle cap", "painted metal", (*_SOLID, "thread"), turn=180),
    "capsule": Category(capsule, "capsule", "gelatine", _PILL, turn=8),
    "connector": Category(connector, "connector", "plastic", (*_SOLID, "thread"), turn=3),
    "gear": Category(gear, "gear wheel", "brass", (*_SOLID, "crack"), turn=180),
    "grass": Category(_grass, "lawn", "grass", _LOOSE, turn=180),
    "gravel": Category(_gravel, "gravel", "stone", (*_LOOSE, "crack"), turn=180),
    "key": Category(key, "key", "nickel brass", (*_SOLID, "crack"), turn=6),
    "leather": Category(leather, "leather", "leather", (*_CLOTH, "scratch", "dent"), turn=180),
    "mesh": Category(mesh, "wire mesh", "steel wire", _WIRE, turn=4),
    "screw": Category(screw, "screw", "steel", _SOLID, turn=180),
    "terrazzo": Category(terrazzo, "terrazzo floor", "cement and stone chips", (*_STONE, "dent"), turn=180),
    "tile": Category(tile, "ceramic tiles", "glazed ceramic", _GLAZED, turn=2),
    "washer": Category(washer, "washer", "brushed steel", (*_SOLID, "crack"), turn=180),
    "weave": Category(weave, "woven cloth", "linen and cotton", (*_CLOTH, "bent", "missing"), turn=4),
    "wood": Category(wood, "wooden board", "softwood", (*_STONE, "dent", "cut"), turn=3),
}
"""All categories by name, sorted."""
