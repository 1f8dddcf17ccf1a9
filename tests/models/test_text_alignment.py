# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The diagnostic of text prompts, and text prompts weighted by it."""

import logging

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from anomalib_inctrl.models.components.residuals import text_score
from anomalib_inctrl.models.components.text_alignment import TextAlignment, automatic_prototypes

TEMPERATURE = 0.1
CLOSE = {"atol": 1e-6, "rtol": 0}
NORMAL = torch.tensor([[1.0, 0, 0.1], [1, 0.2, -0.1]])
GOOD = F.normalize(torch.tensor([[1.0, 0, 0], [1, 0.1, 0]]), dim=-1)
BAD = F.normalize(torch.tensor([[0.0, 1, 0], [0.9, 0.4, 0]]), dim=-1)  # the second is near the normal images


def test_automatic_prototypes_equal_the_formula():
    movement = torch.zeros(2, 2)
    for i, j in torch.cartesian_prod(*[torch.arange(2)] * 2).tolist():
        scores = text_score(NORMAL, torch.stack([GOOD[i], BAD[j]]), TEMPERATURE)
        movement[i, j] = scores.square().mean().sqrt()
    weights = (-10 * movement).exp() / (-10 * movement).exp().sum()
    expected = torch.stack([weights.sum(dim=1) @ GOOD, weights.sum(dim=0) @ BAD])
    found = automatic_prototypes((GOOD, BAD), NORMAL, TEMPERATURE)
    assert_close(found, F.normalize(expected, dim=-1), **CLOSE)
    assert weights.sum(dim=0)[1] < weights.sum(dim=0)[0]
    assert_close(automatic_prototypes((GOOD, BAD), 7 * NORMAL.flip(0), TEMPERATURE), found, **CLOSE)


def test_text_that_takes_normal_images_for_abnormal_leaves_the_score_at_one_half():
    found = automatic_prototypes((BAD[:1], GOOD), NORMAL, TEMPERATURE)
    assert torch.equal(text_score(torch.randn(5, 3), found, TEMPERATURE), torch.full((5,), 0.5))


def test_a_class_has_its_own_prototypes_in_the_bank_and_in_training(small, images):
    model = small(text_prompts="automatic", temperature_image=0.5)
    prompts, names = images[:4].unflatten(0, (2, 2)), ["metal nut", "carpet"]
    for shots, name in zip(prompts, names, strict=True):
        model.set_prompts(shots, name)
    query, context = model.encode_pairs(images[4:6], prompts, names)
    for row, name in enumerate(names):
        own = model.bank.select(name)
        assert_close(context.prototypes[row], own.prototypes, **CLOSE)
        expected = model.text_prototypes(name, own.embeddings)
        assert torch.equal(own.prototypes, expected)
        scores = model.score_components(images[[4 + row]], name).text_score
        assert_close(scores, text_score(query.embedding[[row]], expected, 0.5), **CLOSE)
    model.set_prompts(images[:0], "carpet")
    assert torch.equal(model.bank.select("carpet").prototypes, model.backbone.text_prototypes("carpet"))


def test_alignment_is_that_of_the_bank(small, images):
    model, automatic = small(), small(text_prompts="automatic")
    for one in (model, automatic):
        one.set_prompts(images[:3], "metal nut")
    found = model.text_alignment()
    assert_close(torch.tensor(found.normal_scores), model.score_components(images[:3]).text_score, **CLOSE)
    normal, abnormal = model.backbone.text_prototypes("metal nut")
    assert found.prototype_cosine == pytest.approx(float(normal @ abnormal), abs=1e-6)
    assert found.unknown_words is None  # of random embeddings each is another
    assert automatic.text_alignment() == found  # of all text prompts, whatever is used


@pytest.mark.parametrize(
    ("words", "scores", "warnings"),
    [
        ((), (0.1, 0.2), []),
        (None, (), []),
        (("nut",), (0.1, 0.2), ["does not know 'nut'"]),
        (None, (0.4, 0.6), ["hardly separate"]),
        (("steel", "nut"), (0.9,), ["does not know 'steel', 'nut'", "0.90 on average"]),
    ],
)
def test_doubts_are_logged_once_each(words, scores, warnings, caplog):
    with caplog.at_level(logging.INFO):
        TextAlignment("steel nut", words, 0.5, scores).log()
    logged = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    for message, part in zip(logged, warnings, strict=True):
        assert part in message
        assert "'steel nut'" in message
    assert len(caplog.records) == len(logged) + 1
