# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch

from anomalib_inctrl.data import BalancedSampler, TrainingDraw
from anomalib_inctrl.data.sampler import MaskwiseBatchSampler
from anomalib_inctrl.errors import DatasetError


class Table:
    """Stands for a dataset: the sampler reads its samples only."""

    def __init__(self, **counts):
        rows = [(name, label) for name, pair in counts.items() for label in (0, 1) for _ in range(pair[label])]
        self.samples = pd.DataFrame(rows, columns=["class_name", "label_index"])

    def __len__(self):
        return len(self.samples)


TABLE = Table(bottle=(9, 4), cable=(6, 7), grid=(5, 0))
LABELS = TABLE.samples.label_index.to_numpy()
CLASSES = TABLE.samples.class_name.to_numpy()


def draws(epoch=0, **options):
    sampler = BalancedSampler(**{"dataset": TABLE, "batch_size": 6, "steps_per_epoch": 20, "k_shot": 3} | options)
    sampler.set_epoch(epoch)
    found = list(sampler)
    assert len(found) == len(sampler)
    return found


def batches(found, size=6):
    return [found[start : start + size] for start in range(0, len(found), size)]


def test_every_batch_is_half_normal_half_abnormal():
    for batch in batches(draws()):
        assert sum(LABELS[draw.query] for draw in batch) == 3


def test_place_in_batch_does_not_tell_the_label():
    found = np.array([LABELS[draw.query] for draw in draws(batch_size=8, steps_per_epoch=2000)]).reshape(2000, 8)
    # A fair place is abnormal in half of the batches; 5 standard deviations are 0.056.
    assert np.abs(found.mean(axis=0) - 0.5).max() < 0.056
    assert len({tuple(row) for row in found}) == 70  # every order of 4 and 4 comes up


def test_prompts_are_distinct_normals_of_the_class_and_not_the_query():
    for draw in draws(steps_per_epoch=100):
        assert len(set(draw.prompts)) == 3
        assert draw.query not in draw.prompts
        assert all(LABELS[row] == 0 and CLASSES[row] == CLASSES[draw.query] for row in draw.prompts)


def test_every_possible_prompt_is_drawn():
    seen = {(draw.query, row) for draw in draws(steps_per_epoch=1000) for row in draw.prompts}
    normal = LABELS == 0
    same = CLASSES[:, None] == CLASSES[None, :]
    assert len(seen) == int((same & normal[None, :]).sum() - normal.sum())


