# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Training data of the demonstration encoder: products in several pictures each, and their captions.

A quarter of the products are renderings of the *auxiliary* demo categories, in random styles (never the products as
designed, which the demonstration trains its heads on); half are put together from random outlines and elements, and the
last quarter are textures and parts drawn from noise.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, reduce
from operator import add

import numpy as np
import torch
import torch.nn.functional as F
from mini_clip_products import NAMES, random_product
from mini_clip_textures import EFFECTS, FAMILIES, PARTS, generator_on, random_pictures
from torch import Tensor

from anomalib_inctrl.backbones.text_prompts import text_prompts
from anomalib_inctrl.demo.categories import REGISTRY, Category
from anomalib_inctrl.demo.defects import KINDS
from anomalib_inctrl.demo.render import AUXILIARY_CATEGORIES, Sample, render_batch
from anomalib_inctrl.errors import RenderError

DAMAGED = (False, False, False, False, True, True)
"""Which of the pictures of a product get a defect."""

HELD_OUT_DEFECTS = ("cut", "dent", "thread")
"""Kinds of defect of the demonstration that are in no training picture, to test on."""

ANY_NAME = "thing"
"""Stands in a caption for a word the text tower has never met."""

_PLACES = tuple(f"{v} {h}".strip() or "middle" for v in ("top", "", "bottom") for h in ("left", "", "right"))
_LONG = "a photo of a {name} of {material} with {defect} at the {place}."
_LONG_NORMAL = "a photo of a {name} of {material} without defect."
_STYLES = 1_000_000
_HARD = ("bent", "missing")  # kinds that are drawn twice as often as others
_JITTER = 0.03  # by how much of half a side each picture is moved on its own
_WORDS = 3  # that a name which the text tower does not know has at most
_LITTLE = 10.0  # degrees by which pictures of a product may be turned and yet be cropped alike
_sentences = cache(text_prompts)
_FOLDER = {REGISTRY[category].words: category for category in AUXILIARY_CATEGORIES}


@dataclass
class Episode:
    """Pictures of `G` products, `N` each.

    Attributes:
        image: `(G, N, 3, S, S)` uint8; after augmentation float in `[0, 1]`.
        mask: `(G, N, S, S)` bool.
        name: What each row shows; rows of one category have one name.
        material: Its material, empty if it has none.
        defect: Kind of defect for each picture; meaningless where the mask is empty.
        turns: For each row, whether its pictures are turned against one another by more than a little; what lies at one
            place of the picture is then not the same in all of them.
    """

    image: Tensor
    mask: Tensor
    name: list[str]
    material: list[str]
    defect: list[list[str]]
    turns: list[bool]

    def to(self, device: torch.device) -> Episode:
        """Bring pictures and masks to a device."""
        return replace(
            self, image=self.image.to(device, non_blocking=True), mask=self.mask.to(device, non_blocking=True)
        )

    def pin_memory(self) -> Episode:
        """Lay pictures and masks where a GPU fetches them from fastest."""
        return replace(self, image=self.image.pin_memory(), mask=self.mask.pin_memory())

    def __add__(self, other: Episode) -> Episode:
        """Put the products of both, which lie on one device, into one."""
        return Episode(
            torch.cat([self.image, other.image]),
            torch.cat([self.mask, other.mask]),
            self.name + other.name,
            self.material + other.material,
            self.defect + other.defect,
            self.turns + other.turns,
        )


def vocabulary_sentences() -> list[str]:
    """Sentences that hold every word of the captions."""
    names = {*FAMILIES, *PARTS, *NAMES, *_FOLDER, *_FOLDER.values()}
    materials = {REGISTRY[c].material for c in AUXILIARY_CATEGORIES}
    defects = {*EFFECTS, *(kind.words for name, kind in KINDS.items() if name not in HELD_OUT_DEFECTS)}
    long = [_LONG.format(name="", material=m, defect="", place="") for m in sorted(materials)]
    long += [_LONG.format(name="", material="", defect=d, place="") for d in sorted(defects)]
    long += [_LONG.format(name="", material="", defect="", place=p) for p in _PLACES]
    normal, abnormal = text_prompts("")
    return [*normal, *abnormal, *sorted(names), *long, _LONG_NORMAL]


def draw_products(rows: int, size: int, seed: tuple[int, ...], device: torch.device) -> Episode:
    """Draw auxiliary categories in random styles, and products put together: a third and two thirds.

    Args:
        rows: Number of products.
        size: Side `S` of the pictures.
        seed: Decides everything.
        device: Where to draw.

    Returns:
        The pictures, before augmentation.
    """
    rng = np.random.default_rng(seed)
    auxiliary = rows // 3
    rendered = [_rendered([_auxiliary(rng) for _ in range(auxiliary)], size, rng, device)] if auxiliary else []
    return reduce(add, [*rendered, *_composed(rows - auxiliary, size, rng, device)])


