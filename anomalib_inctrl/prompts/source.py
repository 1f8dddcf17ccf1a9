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
    """Find the class name of a run on one class: the given one, the datamodule's category, ``"object"`` without one.

    None without a datamodule, or if it has several targets: their images carry their class names.
    """
    if class_name or hasattr(datamodule, "prompt_candidates") or not isinstance(datamodule, AnomalibDataModule):
        return class_name
    return datamodule.category or DEFAULT_CLASS_NAME


def prompt_candidates(datamodule: Any, class_name: str | None) -> dict[str, list[Path]]:
    """List the normal images that may serve as prompts, by class name; empty if there is nothing to choose from.

    Those of a datamodule with ``prompt_candidates()``, or of a stock datamodule the normal images of its train split or
    the frames of its normal videos, under the name by :func:`class_name_of`.
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
    """Read the prompts given by the user (:func:`read_prompt_list`) and assign them to the classes of this run.

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
