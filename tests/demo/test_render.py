# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The rendered images: reproducible, independent of their batch, with masks that tell the truth."""

import socket
from dataclasses import replace

import pytest
import torch

from anomalib_inctrl.demo import (
    AUXILIARY_CATEGORIES,
    CATEGORIES,
    IMAGE_SIZE,
    UNSEEN_CATEGORIES,
    RenderedBatch,
    Sample,
    render,
    render_batch,
)
from anomalib_inctrl.demo.categories import REGISTRY
from anomalib_inctrl.demo.defects import KINDS
from anomalib_inctrl.demo.materials import _photograph
from anomalib_inctrl.demo.shapes import Draw
from anomalib_inctrl.demo.view import NOTHING_OMITTED
from anomalib_inctrl.errors import DatasetError

PHOTOGRAPHS = {"brick", "grass", "gravel"}
TEXTURES = {"leather", "mesh", "terrazzo", "weave", "wood"} | PHOTOGRAPHS


def mixed() -> list[Sample]:
    """Samples of several categories, with defects of every way of being made, in no order."""
    return [
        Sample("gear", 3, "missing"),
        Sample("brick", 1),
        Sample("weave", 0, "bent"),
        Sample("gear", 8, "dent"),
        Sample("terrazzo", 2),
        Sample("washer", 5, "chip"),
        Sample("gear", 4),
        Sample("cap", 6, "contamination", style=7),
        Sample("wood", 2, "stain"),
        Sample("cap", 9, "thread"),
    ]


def same(a: RenderedBatch, i: int, b: RenderedBatch, j: int) -> bool:
    return torch.equal(a.image[i], b.image[j]) and torch.equal(a.mask[i], b.mask[j]) and a.place[i] == b.place[j]


@pytest.mark.parametrize("chunk", [1, 2, 5, 64])
def test_pixels_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    samples = mixed()
    alone = [render_batch([s], seed=11) for s in samples]
    monkeypatch.setattr(render, "_CHUNK_ON_CPU", chunk)
    together = render_batch(samples[::-1], seed=11)
    for i in range(len(samples)):
        assert same(alone[i], 0, together, len(samples) - 1 - i), samples[i]


def test_everything_that_names_an_image_changes_it() -> None:
    sample = Sample("key", 1)
    reference = render_batch([sample], seed=0).image
    assert torch.equal(reference, render_batch([sample], seed=0).image)
    for other in (replace(sample, index=2), replace(sample, style=1), replace(sample, category="screw")):
        assert not torch.equal(reference, render_batch([other], seed=0).image)
    assert not torch.equal(reference, render_batch([sample], seed=1).image)


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_defect_is_where_its_mask_says(category: str) -> None:
    kinds = REGISTRY[category].defects
    assert len(kinds) >= 6
    samples = [Sample(category, i, kind) for i, kind in enumerate(kinds)]
    batch = render_batch(samples, seed=3)
    clean = render_batch([replace(s, defect=None) for s in samples], seed=3)

    assert batch.image.dtype == torch.uint8
    assert batch.image.shape == (len(kinds), 3, IMAGE_SIZE, IMAGE_SIZE)
    assert not clean.mask.any()
    assert clean.defect == clean.place == [None] * len(kinds)
    assert batch.defect == [KINDS[kind].words for kind in kinds]
    assert all(batch.place)

    difference = (batch.image.int() - clean.image.int()).abs().amax(dim=1)
    for i, kind in enumerate(kinds):
        mask, changed = batch.mask[i], difference[i]
        assert 20 <= mask.sum() <= 0.35 * mask.numel(), kind
        assert changed[~mask].max() == 0, kind
        assert (changed[mask] > 10).float().mean() > 0.6, kind


@pytest.mark.parametrize("category", sorted(set(CATEGORIES) - TEXTURES))
def test_defects_land_on_the_part(category: str) -> None:
    samples = [Sample(category, i, kind) for i, kind in enumerate(REGISTRY[category].defects)]
    draw = render._draw(samples, 3, torch.device("cpu"))
    axis = (torch.arange(IMAGE_SIZE) + 0.5) * (2 / IMAGE_SIZE) - 1
    x = axis.expand(len(samples), IMAGE_SIZE, IMAGE_SIZE)
    scene = render._scenes(samples, draw, x, x.mT, torch.full((len(samples), 1, 1), NOTHING_OMITTED), REGISTRY)
    on_part = (render_batch(samples, seed=3).mask & (scene.outline < 0.02)).sum(dim=(1, 2))
    assert (on_part >= 15).all(), dict(zip(REGISTRY[category].defects, on_part.tolist(), strict=True))


