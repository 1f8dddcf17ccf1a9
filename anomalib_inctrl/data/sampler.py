# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Samplers that compose training and test batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import distributed
from torch.utils.data import BatchSampler, DistributedSampler, Sampler

from anomalib_inctrl.data.batch import TrainingDraw
from anomalib_inctrl.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from numpy.typing import NDArray

    from anomalib_inctrl.data.dataset import GeneralistDataset


class BalancedSampler(DistributedSampler[TrainingDraw]):
    """Draws batches of half normal, half abnormal queries, each with prompts of its own class.

    Each run of ``draws_per_step`` draws is one batch of one process: first ``batch_size`` balanced queries in random
    order, so that position and label are independent, then ``one_class_batch_size`` normal ones. Queries are drawn
    uniformly over all normal and over all abnormal images, as the authors do: a class weighs as much as it has images.
    Within an epoch no image is drawn again before all of its label were, over all processes together. Prompts
    are drawn without replacement from the normal images of the query's class, never the query itself.

    The one-class queries are drawn as the others are, but from a pool of their own: an image may be in both parts of a
    batch, and the balanced queries, their prompts and augmentations are the same with and without them.

    Draws depend on seed, epoch, step and rank alone. Lightning keeps a ``DistributedSampler`` and sets its epoch.

    Args:
        dataset: Dataset to draw from.
        batch_size: Balanced queries a batch and process, an even number.
        steps_per_epoch: Batches an epoch.
        k_shot: Prompts a query.
        one_class_batch_size: Normal queries for a one-class branch, a batch and process, beside ``batch_size``.
        seed: Seed of all draws.
        classes: Class names to draw from; all by default.
        world_size: Number of processes; that of ``torch.distributed`` by default, or one.
        rank: Index of this process, likewise.

    Raises:
        DatasetError: If there are no normal or no abnormal images, or a class has too few normal ones.
    """

    def __init__(
        self,
        dataset: GeneralistDataset,
        batch_size: int,
        *,
        steps_per_epoch: int = 100,
        k_shot: int = 2,
        one_class_batch_size: int = 0,
        seed: int = 0,
        classes: Collection[str] | None = None,
        world_size: int | None = None,
        rank: int | None = None,
    ) -> None:
        running = distributed.is_available() and distributed.is_initialized()
        super().__init__(
            dataset,
            num_replicas=world_size or (distributed.get_world_size() if running else 1),
            rank=rank if rank is not None else (distributed.get_rank() if running else 0),
            seed=seed,
        )
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        self.k_shot = k_shot
        self.one_class_batch_size = one_class_batch_size

        abnormal = dataset.samples["label_index"].to_numpy(dtype=int) == 1
        self._class_of = dataset.samples["class_name"].to_numpy()
        names = sorted(set(self._class_of) if classes is None else classes)
        chosen = np.isin(self._class_of, names)
        self._pools = {"normal": np.flatnonzero(chosen & ~abnormal), "abnormal": np.flatnonzero(chosen & abnormal)}
        for label, pool in self._pools.items():
            if not len(pool):
                msg = f"auxiliary: no {label} images among {len(dataset)}. Training needs normal and abnormal ones."
                raise DatasetError(msg)
        # Per class the rows of its normal images, in ascending order.
        self._normals = {name: np.flatnonzero(~abnormal & (self._class_of == name)) for name in names}
        for name, normals in self._normals.items():
            if len(normals) < k_shot + 1:
                msg = (
                    f"auxiliary: class {name!r} has {len(normals)} normal images; k_shot={k_shot} prompts and a query "
                    f"need {k_shot + 1}. Add normal images, lower k_shot or leave the class out."
                )
                raise DatasetError(msg)

    @property
    def draws_per_step(self) -> int:
        """Draws of this process in a step, both parts together: the batch size of the loader."""
        return self.batch_size + self.one_class_batch_size

    def __len__(self) -> int:
        """Draws of this process in an epoch."""
        return self.steps_per_epoch * self.draws_per_step

    def __iter__(self) -> Iterator[TrainingDraw]:
        """Draws of this process in the current epoch."""
        # Queries come from the streams that all processes share, so that they are dealt out without overlap. Both parts
        # of the batch have streams of their own.
        shared, own = self._stream(0), self._stream(1 + self.rank)
        decks = [self._deal(pool, self.batch_size // 2, shared) for pool in self._pools.values()]
        own_one_class = self._stream(1 + self.rank, 1)
        one_class = self._deal(self._pools["normal"], self.one_class_batch_size, self._stream(0, 1))
        for _ in range(self.steps_per_epoch):
            queries = np.concatenate([next(deck) for deck in decks])
            yield from [self._draw(query, own) for query in own.permutation(queries)]
            yield from [self._draw(query, own_one_class, one_class=True) for query in next(one_class)]

    def _stream(self, who: int, *part: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch, who, *part])

    def _deal(self, pool: NDArray[np.int_], count: int, rng: np.random.Generator) -> Iterator[NDArray[np.int_]]:
        """Deal ``count`` rows of a pool to each process in random order, again and again; yields those of this one."""
        left = pool[:0]
        while True:
            dealt = pool[:0]
            while (missing := count * self.num_replicas - len(dealt)) > 0:
                if not len(left):
                    # Rows dealt in this step come last, so that a step repeats a row only if the pool is smaller.
                    left = rng.permutation(pool)
                    left = left[np.argsort(np.isin(left, dealt), kind="stable")]
                dealt, left = np.concatenate([dealt, left[:missing]]), left[missing:]
            yield dealt[self.rank * count : (self.rank + 1) * count]

    def _draw(self, query: int, rng: np.random.Generator, one_class: bool = False) -> TrainingDraw:
        normals = self._normals[self._class_of[query]]
        prompts = rng.choice(normals[normals != query], self.k_shot, replace=False)
        return TrainingDraw(int(query), tuple(prompts.tolist()), int(rng.integers(2**31)), one_class)


class MaskwiseBatchSampler(BatchSampler):
    """Batches in order, keeping images with and without a known mask apart.

    anomalib's pixel metrics take a batch's masks all or none, so a mixed batch would count unknown masks as empty ones.

    Args:
        sampler: Rows in order.
        batch_size: Images a batch.
        drop_last: Whether to leave out incomplete batches.
        has_mask: For each row whether its mask is known.
    """

    def __init__(self, sampler: Sampler[int], batch_size: int, drop_last: bool, has_mask: Sequence[bool]) -> None:
        super().__init__(sampler, batch_size, drop_last)
        self.has_mask = has_mask

    def __iter__(self) -> Iterator[list[int]]:
        """Batches of rows."""
        waiting: dict[bool, list[int]] = {True: [], False: []}
        for row in self.sampler:
            known = self.has_mask[row]
            waiting[known].append(row)
            if len(waiting[known]) == self.batch_size:
                yield waiting[known]
                waiting[known] = []
        if not self.drop_last:
            yield from filter(None, waiting.values())

    def __len__(self) -> int:
        """Number of batches."""
        return sum(1 for _ in self)
