# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Choosing normal images as prompts: strategies, and lists that are written and read.

A choice depends on the candidates in sorted order, on ``k_shot`` and on the seed, and on nothing else. The choices of
one seed are nested: the prompts of K = 2 are the first two of K = 4.
"""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from pydantic import TypeAdapter
from torch import Tensor

from anomalib_inctrl.errors import PromptError
from anomalib_inctrl.io.files import write_text_atomic
from anomalib_inctrl.io.images import list_images
from anomalib_inctrl.io.video import is_frame

Encoder = Callable[[Sequence[Path]], Tensor]
"""Images to one feature vector each, ``(N, D)``."""

PROMPT_LIST_NAME = "prompts.json"
_PROMPT_LISTS = TypeAdapter(dict[str, list[str]])


def check_k_shot(k_shot: int) -> None:
    """Refuse a negative number of prompts by a ``PromptError``."""
    if k_shot < 0:
        msg = f"k_shot={k_shot}: give the number of prompts per class, 0 for text prompts alone."
        raise PromptError(msg)


class PromptSelector(ABC):
    """A strategy to choose ``k_shot`` prompts among normal images.

    Args:
        seed: Seed of random choices; deterministic strategies ignore it.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def select(self, candidates: Sequence[Path], k_shot: int, encode: Encoder) -> list[Path]:
        """Choose prompts.

        Args:
            candidates: Normal images of one class, in any order.
            k_shot: How many to choose.
            encode: Gives the candidates' features to strategies that need them.

        Returns:
            ``k_shot`` paths, in order of choice.

        Raises:
            PromptError: If there are fewer candidates than ``k_shot``, or ``k_shot`` is negative.
        """
        check_k_shot(k_shot)
        candidates = sorted(set(candidates))
        if len(candidates) < k_shot:
            where = f" in {candidates[0].parent}" if candidates else ""
            msg = f"k_shot={k_shot}: only {len(candidates)} normal images to choose prompts from{where}."
            raise PromptError(msg)
        return [candidates[index] for index in self.order(candidates, k_shot, encode)]

    @abstractmethod
    def order(self, candidates: Sequence[Path], k_shot: int, encode: Encoder) -> list[int]:
        """Indices of the ``k_shot`` chosen ones among the sorted candidates."""


class RandomSelector(PromptSelector):
    """A seeded draw without replacement, the same on every machine and in every release."""

    def order(self, candidates: Sequence[Path], k_shot: int, encode: Encoder) -> list[int]:
        """Order candidates by a hash of seed and position; see :meth:`PromptSelector.order`."""
        del encode
        # A hash, not a random generator: no library guarantees its generator's sequence across releases.
        ranks = [hashlib.sha256(f"{self.seed}/{position}".encode()).digest() for position in range(len(candidates))]
        return sorted(range(len(candidates)), key=ranks.__getitem__)[:k_shot]


class FirstSelector(PromptSelector):
    """The first candidates in sorted order."""

    def order(self, candidates: Sequence[Path], k_shot: int, encode: Encoder) -> list[int]:
        """Take candidates from the start; see :meth:`PromptSelector.order`."""
        del candidates, encode
        return list(range(k_shot))


class RepresentativeSelector(PromptSelector):
    """Greedy k-center in feature space: the most central image, then always the one farthest from those chosen.

    It avoids unrepresentative prompts, which the authors name as the method's main weakness (InCTRL, section 5).
    Encodes every candidate once.
    """

    def order(self, candidates: Sequence[Path], k_shot: int, encode: Encoder) -> list[int]:
        """Choose centres greedily; see :meth:`PromptSelector.order`."""
        features = torch.nn.functional.normalize(encode(candidates).double(), dim=-1)
        distances = 1 - features @ features.T
        chosen = [int(distances.mean(dim=1).argmin())]
        while len(chosen) < k_shot:
            to_nearest_center = distances[:, chosen].amin(dim=1)
            to_nearest_center[chosen] = -torch.inf
            chosen.append(int(to_nearest_center.argmax()))
        return chosen[:k_shot]


SELECTORS: dict[str, type[PromptSelector]] = {
    "random": RandomSelector,
    "first": FirstSelector,
    "representative": RepresentativeSelector,
}


def create_selector(name: str, seed: int = 0) -> PromptSelector:
    """Create a selection strategy by its name in :data:`SELECTORS`.

    Args:
        name: ``"random"``, ``"first"``, ``"representative"``, or a name added to :data:`SELECTORS`.
        seed: See :class:`PromptSelector`.

    Returns:
        The strategy.

    Raises:
        PromptError: If there is none of that name.
    """
    if name not in SELECTORS:
        msg = f"prompt_selection={name!r}: no such strategy. Choose one of {sorted(SELECTORS)}."
        raise PromptError(msg)
    return SELECTORS[name](seed)


def read_prompt_list(source: str | Path | Sequence[str | Path]) -> dict[str | None, list[Path]]:
    """Read a choice of prompts made by the user.

    Args:
        source: A folder of images, one image, several images, a text file with one path a line, or a ``prompts.json``
            as written beside results. Relative paths in a file are taken from the current folder, then from the
            file's.

    Returns:
        Paths by class name; under ``None`` where the source names no class.

    Raises:
        PromptError: If there is no such source, it is empty, or an image it names does not exist.
    """
    lists: Mapping[str | None, Sequence[str | Path]] = {None: source}  # type: ignore[dict-item]
    if isinstance(source, (str, Path)):
        source = Path(source)
        if not source.exists():
            msg = f"prompts={source}: no such folder or file. Give a folder of normal images or a list of them."
            raise PromptError(msg)
        try:
            lists = _listed(source)
        except ValueError as error:
            msg = (
                f"prompts={source}: not readable ({error}). Write one image path a line, in UTF-8, or "
                f"{{class name: [paths]}} as in {PROMPT_LIST_NAME}."
            )
            raise PromptError(msg) from error
    if not lists or (None in lists and not len(lists[None])):
        msg = f"prompts={source}: holds no images. Name at least one normal image, or put it directly into the folder."
        raise PromptError(msg)
    return {name: [_existing(Path(path), source) for path in paths] for name, paths in lists.items()}


def _listed(source: Path) -> Mapping[str | None, Sequence[str | Path]]:
    if source.is_dir():
        return {None: list_images(source)}
    if source.suffix == ".json":
        return dict(_PROMPT_LISTS.validate_json(source.read_bytes()).items())
    if source.suffix == ".txt":
        lines = source.read_text(encoding="utf-8").splitlines()
        return {None: [line.strip() for line in lines if line.strip()]}
    return {None: [source]}


def write_prompt_list(prompts: Mapping[str, Sequence[str]], folder: str | Path) -> Path:
    """Write paths of prompts by class name to ``prompts.json`` in a folder, for :func:`read_prompt_list`."""
    content = {name: list(files) for name, files in sorted(prompts.items())}
    return write_text_atomic(Path(folder) / PROMPT_LIST_NAME, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _existing(path: Path, source: object) -> Path:
    for place in [path, source.parent / path] if isinstance(source, Path) else [path]:
        if os.path.isfile(place) or is_frame(place):  # noqa: PTH113  # False for names that no file can have
            return place
    msg = f"prompts={source}: names {path}, which does not exist. Correct the list."
    raise PromptError(msg)
