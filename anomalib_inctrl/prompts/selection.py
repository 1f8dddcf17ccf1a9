# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Which normal images serve as prompts: strategies, and lists kept and given back.

A choice depends on the candidates in sorted order, on ``k_shot`` and on the seed, and on nothing else. The choices of
one seed are nested: the prompts of K = 2 are the first two of K = 4.
"""

from __future__ import annotations

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from anomalib_inctrl.errors import PromptError
from anomalib_inctrl.io.files import write_text_atomic
from anomalib_inctrl.io.images import list_images
from anomalib_inctrl.io.video import is_frame

logger = logging.getLogger(__name__)

Encoder = Callable[[Sequence[Path]], Tensor]
"""Images to one feature vector each, ``(N, D)``."""

PROMPT_LIST_NAME = "prompts.json"


def check_k_shot(k_shot: int) -> None:
    """Refuse a number of prompts that cannot be.

    Args:
        k_shot: The number.

    Raises:
        PromptError: If it is negative.
    """
    if k_shot < 0:
        msg = f"k_shot={k_shot}: give the number of prompts per class, 0 for text prompts alone."
        raise PromptError(msg)


class PromptSelector(ABC):
    """A way to choose ``k_shot`` prompts among normal images.

    Args:
        seed: Decides between equally good choices; strategies without chance ignore it.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def select(self, candidates: Sequence[Path], k_shot: int, encode: Encoder) -> list[Path]:
        """Choose prompts.

        Args:
            candidates: Normal images of one class, in any order.
            k_shot: How many to choose.
            encode: Gives the candidates' features to strategies that look at the images.

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
        return sorted(range(len(candidates)), key=self._rank)[:k_shot]

    def _rank(self, position: int) -> bytes:
        # A hash, not a random generator: no library promises its generator's sequence for ever.
        return hashlib.sha256(f"{self.seed}/{position}".encode()).digest()


class FirstSelector(PromptSelector):
    """The first ones in sorted order."""

    def order(self, candidates: Sequence[Path], k_shot: int, encode: Encoder) -> list[int]:
        """Count from the start; see :meth:`PromptSelector.order`."""
        del candidates, encode
        return list(range(k_shot))


class RepresentativeSelector(PromptSelector):
    """Greedy k-center in feature space: the most central image, then always the one farthest from those chosen.

    Meant against unrepresentative prompts, which the authors name as the method's main weakness (InCTRL, section 5).
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
    """Read which images the user wants as prompts.

    Args:
        source: A folder of images, one image, several images, a text file with one path a line, or a ``prompts.json``
            as written beside results. Relative paths in a file are taken from the current folder, then from the
            file's.

    Returns:
        Paths by class name; under ``None`` where the source names no class.

    Raises:
        PromptError: If there is no such source, it is empty, or an image it names does not exist.
    """
    if not isinstance(source, (str, Path)):
        if not len(source):
            msg = f"prompts={source}: the list is empty. Name at least one normal image."
            raise PromptError(msg)
        return {None: [_existing(Path(path), source) for path in source]}
    path = Path(source)
    if path.is_dir():
        if not (images := list_images(path)):
            msg = f"prompts={path}: the folder holds no images. Put the normal images directly into it."
            raise PromptError(msg)
        return {None: list(images)}
    if not path.is_file():
        msg = f"prompts={path}: no such folder or file. Give a folder of normal images or a list of them."
        raise PromptError(msg)
    if path.suffix == ".json":
        try:
            lists = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            msg = f"prompts={path}: expected {{class name: [paths]}} as written to {PROMPT_LIST_NAME} ({error})."
            raise PromptError(msg) from error
        return _read_lists(lists, path)
    if path.suffix == ".txt":
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            msg = f"prompts={path}: not readable as text ({error}). Write one image path a line, in UTF-8."
            raise PromptError(msg) from error
        if not lines:
            msg = f"prompts={path}: the list is empty. Write one image path a line."
            raise PromptError(msg)
        return {None: [_existing(Path(line), path) for line in lines]}
    return {None: [path]}


def _read_lists(lists: object, path: Path) -> dict[str | None, list[Path]]:
    if not isinstance(lists, dict) or not all(
        isinstance(files, list) and all(isinstance(file, str) for file in files) for files in lists.values()
    ):
        msg = f"prompts={path}: expected {{class name: [paths]}} as written to {PROMPT_LIST_NAME}."
        raise PromptError(msg)
    if not lists:
        msg = f"prompts={path}: the list is empty. Name the normal images of at least one class."
        raise PromptError(msg)
    return {name: [_existing(Path(file), path) for file in files] for name, files in lists.items()}


def write_prompt_list(prompts: Mapping[str, Sequence[str]], folder: str | Path) -> Path:
    """Write the prompts in use to ``prompts.json``, from where they can be given back.

    Args:
        prompts: Paths by class name.
        folder: Folder of the results.

    Returns:
        The file written.
    """
    content = {name: list(files) for name, files in sorted(prompts.items())}
    return write_text_atomic(Path(folder) / PROMPT_LIST_NAME, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _existing(path: Path, source: object) -> Path:
    places = [path]
    if isinstance(source, Path) and not path.is_absolute():
        places.append(source.parent / path)
    for place in places:
        if _is_picture(place):
            return place
    msg = f"prompts={source}: names {path}, which does not exist. Correct the list."
    raise PromptError(msg)


def _is_picture(path: Path) -> bool:
    try:
        return path.is_file() or is_frame(path)
    except OSError:  # no name that a file can have
        return False
