# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Render demo images in batches: pose, product, defect, light, mask, caption."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from anomalib_inctrl.demo.categories import REGISTRY, Category
from anomalib_inctrl.demo.defects import KINDS, Site, bend, choose_site
from anomalib_inctrl.demo.shapes import Draw, Light, Scene, light_scene, pick
from anomalib_inctrl.demo.view import NOTHING_OMITTED, View
from anomalib_inctrl.errors import DatasetError, RenderError

IMAGE_SIZE = 240
"""Side of a demo image in pixels."""

CATEGORIES = tuple(REGISTRY)
"""Names of all categories, sorted."""

AUXILIARY_CATEGORIES = ("board", "cap", "gear", "key", "leather", "mesh", "terrazzo", "tile", "weave")
"""The half to train on."""

UNSEEN_CATEGORIES = tuple(name for name in CATEGORIES if name not in AUXILIARY_CATEGORIES)
"""The half to test on, the three photographs among them."""

_POSE, _PRODUCT, _LIGHT, _DEFECT = range(4)  # streams of random numbers
_VISIBLE = 10  # levels of 255 by which a pixel must change to count
_LEAST_AREA, _LARGEST_AREA = 4e-4, 0.35  # of the picture; outside of it the defect is drawn again elsewhere
_ATTEMPTS = 10
_CHUNK_ON_CPU, _CHUNK_ON_ACCELERATOR = 2, 256  # a chunk on the CPU fits its cache


@dataclass(frozen=True)
class Sample:
    """Names one image; together with the seed it decides every pixel.

    Attributes:
        category: Name of the category.
        index: Number of the image, at least 0.
        defect: Kind of defect, None for a normal image. The same image without its defect has the same pose and light.
        style: 0 is the product as designed; other numbers are other products of the same kind, for training that
            should not learn the designed ones.
    """

    category: str
    index: int
    defect: str | None = None
    style: int = 0


@dataclass
class RenderedBatch:
    """Rendered images with masks and the parts of a caption.

    Attributes:
        image: `(B, 3, H, W)` uint8.
        mask: `(B, H, W)` bool, where the defect changed the picture.
        category: What each image shows, in words.
        material: Its material, in words.
        defect: Kind of defect, in words; None for normal images.
        place: Where the defect is, in words; None for normal images.
    """

    image: Tensor
    mask: Tensor
    category: list[str]
    material: list[str]
    defect: list[str | None]
    place: list[str | None]


def render_batch(
    samples: Sequence[Sample],
    seed: int = 0,
    size: int = IMAGE_SIZE,
    device: torch.device | str = "cpu",
    categories: Mapping[str, Category] | None = None,
) -> RenderedBatch:
    """Render images.

    The pixels of an image depend on its sample, the seed and the size alone, not on the rest of the batch.

    Args:
        samples: What to render; categories and kinds of defect may be mixed.
        seed: Seed of the whole set.
        size: Side `H = W` of the images in pixels.
        device: Where to render and where the tensors stay.
        categories: What the names of the samples mean; None for the demo's categories.

    Returns:
        The images in the order of the samples.

    Raises:
        DatasetError: If a category is unknown or cannot have the defect asked for.
        RenderError: If a category never shows a defect that it can have.
        ValueError: If there are no samples.
    """
    categories = REGISTRY if categories is None else categories
    for sample in samples:
        _check(sample, categories)
    if not samples:
        msg = "render_batch got no samples; give at least one."
        raise ValueError(msg)
    device = torch.device(device)
    chunk = _CHUNK_ON_CPU if device.type == "cpu" else _CHUNK_ON_ACCELERATOR
    parts = [
        _render_chunk(samples[start : start + chunk], seed, size, device, categories)
        for start in range(0, len(samples), chunk)
    ]
    mask = torch.cat([m for _, m in parts])
    places = iter(_places(mask, [i for i, s in enumerate(samples) if s.defect]))
    return RenderedBatch(
        image=torch.cat([i for i, _ in parts]),
        mask=mask,
        category=[categories[s.category].words for s in samples],
        material=[categories[s.category].material for s in samples],
        defect=[KINDS[s.defect].words if s.defect else None for s in samples],
        place=[next(places) if s.defect else None for s in samples],
    )


