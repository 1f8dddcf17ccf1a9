# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Render demo images: pose, product, defect, light, mask."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from anomalib_inctrl.demo.categories import REGISTRY, Category
from anomalib_inctrl.demo.defects import KINDS, bend, choose_site
from anomalib_inctrl.demo.drawing import Draw, Scene, View, axes, light_scene
from anomalib_inctrl.demo.random_products import random_products
from anomalib_inctrl.errors import DatasetError, RenderError

IMAGE_SIZE = 240
"""Side of a demo image in pixels."""

CATEGORIES = tuple(REGISTRY)
"""Names of all designed categories, sorted."""

RANDOM_PRODUCTS = random_products()
"""Categories composed at random, by name, to train on."""

AUXILIARY_CATEGORIES = ("board", "cap", "gear", "key", "leather", "mesh", "terrazzo", "tile", "weave")
"""The half to train on."""

CONFIRMATION_CATEGORIES = ("blister", "comb", "cork", "denim", "fan", "label", "nut", "spring")
"""Families that no decision on method and defaults has seen, to confirm results on."""

UNSEEN_CATEGORIES = tuple(name for name in CATEGORIES if name not in AUXILIARY_CATEGORIES + CONFIRMATION_CATEGORIES)
"""Those to test on while developing, the three photographs among them."""

_ALL = REGISTRY | RANDOM_PRODUCTS

_POSE, _PRODUCT, _LIGHT, _DEFECT = range(4)  # streams of random numbers
_VISIBLE = 10  # levels of 255 by which a pixel must change to count
_LEAST_AREA, _LARGEST_AREA = 4e-4, 0.35  # of the image; outside of it the defect is drawn again elsewhere
_ATTEMPTS = 10


@dataclass(frozen=True)
class Sample:
    """Names one image; together with the seed it decides every pixel.

    Attributes:
        category: Name of the category.
        index: Number of the image, at least 0.
        defect: Kind of defect, None for a normal image. The same image without its defect has the same pose and light.
        style: 0 is the product as designed; other numbers are other products of the same kind.
    """

    category: str
    index: int
    defect: str | None = None
    style: int = 0


class RenderedBatch(NamedTuple):
    """Rendered images with masks.

    Attributes:
        image: `(B, 3, H, W)` uint8.
        mask: `(B, H, W)` bool, where the defect changed the image.
    """

    image: Tensor
    mask: Tensor


def render_batch(
    samples: Sequence[Sample],
    seed: int = 0,
    size: int = IMAGE_SIZE,
    categories: Mapping[str, Category] = _ALL,
) -> RenderedBatch:
    """Render images.

    The pixels of an image depend on its sample, the seed and the size alone, not on the rest of the batch.

    Args:
        samples: What to render; categories and kinds of defect may be mixed.
        seed: Seed of the whole set.
        size: Side `H = W` of the images in pixels.
        categories: What the names of the samples mean; the demo's categories by default.

    Returns:
        The images in the order of the samples.

    Raises:
        DatasetError: If a category is unknown or cannot have the defect asked for.
        RenderError: If a category never shows a defect that it can have.
        ValueError: If there are no samples.
    """
    if not samples:
        msg = "render_batch got no samples; give at least one."
        raise ValueError(msg)
    for sample in samples:
        check_category(sample.category, categories)
        possible = categories[sample.category].defects
        if sample.defect not in (None, *possible):
            choices = ", ".join(possible)
            msg = f"Demo category {sample.category!r} has no defect {sample.defect!r}; choose one of: {choices}."
            raise DatasetError(msg)
    images, masks = zip(*(_render(s, seed, size, categories[s.category]) for s in samples), strict=True)
    return RenderedBatch(torch.stack(images), torch.stack(masks))


def check_category(category: str, categories: Mapping[str, Category] = _ALL) -> None:
    """Raise a DatasetError that lists the categories if there is none of that name."""
    if category not in categories:
        choices = [name for name in categories if name not in RANDOM_PRODUCTS]
        if len(choices) < len(categories):
            choices.append(f"product-000 to product-{len(RANDOM_PRODUCTS) - 1}")
        msg = f"Unknown demo category {category!r}; choose one of: {', '.join(choices)}."
        raise DatasetError(msg)


def _render(sample: Sample, seed: int, size: int, category: Category) -> tuple[Tensor, Tensor]:
    """Render an image `(3, H, W)` uint8 and its mask `(H, W)`; a defect that does not show is drawn again elsewhere."""
    name, style = sample.category, sample.style
    draw = Draw(_key(f"{seed}/{name}/{sample.index}/{style}"), _key(f"{name}/{style}") if style else None)
    x, y = axes(size)
    scene = _scene(category, draw, x, y)
    clean = light_scene(scene, draw.child(_LIGHT))
    if sample.defect is None:
        return clean, torch.zeros(size, size, dtype=torch.bool)

    for attempt in range(_ATTEMPTS):
        chance = draw.child(_DEFECT + attempt)
        site = choose_site(scene.outline, clean, sample.defect == "chip", chance, least=attempt / _ATTEMPTS)
        if sample.defect == "bent":
            broken = _scene(category, draw, *bend(x, y, site))
        elif sample.defect == "missing":
            broken = _scene(category, draw, x, y, omit=site.draw.uniform(0, 1))
        else:
            broken = KINDS[sample.defect](scene, site)
        image = light_scene(broken, draw.child(_LIGHT))
        difference = torch.maximum(image, clean) - torch.minimum(image, clean)  # uint8 throughout: fast
        changed = difference.amax(dim=0) > _VISIBLE
        near = F.avg_pool2d(changed[None].float(), 3, 1, 1)[0] * 9
        # Lone pixels go, gaps of a few pixels are closed.
        mask = ~_grow(~_grow(changed & (near > 2.5)))
        if _LEAST_AREA <= mask.float().mean() <= _LARGEST_AREA:
            return torch.where(mask, image, clean), mask
    msg = f"No visible defect came out for {sample}; this is a fault of the category, please report it."
    raise RenderError(msg)


def _key(text: str) -> tuple[int, int]:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def _scene(category: Category, draw: Draw, x: Tensor, y: Tensor, omit: Tensor | None = None) -> Scene:
    """Draw the product at image coordinates `x, y`."""
    pose = draw.child(_POSE)
    turn = pose.uniform(-category.turn, category.turn) * (3.14159265 / 180)
    cos, sin = torch.cos(turn), torch.sin(turn)
    dx, dy = (axis - pose.uniform(-category.shift, category.shift) for axis in (x, y))
    grow = 1 / (1 + pose.uniform(-category.zoom, category.zoom))
    return category.render(View((dx * cos + dy * sin) * grow, (dy * cos - dx * sin) * grow, draw.child(_PRODUCT), omit))


def _grow(mask: Tensor) -> Tensor:
    """Widen a mask `(H, W)` by two pixels (on bool tensors many times faster than max pooling)."""
    for axis in (0, 1):
        padded = F.pad(mask, [0, 0, 2, 2] if axis == 0 else [2, 2])
        mask = reduce(torch.logical_or, [padded.narrow(axis, i, mask.shape[axis]) for i in range(5)])
    return mask