def test_no_image_comes_again_before_all_of_its_label_came():
    for label in (0, 1):
        pool = int((label == LABELS).sum())
        queries = [draw.query for draw in draws(steps_per_epoch=100) if LABELS[draw.query] == label]
        counts = Counter(queries)
        assert len(counts) == pool
        assert max(counts.values()) - min(counts.values()) <= 1
        assert len(set(queries[: pool // 3 * 3])) == pool // 3 * 3


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_no_query_in_a_step(world_size):
    ranks = [
        batches(draws(batch_size=2, world_size=world_size, rank=rank, steps_per_epoch=200), 2)
        for rank in range(world_size)
    ]
    for step in zip(*ranks, strict=True):
        queries = [draw.query for batch in step for draw in batch]
        assert len(set(queries)) == 2 * world_size
    assert ranks[0] != ranks[1]


def test_processes_that_need_more_than_there_is_still_get_full_batches():
    ranks = [draws(batch_size=8, world_size=4, rank=rank, steps_per_epoch=3) for rank in range(4)]
    abnormal = Counter(draw.query for found in ranks for draw in found[:8] if LABELS[draw.query])
    assert sum(abnormal.values()) == 16
    assert set(abnormal.values()) <= {1, 2}


def test_epoch_drawn_fresh_equals_epoch_reached_in_turn():
    sampler = BalancedSampler(TABLE, 6, steps_per_epoch=20, k_shot=3, seed=5)
    reached = []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        reached.append(list(sampler))
    assert reached[3] == draws(epoch=3, seed=5)
    assert all(reached[epoch] != reached[epoch + 1] for epoch in range(3))


def test_seeds_differ_also_between_epochs():
    assert draws(seed=1) != draws(seed=0)
    assert draws(seed=1, epoch=0) != draws(seed=0, epoch=1)
    assert len({draw.seed for draw in draws()}) > 100


def test_state_of_other_generators_does_not_matter():
    torch.manual_seed(0)
    first = draws()
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    assert draws() == first
    assert isinstance(first[0], TrainingDraw)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 5}, ValueError, "train_batch_size=5.*even"),
        ({"batch_size": 0}, ValueError, "train_batch_size=0"),
        ({"k_shot": 0}, ValueError, "k_shot=0"),
        ({"steps_per_epoch": 0}, ValueError, "steps_per_epoch=0"),
        ({"one_class_batch_size": -1}, ValueError, "one_class_batch_size=-1: give 0"),
        ({"k_shot": 5}, DatasetError, "'grid' has 5 normal images; k_shot=5 prompts and a query need 6"),
        ({"dataset": Table(a=(9, 0))}, DatasetError, "no abnormal images among 9"),
        ({"dataset": Table(a=(0, 9))}, DatasetError, "no normal images among 9"),
        ({"dataset": Table(a=(9, 1), b=(0, 3))}, DatasetError, "'b' has 0 normal images"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        draws(**options)


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("count", [1, 3, 40])
def test_one_class_queries_leave_the_balanced_ones_as_they_were(count, world_size):
    for rank in range(world_size):
        options = {"epoch": 2, "seed": 3, "world_size": world_size, "rank": rank}
        found = batches(draws(one_class_batch_size=count, **options), 6 + count)
        assert [draw for batch in found for draw in batch[:6]] == draws(**options)
        assert [[draw.one_class for draw in batch] for batch in found] == [[False] * 6 + [True] * count] * 20


def one_class_draws(count, size=6, **options):
    found = batches(draws(batch_size=size, one_class_batch_size=count, **options), size + count)
    return [batch[size:] for batch in found]


def test_one_class_queries_are_normal_with_other_normals_of_their_class_as_prompts():
    found = [draw for batch in one_class_draws(5, steps_per_epoch=100) for draw in batch]
    for draw in found:
        assert LABELS[draw.query] == 0
        assert len({*draw.prompts, draw.query}) == 4
        assert all(LABELS[row] == 0 and CLASSES[row] == CLASSES[draw.query] for row in draw.prompts)
    assert set(CLASSES[[draw.query for draw in found]]) == {"bottle", "cable", "grid"}
    assert len({draw.seed for draw in found}) == len(found)


def test_one_class_queries_come_again_only_after_all_came():
    queries = [draw.query for batch in one_class_draws(3, steps_per_epoch=100) for draw in batch]
    pool = int((LABELS == 0).sum())
    rounds = batches(queries, pool)
    assert all(len(set(one)) == len(one) for one in rounds)
    assert len({tuple(one) for one in rounds}) == len(rounds)


def test_one_class_queries_are_drawn_independently_of_the_balanced_ones():
    found = batches(draws(batch_size=6, one_class_batch_size=3, steps_per_epoch=2000), 9)
    shared = [len({draw.query for draw in batch[:6]} & {draw.query for draw in batch[6:]}) for batch in found]
    # 3 of 20 normal images twice: 0.45 in common on average, with a standard deviation of 0.58 / sqrt(2000).
    assert np.mean(shared) == pytest.approx(0.45, abs=5 * 0.58 / 2000**0.5)


def test_processes_share_no_one_class_query_in_a_step():
    ranks = [one_class_draws(5, size=2, world_size=2, rank=rank, steps_per_epoch=100) for rank in range(2)]
    for step in zip(*ranks, strict=True):
        assert len({draw.query for batch in step for draw in batch}) == 10
    assert {draw.seed for draw in ranks[0][0]} != {draw.seed for draw in ranks[1][0]}


def test_one_class_queries_depend_on_seed_and_epoch_alone():
    first = one_class_draws(4, epoch=3, seed=5)
    sampler = BalancedSampler(TABLE, 6, steps_per_epoch=20, k_shot=3, one_class_batch_size=4, seed=5)
    list(sampler)
    sampler.set_epoch(3)
    torch.manual_seed(1)
    assert [batch[6:] for batch in batches(list(sampler), 10)] == first
    assert one_class_draws(4, epoch=2, seed=5) != first
    assert one_class_draws(4, epoch=3, seed=6) != first


def test_masked_and_maskless_images_do_not_share_a_batch():
    has_mask = [True, False, True, True, False, True, True, False]
    sampler = MaskwiseBatchSampler(range(8), 2, False, has_mask)
    found = list(sampler)
    assert found == [[0, 2], [1, 4], [3, 5], [6], [7]]
    assert len(sampler) == 5