def check_category(category: str, categories: Mapping[str, Category] = REGISTRY) -> None:
    """Check that a category exists.

    Args:
        category: Its name.
        categories: Those that exist; the demo's, unless others are given.

    Raises:
        DatasetError: If it does not; the message lists those that do.
    """
    if category not in categories:
        msg = f"Unknown demo category {category!r}; choose one of: {', '.join(categories)}."
        raise DatasetError(msg)


def _check(sample: Sample, categories: Mapping[str, Category]) -> None:
    check_category(sample.category, categories)
    possible = categories[sample.category].defects
    if sample.defect is not None and sample.defect not in possible:
        choices = ", ".join(possible)
        msg = f"Demo category {sample.category!r} has no defect {sample.defect!r}; choose one of: {choices}."
        raise DatasetError(msg)


def _draw(samples: Sequence[Sample], seed: int, device: torch.device) -> Draw:
    def pair(text: str) -> list[int]:
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        return [int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")]

    keys = torch.tensor([pair(f"{seed}/{s.category}/{s.index}/{s.style}") for s in samples], device=device)
    if not any(s.style for s in samples):
        return Draw(keys)
    style_keys = torch.tensor([pair(f"{s.category}/{s.style}") for s in samples], device=device)
    return Draw(keys, style_keys, torch.tensor([s.style == 0 for s in samples], device=device))


def _render_chunk(
    samples: Sequence[Sample], seed: int, size: int, device: torch.device, categories: Mapping[str, Category]
) -> tuple[Tensor, Tensor]:
    draw = _draw(samples, seed, device)
    axis = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) * (2 / size) - 1
    x = axis.expand(len(samples), size, size)
    y = axis[:, None].expand(len(samples), size, size)
    whole = torch.full((len(samples), 1, 1), NOTHING_OMITTED, device=device)
    scene = _scenes(samples, draw, x, y, whole, categories)
    light = Light.drawn(draw.child(_LIGHT), size)
    image = light_scene(scene, light)
    mask = torch.zeros(len(samples), size, size, dtype=torch.bool, device=device)

    todo = [i for i, s in enumerate(samples) if s.defect]
    for attempt in range(_ATTEMPTS):
        if not todo:
            return image, mask
        index = torch.tensor(todo, device=device)
        picture, changed = _damage(
            [samples[i] for i in todo],
            draw.take(index),
            scene.take(index),
            image[index],
            light=light.take(index),
            attempt=attempt,
            categories=categories,
        )
        area = changed.float().mean(dim=(1, 2))
        good = (area >= _LEAST_AREA) & (area <= _LARGEST_AREA)
        done = index[good]
        image[done], mask[done] = picture[good], changed[good]
        todo = index[~good].tolist()
    if todo:
        msg = f"No visible defect came out for {samples[todo[0]]}; this is a fault of the category, please report it."
        raise RenderError(msg)
    return image, mask


def _groups(names: Sequence[str], device: torch.device) -> list[tuple[str, Tensor]]:
    """Positions of equal names, in order of name."""
    return [
        (name, torch.tensor([i for i, n in enumerate(names) if n == name], device=device))
        for name in sorted(set(names))
    ]


def _stack(groups: list[tuple[Tensor, Scene]]) -> Scene:
    """Put the scenes of groups of images back into the order of the batch."""
    if len(groups) == 1:
        return groups[0][1]
    order = torch.argsort(torch.cat([index for index, _ in groups]))
    parts = {
        f.name: torch.cat([getattr(scene, f.name) for _, scene in groups])[order]
        for f in fields(Scene)
        if not f.name.startswith("over")
    }
    stacked = Scene(**parts)
    if any(scene.over is not None for _, scene in groups):
        stacked.over = torch.cat(
            [torch.zeros_like(scene.relief) if scene.over is None else scene.over for _, scene in groups]
        )[order]
        stacked.over_colour = torch.cat(
            [
                torch.zeros_like(scene.albedo[:, :, :1, :1]) if scene.over_colour is None else scene.over_colour
                for _, scene in groups
            ]
        )[order]
    return stacked


