# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Training data of the demonstration encoder: products in several images each, and their captions.

A quarter of the products are renderings of the *auxiliary* demo categories, in random styles (never the products as
designed, which the demonstration trains its heads on); half are composed of random outlines and elements, and the last
quarter are textures and parts cut from them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from itertools import chain

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anomalib_inctrl.backbones.text_prompts import text_prompts
from anomalib_inctrl.demo import AUXILIARY_CATEGORIES, REGISTRY, Sample, render_batch
from anomalib_inctrl.demo.random_products import OUTLINES, random_product
from anomalib_inctrl.errors import RenderError
from tools.encoder.textures import PATTERNS, textured_product

DAMAGED = (False, False, False, False, True, True)
"""Which of the images of a product get a defect."""

HELD_OUT_DEFECTS = ("cut", "dent", "thread")
"""Kinds of defect of the demonstration that are in no training image, to test on."""

ANY_NAME = "thing"
"""Stands in a caption for a word the text encoder has never met."""

NAMES = {
    "board": ("circuit board", "laminate"),
    "cap": ("bottle cap", "painted metal"),
    "gear": ("gear wheel", "brass"),
    "key": ("key", "nickel brass"),
    "leather": ("leather", "leather"),
    "mesh": ("wire mesh", "steel wire"),
    "terrazzo": ("terrazzo floor", "cement and stone chips"),
    "tile": ("ceramic tiles", "glazed ceramic"),
    "weave": ("woven cloth", "linen and cotton"),
}
"""Name in words, beside the short one of its folder, and material of each auxiliary category."""

_DEFECTS = {
    "bent": "a bent part",
    "chip": "a broken edge",
    "colour": "a discoloured patch",
    "contamination": "a foreign particle",
    "crack": "a crack",
    "hole": "a hole",
    "missing": "a missing part",
    "scratch": "a scratch",
    "stain": "a stain",
}
_PLACES = tuple(f"{v} {h}".strip() or "middle" for v in ("top", "", "bottom") for h in ("left", "", "right"))
_LONG = "a photo of a {name} of {material} with {defect} at the {place}."
_LONG_NORMAL = "a photo of a {name} of {material} without defect."
_STYLES = 1_000_000
_HARD = ("bent", "missing")  # kinds that are drawn twice as often as others
_JITTER = 0.03  # by how much of half a side each image is moved on its own
_UNKNOWN_WORDS = 3  # that a name which the text encoder does not know has at most
_LITTLE = 10.0  # degrees by which images of a product may be turned and yet be cropped alike
_STATE_SENTENCES = 3  # for each state of each product
_sentences = cache(text_prompts)
_FOLDER = {words: category for category, (words, _) in NAMES.items()}


@dataclass
class Episode:
    """Images of `G` products, `N` each."""

    image: Tensor  # (G, N, 3, S, S) uint8; after augmentation float in [0, 1]
    mask: Tensor  # (G, N, S, S) bool
    name: list[str]  # what each row shows; rows of one category have one name
    material: list[str]  # empty if it has none
    defect: list[list[str]]  # kind of defect for each image; meaningless where the mask is empty
    turns: list[bool]  # for each row, whether its images are turned against one another by more than a little


def vocabulary_sentences() -> list[str]:
    """Sentences that hold every word of the captions."""
    names = [*OUTLINES, *PATTERNS, "surface", *NAMES, *chain.from_iterable(NAMES.values())]
    words = " ".join(sorted({*names, *_DEFECTS.values(), *_PLACES}))
    normal, abnormal = text_prompts("")
    blank = dict.fromkeys(("name", "material", "defect", "place"), "")
    return [*normal, *abnormal, _LONG_NORMAL.format(**blank), _LONG.format(**blank), *words.split()]


def draw_episode(rows: int, size: int, seed: tuple[int, ...]) -> Episode:
    """Draw `rows` products in images of side `size`: of four one is auxiliary, two are composed, one is a texture."""
    rng = np.random.default_rng(seed)
    drawn = [_product(rng, size, row % 4) for row in range(rows)]
    image, mask, name, material, defect, turns = zip(*drawn, strict=True)
    return Episode(torch.stack(image), torch.stack(mask), list(name), list(material), list(defect), list(turns))


def _product(rng: np.random.Generator, size: int, kind: int) -> tuple[Tensor, Tensor, str, str, list[str], bool]:
    if kind == 0:
        key = str(rng.choice(AUXILIARY_CATEGORIES))
        style, category, (name, material) = 1 + int(rng.integers(_STYLES)), REGISTRY[key], NAMES[key]
    else:
        key, style, material = "product", 0, ""
        name, category = textured_product(rng, str(rng.choice(PATTERNS))) if kind == 3 else random_product(rng)
    kinds = [kind for kind in category.defects if kind in _DEFECTS for _ in range(1 + (kind in _HARD))]
    index = int(rng.integers(2**31))
    drawn = [str(rng.choice(kinds)) if damaged else None for damaged in DAMAGED]
    samples = [Sample(key, index + i, defect, style) for i, defect in enumerate(drawn)]
    try:
        image, mask = render_batch(samples, int(rng.integers(2**31)), size, {key: category})
    except RenderError:  # such as an element that is missing where it could not be seen
        return _product(rng, size, kind)
    defects = [_DEFECTS[defect] if defect else "" for defect in drawn]
    return image, mask, name, material, defects, category.turn > _LITTLE