def draw_textures(rows: int, size: int, seed: tuple[int, ...], device: torch.device) -> Episode:
    """Draw textures and parts from noise.

    Args:
        rows: Number of products.
        size: Side `S` of the pictures.
        seed: Decides everything, but noise comes out otherwise on an accelerator.
        device: Where to draw.

    Returns:
        The pictures, before augmentation.
    """
    generator = torch.Generator().manual_seed(int(np.random.default_rng((*seed, 3)).integers(2**62)))
    drawn = random_pictures(rows, list(DAMAGED), size, generator, device)
    image = drawn.image.mul(255).round_().byte()
    return Episode(image, drawn.mask, drawn.name, [""] * rows, drawn.effect, [False] * rows)


def _auxiliary(rng: np.random.Generator) -> tuple[Category, str, int]:
    category = str(rng.choice(AUXILIARY_CATEGORIES))
    return REGISTRY[category], category, 1 + int(rng.integers(_STYLES))


def _composed(rows: int, size: int, rng: np.random.Generator, device: torch.device) -> list[Episode]:
    parts: list[Episode] = []
    while len(parts) < rows:
        product = random_product(rng)
        with suppress(RenderError):  # such as an element that is missing where it could not be seen
            parts.append(_rendered([(product, "product", 0)], size, rng, device))
    return parts


def _rendered(
    products: list[tuple[Category, str, int]], size: int, rng: np.random.Generator, device: torch.device
) -> Episode:
    """Pictures of categories, each with its name and style."""
    samples = []
    for category, name, style in products:
        kinds = [kind for kind in category.defects if kind not in HELD_OUT_DEFECTS for _ in range(1 + (kind in _HARD))]
        index = int(rng.integers(2**31))
        samples += [
            Sample(name, index + i, str(rng.choice(kinds)) if damaged else None, style)
            for i, damaged in enumerate(DAMAGED)
        ]
    categories = {name: category for category, name, _ in products}
    batch = render_batch(samples, int(rng.integers(2**31)), size, device, categories)
    rows, count = len(products), len(DAMAGED)
    defects = [kind or "" for kind in batch.defect]
    return Episode(
        batch.image.unflatten(0, (rows, count)),
        batch.mask.unflatten(0, (rows, count)),
        batch.category[::count],
        batch.material[::count],
        [defects[start : start + count] for start in range(0, len(defects), count)],
        [category.turn > _LITTLE for category, _, _ in products],
    )


def augment(episode: Episode, seed: tuple[int, ...]) -> Episode:
    """Crop, turn, tint and blur: mostly alike for the pictures of a product, so that they still show one product.

    Args:
        episode: The pictures; they are left as they are.
        seed: Decides everything.

    Returns:
        Another episode with new pictures and masks. A defect may be cropped away.
    """
    generator = torch.Generator().manual_seed(int(np.random.default_rng((*seed, 2)).integers(2**62)))
    rows, count, _, *side = episode.image.shape
    device = episode.image.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * (high - low) + low

    crop = ((uniform(0, 1, rows) < 0.5) & ~torch.tensor(episode.turns)).float()
    zoom = 1 - crop * uniform(0, 0.5, rows)
    turn = uniform(0, 6.2832, rows) * (uniform(0, 1, rows) < 0.5)
    flip = (uniform(0, 1, rows) < 0.5).float() * 2 - 1
    rotation = torch.stack([torch.stack([turn.cos(), -turn.sin()], 1), torch.stack([turn.sin(), turn.cos()], 1)], 1)
    matrix = rotation * zoom[:, None, None] * torch.stack([flip, torch.ones_like(flip)], dim=1)[:, None]
    shift = ((1 - zoom)[:, None] * uniform(-1, 1, rows, 2))[:, None] + uniform(-_JITTER, _JITTER, rows, count, 2)
    theta = torch.cat([matrix[:, None].expand(-1, count, -1, -1), shift[..., None]], dim=3).flatten(0, 1)
    pixels = torch.cat([episode.image.float() / 255, episode.mask[:, :, None].float()], dim=2).flatten(0, 1)
    grid = F.affine_grid(theta.to(device), list(pixels.shape), align_corners=False)
    pixels = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False).view(rows, count, 4, *side)
    mask = pixels[:, :, 3] > 0.5
    # In place, and grain for those rows only that get any: this takes as long as drawing does.
    image = pixels[:, :, :3].contiguous()
    image.lerp_(image.mean(dim=2, keepdim=True), (1 - uniform(0, 1.2, rows, 1, 1, 1, 1)).to(device))
    tint, tone = uniform(0.7, 1.3, rows, 1, 3, 1, 1), uniform(-0.1, 0.1, rows, 1, 3, 1, 1)
    image.mul_(tint.to(device)).add_(tone.to(device))
    gain, level = uniform(0.94, 1.06, rows, count, 1, 1, 1), uniform(-0.02, 0.02, rows, count, 1, 1, 1)
    image.mul_(gain.to(device)).add_(level.to(device))
    image.clamp_(0, 1).pow_(torch.exp(uniform(-0.4, 0.4, rows, 1, 1, 1, 1)).to(device))
    blur, grain = uniform(-0.6, 1, rows).clamp_(min=0).tolist(), uniform(-0.03, 0.03, rows).tolist()
    noise = generator_on(device, generator)
    for row in range(rows):
        if blur[row] > 0:
            image[row].lerp_(F.avg_pool2d(image[row], 3, 1, 1, count_include_pad=False), blur[row])
        if grain[row] > 0:
            image[row].add_(torch.randn(image[row].shape, generator=noise, device=device), alpha=grain[row])
    return replace(episode, image=image.clamp_(0, 1), mask=mask)


