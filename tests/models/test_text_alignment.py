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


@pytest.fixture
def fitting():
    """States and normal images: the second abnormal state, and not the first, is near the normal images."""
    directions = F.normalize(torch.tensor([[1.0, 0, 0], [1, 0.1, 0], [0, 1, 0], [0.9, 0.4, 0]]), dim=-1)
    return (directions[:2], directions[2:]), torch.tensor([[1.0, 0, 0.1], [1, 0, -0.1]])


def ensemble(states):
    return F.normalize(torch.stack([part.mean(dim=0) for part in states]), dim=-1)


def test_states_that_move_on_normal_images_lose_weight(fitting):
    states, normal = fitting
    found = automatic_prototypes(states, normal, TEMPERATURE)
    assert_close(found.norm(dim=-1), torch.ones(2), **CLOSE)
    assert found[1] @ states[1][0] > ensemble(states)[1] @ states[1][0]
    by_all, by_chosen = (text_score(normal, part, TEMPERATURE) for part in (ensemble(states), found))
    assert bool((by_chosen < by_all).all())


def test_equal_states_and_the_order_of_images_change_nothing(fitting):
    states, normal = fitting
    alike = states[0][:1].expand(3, -1), states[1][:1].expand(2, -1)
    assert_close(automatic_prototypes(alike, normal, TEMPERATURE), ensemble(alike), **CLOSE)
    found = automatic_prototypes(states, normal, TEMPERATURE)
    assert_close(automatic_prototypes(states, normal.flip(0), TEMPERATURE), found, **CLOSE)
    assert_close(automatic_prototypes(states, 7 * normal, TEMPERATURE), found, **CLOSE)


def test_text_that_takes_normal_images_for_abnormal_says_nothing(fitting):
    (good, bad), normal = fitting
    found = automatic_prototypes((bad[:1], good), normal, TEMPERATURE)
    assert torch.equal(text_score(torch.randn(5, 3), found, TEMPERATURE), torch.full((5,), 0.5))


def test_a_class_has_its_own_prototypes_in_the_bank_and_in_training(tiny, pool):
    model = tiny(text_prompts="automatic", temperature_image=0.5)
    prompts, names = pool[:4].unflatten(0, (2, 2)), ["metal nut", "carpet"]
    for images, name in zip(prompts, names, strict=True):
        model.set_prompts(images, name)
    query, context = model.encode_pairs(pool[4:6], prompts, names)
    for row, name in enumerate(names):
        own = model.bank.select(name)
        assert_close(context.prototypes[row], own.prototypes, **CLOSE)
        expected = model.text_prototypes(name, own.embeddings)
        assert torch.equal(own.prototypes, expected)
        scores = model.score_components(pool[[4 + row]], name).text_score
        assert_close(scores, text_score(query.embedding[[row]], expected, 0.5), **CLOSE)
    model.set_prompts(pool[:0], "carpet")
    assert torch.equal(model.bank.select("carpet").prototypes, model.backbone.text_prototypes("carpet"))


def test_alignment_is_that_of_the_bank(tiny, pool):
    model = tiny()
    model.set_prompts(pool[:3], "metal nut")
    found = model.text_alignment()
    expected = model.score_components(pool[:3]).text_score
    assert_close(torch.tensor(found.normal_scores), expected, **CLOSE)
    normal, abnormal = model.backbone.text_prototypes("metal nut")
    assert found.prototype_cosine == pytest.approx(float(normal @ abnormal), abs=1e-6)
    assert found.unknown_words is None  # of random embeddings each is another
    automatic = tiny(text_prompts="automatic")
    automatic.set_prompts(pool[:3], "metal nut")
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
    alignment = TextAlignment("steel nut", words, 0.5, scores)
    with caplog.at_level(logging.INFO):
        alignment.log()
    logged = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(logged) == len(warnings)
    for message, part in zip(logged, warnings, strict=True):
        assert part in message
        assert "'steel nut'" in message
    assert sum(record.levelno == logging.INFO for record in caplog.records) == 1