def augment(episode: Episode, seed: tuple[int, ...]) -> Episode:
    """Crop, turn, tint and blur, mostly alike for the images of a product; a defect may be cropped away."""
    rng = np.random.default_rng((*seed, 2))
    rows, count, _, *side = episode.image.shape
    device = episode.image.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.tensor(rng.uniform(low, high, shape), dtype=torch.float32, device=device)

    crop = ((uniform(0, 1, rows) < 0.5) & ~torch.tensor(episode.turns, device=device)).float()
    zoom = 1 - crop * uniform(0, 0.5, rows)
    turn = uniform(0, 6.2832, rows) * (uniform(0, 1, rows) < 0.5)
    flip = (uniform(0, 1, rows) < 0.5).float() * 2 - 1
    rotation = torch.stack([torch.stack([turn.cos(), -turn.sin()], 1), torch.stack([turn.sin(), turn.cos()], 1)], 1)
    matrix = rotation * zoom[:, None, None] * torch.stack([flip, torch.ones_like(flip)], dim=1)[:, None]
    shift = ((1 - zoom)[:, None] * uniform(-1, 1, rows, 2))[:, None] + uniform(-_JITTER, _JITTER, rows, count, 2)
    theta = torch.cat([matrix[:, None].expand(-1, count, -1, -1), shift[..., None]], dim=3).flatten(0, 1)
    pixels = torch.cat([episode.image.float() / 255, episode.mask[:, :, None].float()], dim=2).flatten(0, 1)
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    pixels = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False).view(rows, count, 4, *side)
    image, mask = pixels[:, :, :3], pixels[:, :, 3] > 0.5
    image = image.lerp(image.mean(dim=2, keepdim=True), 1 - uniform(0, 1.2, rows, 1, 1, 1, 1))
    image = image * uniform(0.7, 1.3, rows, 1, 3, 1, 1) + uniform(-0.1, 0.1, rows, 1, 3, 1, 1)
    image = image * uniform(0.94, 1.06, rows, count, 1, 1, 1) + uniform(-0.02, 0.02, rows, count, 1, 1, 1)
    image = image.clamp(0, 1).pow(uniform(-0.4, 0.4, rows, 1, 1, 1, 1).exp())
    blurred = F.avg_pool2d(image.flatten(0, 1), 3, 1, 1, count_include_pad=False).view_as(image)
    image = image.lerp(blurred, uniform(-0.6, 1, rows, 1, 1, 1, 1).clamp(min=0))
    grain = uniform(-0.03, 0.03, rows, 1, 1, 1, 1).clamp(min=0)
    return replace(episode, image=(image + torch.randn_like(image) * grain).clamp(0, 1), mask=mask)


def draw_captions(
    episode: Episode, damaged: Tensor, seed: tuple[int, ...]
) -> tuple[list[int], list[str], list[str], Tensor]:
    """Draw captions for an image of each product that is meant to be flawless, and for one that is not.

    Args:
        episode: Images of `G` products, `N` each.
        damaged: `(G, N)` bool, which of them show a defect after augmentation.
        seed: Decides everything.

    Returns:
        Positions in `G * N` of the `C` images that have a caption; the captions; for each product sentences that call
        it flawless and as many that call it damaged, `G * 2 * M`; `(C, C)` bool, which caption (column) is true of
        which image (row).
    """
    rng = np.random.default_rng((*seed, 1))
    masks, is_damaged = episode.mask.cpu(), damaged.tolist()
    position, caption, states = [], [], []
    facts: list[tuple[object, ...]] = []  # name, state, defect and place of the image
    claims: list[tuple[object, ...]] = []  # what its caption states of them; None for what it leaves open
    for row, name in enumerate(episode.name):
        for pool in _sentences(_called(name, rng)):
            states += [str(sentence) for sentence in rng.choice(pool, _STATE_SENTENCES)]
        for column in (0, len(DAMAGED) - 1):
            called, bad = _called(name, rng), is_damaged[row][column]
            place = _place(masks[row, column]) if bad else ""
            fact = (name, bad, episode.defect[row][column] if bad else "", place)
            material = episode.material[row]
            if material and rng.random() < 0.4:
                sentence = _LONG if bad else _LONG_NORMAL
                caption.append(sentence.format(name=called, material=material, defect=fact[2], place=place))
                claims.append(fact)
            else:
                caption.append(str(rng.choice(_sentences(called)[bad])))
                claims.append((None if called.startswith(ANY_NAME) else name, bad, None, None))
            position.append(row * len(DAMAGED) + column)
            facts.append(fact)
    match = [
        [all(stated is None or stated == true for stated, true in zip(claim, fact, strict=True)) for claim in claims]
        for fact in facts
    ]
    return position, caption, states, torch.tensor(match)


def _called(name: str, rng: np.random.Generator) -> str:
    """Choose one of the names of a product: its own, that of its folder, or one the text encoder does not know."""
    choice = rng.random()
    if choice < 0.3:
        return " ".join([ANY_NAME] * int(rng.integers(1, _UNKNOWN_WORDS + 1)))
    return _FOLDER.get(name, name) if choice < 0.6 else name


def _place(mask: Tensor) -> str:
    """Name the third of the image in which the middle of a mask `(S, S)` lies."""
    row, column = (mask.nonzero().float().mean(dim=0) * (3 / len(mask))).long().tolist()
    return _PLACES[3 * row + column]