def test_a_category_looks_like_one_product() -> None:
    aligned = [c for c in CATEGORIES if REGISTRY[c].turn < 10 and c not in TEXTURES]
    pictures = {c: render_batch([Sample(c, i) for i in range(4)]).image.float().mean(dim=1).flatten(1) for c in aligned}
    for name, own in pictures.items():
        within = torch.corrcoef(own)[0, 1:].mean()
        across = [torch.corrcoef(torch.stack([own[0], p[0]]))[0, 1] for c, p in pictures.items() if c != name]
        assert within > max(across) + 0.1, name


def test_photographs_need_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        msg = "network"
        raise AssertionError(msg)

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    _photograph.cache_clear()
    assert render_batch([Sample(name, 0) for name in sorted(PHOTOGRAPHS)]).image.float().std() > 10


def test_categories_are_split_into_halves() -> None:
    assert sorted(AUXILIARY_CATEGORIES + UNSEEN_CATEGORIES) == list(CATEGORIES) == sorted(REGISTRY)
    assert abs(len(AUXILIARY_CATEGORIES) - len(UNSEEN_CATEGORIES)) <= 1
    assert set(UNSEEN_CATEGORIES) >= PHOTOGRAPHS
    assert len(TEXTURES & set(AUXILIARY_CATEGORIES)) * 2 >= len(TEXTURES)
    assert {kind for c in REGISTRY.values() for kind in c.defects} == set(KINDS)


@pytest.mark.parametrize(
    ("samples", "error", "words"),
    [
        ([Sample("sofa", 0)], DatasetError, "washer"),
        ([Sample("wood", 0, "missing")], DatasetError, "crack"),
        ([], ValueError, "at least one"),
    ],
)
def test_wrong_samples_are_refused(samples: list[Sample], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        render_batch(samples)


@pytest.mark.parametrize(
    ("row", "column", "words"),
    [(10, 10, "top left"), (120, 120, "middle"), (120, 230, "right"), (230, 120, "bottom"), (239, 239, "bottom right")],
)
def test_places_in_words(row: int, column: int, words: str) -> None:
    masks = torch.zeros(2, 240, 240, dtype=torch.bool)
    masks[1, row - 2 : row + 3, column - 2 : column + 3] = True
    assert render._places(masks, [1]) == [words]


def test_masks_are_tidied() -> None:
    changed = torch.zeros(1, 40, 40, dtype=torch.bool)
    changed[0, 5, 5] = True  # a lone pixel
    changed[0, 20:30, 20:30] = True
    changed[0, 24, 24:26] = False  # a gap
    changed[0, 0:4, 36:40] = True  # at the border
    tidy = render._tidy(changed)
    assert not tidy[0, :10, :10].any()
    assert tidy[0, 20:30, 20:30].all()
    assert tidy[0, 0:4, 36:40].all()
    assert tidy.sum() == 116


def test_random_numbers_are_uniform_and_independent() -> None:
    keys = torch.stack([torch.arange(4096), torch.zeros(4096, dtype=torch.long)], dim=1)
    draw = Draw(keys)
    numbers = torch.stack(
        [
            draw.uniform(0, 1).flatten(),
            draw.uniform(0, 1).flatten(),
            draw.child(0).uniform(0, 1).flatten(),
            draw.child(1).uniform(0, 1).flatten(),
            *draw.uniforms(3).unbind(1),
        ]
    )
    assert (numbers >= 0).all()
    assert (numbers < 1).all()
    torch.testing.assert_close(numbers.mean(dim=1), torch.full((7,), 0.5), atol=0.02, rtol=0)
    torch.testing.assert_close(torch.corrcoef(numbers), torch.eye(7), atol=0.06, rtol=0)
    assert torch.equal(draw.child(1).uniform(0, 1), draw.child(1).uniform(0, 1))
