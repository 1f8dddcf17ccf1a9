# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Sources of prompts: a list given by the user, or the normal images of a datamodule's train split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule
from anomalib.data.datasets.base import AnomalibVideoDataset
from anomalib.data.utils import LabelName

from anomalib_inctrl.data.video import normal_frames
from anomalib_inctrl.errors import PromptError
from anomalib_inctrl.prompts.selection import read_prompt_list

DEFAULT_CLASS_NAME = "object"


def class_name_of(datamodule: object, class_name: str | None) -> str | None:
    """Find the class name of a run on one class.

    Args:
        datamodule: anomalib datamodule with a ``category``, or any other object.
        class_name: Name given by the user; takes precedence over the category.

    Returns:
        The given name, the datamodule's category, ``"object"`` for a datamodule without one, or ``None`` without a
        datamodule.
    """
    # Images of a datamodule of several targets carry their class names.
    if class_name or hasattr(datamodule, "prompt_candidates") or not isinstance(datamodule, AnomalibDataModule):
        return class_name
    return datamodule.category or DEFAULT_CLASS_NAME


def prompt_candidates(datamodule: Any, class_name: str | None) -> dict[str, list[Path]]:
    """List the normal images that may serve as prompts.

    Args:
        datamodule: A datamodule with ``prompt_candidates()``, a stock anomalib datamodule (the normal images of its
            train split, or the frames of its normal videos), or ``None``.
        class_name: Class name for a stock datamodule; see :func:`class_name_of`.

    Returns:
        Paths by class name; empty if there is nothing to choose from.
    """
    if hasattr(datamodule, "prompt_candidates"):
        return dict(datamodule.prompt_candidates())
    name = class_name_of(datamodule, class_name)
    train_data = getattr(datamodule, "train_data", None)
    if name is None or train_data is None:
        return {}
    if isinstance(train_data, AnomalibVideoDataset):
        return {name: normal_frames(train_data)}
    samples = train_data.samples
    normal = samples[samples.label_index == LabelName.NORMAL]
    return {name: [Path(path) for path in sorted(normal.image_path)]}


def given_prompts(source: str | list[str], class_names: list[str]) -> dict[str, list[Path]]:
    """Read the prompts given by the user and assign them to classes.

    Args:
        source: See :func:`anomalib_inctrl.prompts.selection.read_prompt_list`.
        class_names: Classes of this run.

    Returns:
        Paths by class name.

    Raises:
        PromptError: If the source names no class and the run has several.
    """
    lists = read_prompt_list(source)
    if None not in lists:
        return {name: paths for name, paths in lists.items() if name is not None}
    if len(class_names) > 1:
        msg = (
            f"prompts={source}: the run has several classes, {class_names}, and this list names none. Give a "
            'prompts.json: {"class name": ["path", ...], ...}.'
        )
        raise PromptError(msg)
    return {class_names[0] if class_names else DEFAULT_CLASS_NAME: lists[None]}
