# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Which prompts a run uses, and how they get into the model's bank."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from anomalib_inctrl.errors import PromptError
from anomalib_inctrl.io.images import read_image
from anomalib_inctrl.models.components.few_shot_model import FewShotModel
from anomalib_inctrl.prompts.selection import check_k_shot, create_selector, read_prompt_list
from anomalib_inctrl.prompts.source import class_name_of, given_prompts, prompt_candidates

logger = logging.getLogger(__name__)

_ENCODE_BATCH = 32


class PromptCollector:
    """Fills a model's prompt bank for the classes of a run.

    Prompts that the user names go first. Prompts from a checkpoint, or set in Python, stay. All others are chosen among
    the normal images of the train split. Prompts chosen or named as before are not encoded again.

    Args:
        settings: The Lightning module's arguments ``k_shot``, ``class_name``, ``prompts``, ``prompt_selection``,
            ``prompt_shifts`` and ``seed``.

    Raises:
        PromptError: If ``k_shot`` is negative, or ``prompts`` or ``prompt_selection`` do not exist.

    Attributes:
        class_name: Class of the images that come without one; known after :meth:`collect`.
        restored: Classes whose prompts are a checkpoint's.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        create_selector(settings["prompt_selection"])
        check_k_shot(settings["k_shot"])
        if settings["prompts"] is not None:
            read_prompt_list(settings["prompts"])  # what does not exist is reported here
        self._settings = settings
        self.class_name: str | None = settings["class_name"]
        self.restored: set[str] = set()
        # For each class set here, what its prompts were chosen from, and how.
        self._collected: dict[str, tuple[Any, ...]] = {}

    def collect(self, model: FewShotModel, datamodule: object, transform: Callable[[Tensor], Tensor] | None) -> None:
        """Fill the bank for the classes of a run.

        Args:
            model: The model whose bank is filled.
            datamodule: The run's; None if it has none.
            transform: Preprocessing of images; None leaves them as they are.

        Raises:
            PromptError: If a class has too few normal images, or the named prompts do not fit the run.
            ImageFileError: If an image cannot be read.
        """
        candidates = prompt_candidates(datamodule, self._settings["class_name"])
        self.class_name = class_name_of(datamodule, self._settings["class_name"])
        named = self.put_named_prompts(
            model, list(candidates) or [name for name in [self.class_name] if name], transform
        )
        for name, paths in candidates.items():
            set_in_python = name in model.bank and name not in self._collected
            if name in named or set_in_python or name in self.restored:
                continue
            if named and name not in self._collected:
                logger.warning(
                    "prompts=%s names images of %s, none of %r: its prompts are chosen among the train split's normal "
                    "images. Is the class name spelt alike?",
                    self._settings["prompts"],
                    named,
                    name,
                )
            self._choose_prompts(model, name, paths, transform)
        self.put_text_prompts(model, self.class_name)

    def put_named_prompts(
        self, model: FewShotModel, class_names: Sequence[str], transform: Callable[[Tensor], Tensor] | None
    ) -> list[str]:
        """Put the prompts that the user named into the bank.

        Args:
            model: The model whose bank is filled.
            class_names: Classes of this run.
            transform: Preprocessing of images.

        Returns:
            The classes whose images the user named.
        """
        source = self._settings["prompts"]
        named = given_prompts(source, list(class_names)) if source is not None else {}
        for name, paths in named.items():
            self._put(model, name, paths, transform, key=("given", *paths))
        return list(named)

    def put_text_prompts(self, model: FewShotModel, class_name: str | None) -> None:
        """With ``k_shot=0`` put the text prompts of the class into the bank; they need no images.

        Args:
            model: The model whose bank is filled.
            class_name: The class; None puts nothing.
        """
        if self._settings["k_shot"] == 0 and class_name and class_name not in model.bank:
            self._put(model, class_name, [], None, key=("zero-shot",))

    def _choose_prompts(
        self,
        model: FewShotModel,
        class_name: str,
        candidates: Sequence[Path],
        transform: Callable[[Tensor], Tensor] | None,
    ) -> None:
        k_shot, selection, seed = (self._settings[name] for name in ("k_shot", "prompt_selection", "seed"))
        key = ((k_shot, selection, seed), *candidates)
        if self._collected.get(class_name) == key:
            return

        def encode(paths: Sequence[Path]) -> Tensor:
            batches = [paths[start : start + _ENCODE_BATCH] for start in range(0, len(paths), _ENCODE_BATCH)]
            progress = tqdm(batches, desc="Encoding prompt candidates", unit="batch", leave=False)
            device = model.backbone.device
            encoded = [
                model.backbone.encode_image(read_images(batch, transform).to(device)).embedding for batch in progress
            ]
            return torch.cat(encoded).cpu()

        try:
            chosen = create_selector(selection, seed).select(candidates, k_shot, encode)
        except PromptError as error:
            msg = f"class_name={class_name!r}: {error}"
            raise PromptError(msg) from error
        self._put(model, class_name, chosen, transform, key)

    def _put(
        self,
        model: FewShotModel,
        class_name: str,
        paths: Sequence[Path],
        transform: Callable[[Tensor], Tensor] | None,
        key: tuple[Any, ...],
    ) -> None:
        if self._collected.get(class_name) == key:
            return
        images = read_images(paths, transform) if paths else torch.empty(0, 3, *model.backbone.image_size)
        model.set_prompts(images, class_name, [str(path) for path in paths])
        if (alignment := model.text_alignment(class_name)) is not None:
            alignment.log()
        self._collected[class_name] = key


def read_images(paths: Sequence[Path | str], transform: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Read images and apply the same preprocessing as to queries ``(N, 3, H, W)``."""
    images = [read_image(path).unsqueeze(0) for path in paths]
    return torch.cat([transform(image) if transform else image for image in images])