@dataclass
class Captions:
    """Sentences for some pictures of an episode.

    Attributes:
        picture: Which pictures have a caption, positions in `G * N`; `C` of them.
        caption: The captions.
        match: `(C, C)` bool; which caption (column) is true of which picture (row).
        states: For each product some sentences that call it flawless and as many that call it damaged, `G * 2 * M`.
    """

    picture: list[int]
    caption: list[str]
    match: Tensor
    states: list[str]


def draw_captions(episode: Episode, damaged: Tensor, seed: tuple[int, ...], sentences: int = 3) -> Captions:
    """Draw captions for one picture of each product that is meant to be flawless, and for one that is not.

    Args:
        episode: The pictures.
        damaged: `(G, N)` bool, which of them show a defect after augmentation.
        seed: Decides everything.
        sentences: Number `M` of sentences for each state of each product.

    Returns:
        The captions.
    """
    rng = np.random.default_rng((*seed, 1))
    place, is_damaged = _places(episode.mask), damaged.tolist()
    picture, caption, facts, claims, states = [], [], [], [], []
    for row, name in enumerate(episode.name):
        for pool in _sentences(_called(name, rng)):
            states += [pool[i] for i in rng.integers(len(pool), size=sentences)]
        for column in (0, len(DAMAGED) - 1):
            bad = is_damaged[row][column]
            called = _called(name, rng)
            fact = [name, bad, episode.defect[row][column] if bad else "", place[row][column] if bad else ""]
            claim: list[object] = [None if called.startswith(ANY_NAME) else name, bad, None, None]
            if episode.material[row] and rng.random() < 0.4:
                filled = {"name": called, "material": episode.material[row], "defect": fact[2], "place": fact[3]}
                caption.append((_LONG if bad else _LONG_NORMAL).format(**filled))
                claim = fact
            else:
                pool = _sentences(called)[bad]
                caption.append(pool[rng.integers(len(pool))])
            picture.append(row * len(DAMAGED) + column)
            facts.append(fact)
            claims.append(claim)
    match = np.ones((len(facts), len(facts)), dtype=bool)
    for told, claimed in zip(zip(*facts, strict=True), zip(*claims, strict=True), strict=True):
        code = {None: -1}
        said = np.array([code.setdefault(value, len(code)) for value in claimed])
        true = np.array([code.setdefault(value, len(code)) for value in told])
        match &= (said == -1) | (said == true[:, None])
    return Captions(picture, caption, torch.from_numpy(match), states)


def _called(name: str, rng: np.random.Generator) -> str:
    """Choose one of the names of a thing: its own, that of its folder, or one the text tower does not know."""
    choice = rng.random()
    if choice < 0.3:
        return " ".join([ANY_NAME] * int(rng.integers(1, _WORDS + 1)))
    return _FOLDER.get(name, name) if choice < 0.6 else name


def _places(mask: Tensor) -> list[list[str]]:
    """Third of the picture in which the middle of each mask lies, in words."""
    m = mask.float()
    total = m.sum(dim=(2, 3)).clamp(min=1)
    axis = (torch.arange(mask.shape[-1], device=mask.device) + 0.5) * (3 / mask.shape[-1])
    column = ((m.sum(dim=2) * axis).sum(dim=2) / total).long().clamp(0, 2)
    row = ((m.sum(dim=3) * axis).sum(dim=2) / total).long().clamp(0, 2)
    return [[_PLACES[i] for i in line] for line in (row * 3 + column).tolist()]