def _scenes(
    samples: Sequence[Sample], draw: Draw, x: Tensor, y: Tensor, omit: Tensor, categories: Mapping[str, Category]
) -> Scene:
    """Draw the products at picture coordinates `x, y`."""
    groups = []
    for name, index in _groups([s.category for s in samples], x.device):
        category = categories[name]
        own = draw.take(index)
        pose = own.child(_POSE)
        turn = pose.uniform(-category.turn, category.turn) * (3.14159265 / 180)
        cos, sin = torch.cos(turn), torch.sin(turn)
        dx = pick(x, index) - pose.uniform(-category.shift, category.shift)
        dy = pick(y, index) - pose.uniform(-category.shift, category.shift)
        grow = 1 / (1 + pose.uniform(-category.zoom, category.zoom))
        view = View((dx * cos + dy * sin) * grow, (dy * cos - dx * sin) * grow, own.child(_PRODUCT), omit[index])
        groups.append((index, category.render(view)))
    return _stack(groups)


def _damage(
    samples: Sequence[Sample],
    draw: Draw,
    scene: Scene,
    clean: Tensor,
    *,
    light: Light,
    attempt: int,
    categories: Mapping[str, Category],
) -> tuple[Tensor, Tensor]:
    """Put a defect into each image; returns pictures `(B, 3, H, W)` uint8 and masks `(B, H, W)`."""
    size, device = clean.shape[-1], clean.device
    kinds = [s.defect or "" for s in samples]
    on_rim = torch.tensor([KINDS[k].on_rim for k in kinds], device=device)
    at = choose_site(scene.outline, clean, on_rim, draw.child(_DEFECT + attempt), least=attempt / _ATTEMPTS)
    groups = []
    for kind, index in _groups(kinds, device):
        site = Site(
            **{f.name: pick(getattr(at, f.name), index) for f in fields(Site) if f.name != "draw"},
            draw=at.draw.take(index).child(0),
        )
        apply = KINDS[kind].apply
        if apply is not None:
            groups.append((index, apply(scene.take(index), site)))
            continue
        axis = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) * (2 / size) - 1
        x, y = axis.expand(len(index), size, size), axis[:, None].expand(len(index), size, size)
        omit = torch.full((len(index), 1, 1), NOTHING_OMITTED, device=device)
        if kind == "bent":
            x, y = bend(x, y, site)
        else:
            omit = site.draw.uniform(0, 1)
        own = [samples[i] for i in index.tolist()]
        groups.append((index, _scenes(own, draw.take(index), x, y, omit, categories)))
    picture = light_scene(_stack(groups), light)
    difference = torch.maximum(picture, clean) - torch.minimum(picture, clean)  # uint8 throughout: fast
    mask = _tidy(reduce(torch.maximum, difference.unbind(1)) > _VISIBLE)
    return torch.where(mask[:, None], picture, clean), mask


def _tidy(changed: Tensor) -> Tensor:
    """Drop lone pixels of masks `(B, H, W)` and close gaps of a few pixels."""
    count = changed.byte()
    for axis in (1, 2):
        count = reduce(torch.add, _shifts(count, 1, axis))
    grown = _grow(changed & (count >= 3), 2)
    return ~_grow(~grown, 2)


def _grow(m: Tensor, reach: int) -> Tensor:
    """Widen masks `(B, H, W)` by a square (on bool tensors many times faster than max pooling)."""
    for axis in (1, 2):
        m = reduce(torch.logical_or, _shifts(m, reach, axis))
    return m


def _shifts(m: Tensor, reach: int, axis: int) -> list[Tensor]:
    """`(B, H, W)` shifted by up to `reach` both ways along an axis, zero beyond the border."""
    padded = F.pad(m, [0, 0, reach, reach] if axis == 1 else [reach, reach])
    return [padded.narrow(axis, start, m.shape[axis]) for start in range(2 * reach + 1)]


def _places(mask: Tensor, which: list[int]) -> list[str]:
    """Name the third of the picture in which the middle of each chosen mask lies."""
    if not which:
        return []
    m = mask[which].float()
    total = m.sum(dim=(1, 2))
    axis = (torch.arange(mask.shape[-1], device=mask.device) + 0.5) * (3 / mask.shape[-1])
    column = ((m.sum(dim=1) * axis).sum(dim=1) / total).long().tolist()
    row = ((m.sum(dim=2) * axis).sum(dim=1) / total).long().tolist()
    vertical, horizontal = ("top", "", "bottom"), ("left", "", "right")
    return [f"{vertical[r]} {horizontal[c]}".strip() or "middle" for r, c in zip(row, column, strict=True)]
