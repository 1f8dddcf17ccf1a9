# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The rendered images: reproducible, independent of their batch, with masks where the image changed."""

from dataclasses import replace

import pytest
import torch

from anomalib_inctrl.demo import (
    AUXILIARY_CATEGORIES,
    CATEGORIES,
    CONFIRMATION_CATEGORIES,
    RANDOM_PRODUCTS,
    REGISTRY,
    UNSEEN_CATEGORIES,
    Sample,
    render_batch,
)
from anomalib_inctrl.demo.defects import KINDS
from anomalib_inctrl.errors import DatasetError, RenderError


def test_pixels_depend_on_sample_and_seed_and_not_on_the_batch():
    crumb = Sample("cap", 6, "contamination", style=7)
    samples = [Sample("gear", 3, "missing"), Sample("weave", 0, "bent"), crumb, Sample("brick", 1), Sample("cap", 6)]
    together = render_batch(samples, seed=11)
    for i, sample in enumerate(samples):
        alone = render_batch([sample], seed=11)
        assert torch.equal(alone.image[0], together.image[i])
        assert torch.equal(alone.mask[0], together.mask[i])
    others = [replace(crumb, **new) for new in ({"index": 2}, {"style": 1}, {"category": "gear"})]
    for sample, seed in [(crumb, 12), *((other, 11) for other in others)]:
        assert not torch.equal(render_batch([sample], seed=seed).image[0], together.image[2])


@pytest.mark.parametrize("category", CATEGORIES)
def test_masks_cover_exactly_what_each_defect_changes(category):
    kinds = REGISTRY[category].defects
    samples = [Sample(category, i, kind) for i, kind in enumerate(kinds)]
    batch = render_batch(samples, seed=3)
    clean = render_batch([replace(s, defect=None) for s in samples], seed=3)
    assert (batch.image.shape, batch.image.dtype) == ((len(kinds), 3, 240, 240), torch.uint8)
    assert not clean.mask.any()
    difference = (batch.image.int() - clean.image.int()).abs().amax(dim=1)
    for kind, mask, changed in zip(kinds, batch.mask, difference, strict=True):
        assert 20 <= mask.sum() <= 0.35 * mask.numel(), kind
        assert changed[~mask].max() == 0, kind
        assert (changed[mask] > 10).float().mean() > 0.6, kind


def test_every_category_is_for_training_for_development_or_for_confirmation():
    parts = AUXILIARY_CATEGORIES + UNSEEN_CATEGORIES + CONFIRMATION_CATEGORIES
    assert sorted(parts) == list(CATEGORIES) == sorted(REGISTRY)
    assert not RANDOM_PRODUCTS.keys() & set(CATEGORIES)
    assert {kind for c in REGISTRY.values() for kind in c.defects} == {*KINDS, "bent", "missing"}


def test_wrong_samples_are_refused():
    for sample, words in ((Sample("sofa", 0), "washer"), (Sample("wood", 0, "missing"), "crack")):
        with pytest.raises(DatasetError, match=words):
            render_batch([sample])
    with pytest.raises(ValueError, match="at least one"):
        render_batch([])


def test_a_category_whose_defect_never_shows_is_reported():
    hidden = {"gear": replace(REGISTRY["gear"], render=lambda view: REGISTRY["gear"].render(replace(view, omit=None)))}
    with pytest.raises(RenderError, match=r"gear.*missing"):
        render_batch([Sample("gear", 0, "missing")], size=48, categories=hidden)
