# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Which prompts a run uses, and how they get into the model's bank."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from anomalib_inctrl.errors import PromptError
from anomalib_inctrl.images import read_image
from anomalib_inctrl.prompts.selection import check_k_shot, create_selector, write_prompt_list
from anomalib_inctrl.prompts.shifts import check_prompt_shifts
from anomalib_inctrl.prompts.source import class_name_of, given_prompts, prompt_candidates

if TYPE_CHECKING:
    from anomalib.models import AnomalibModule as _Base

    from anomalib_inctrl.models.components.few_shot import FewShotModel
else:
    _Base = object

logger = logging.getLogger(__name__)

_ENCODE_BATCH = 32


class PromptingMixin(_Base):
    """Collects the prompts of a run. A part of :class:`FewShotMixin`."""

    model: FewShotModel
    _restored_prompts: set[str]  # of RestoringMixin

    def _init_prompting(self) -> None:
        """Refuse now, not after training, what cannot be."""
        create_selector(self.hparams["prompt_selection"])
        check_k_shot(self.hparams["k_shot"])
        check_prompt_shifts(self.hparams["prompt_shifts"])
        self._class_name: str | None = self.hparams["class_name"]
        # What the prompts of a class that this module put into the bank were chosen from, and how.
        self._collected: dict[str, tuple[Any, ...]] = {}

    @property
    def prompt_files(self) -> dict[str, list[str]]:
        """Files the prompts in use came from, by class name."""
        return self.model.bank.files

    def _collect_prompts(self, datamodule: object) -> None:
        """Fill the bank for the classes of this run.

        Prompts the user names go first. Prompts from a checkpoint, or set by hand, stay. All others are chosen among
        the train split's normal images.

        Args:
            datamodule: The run's; None if it has none.
        """
        candidates = prompt_candidates(datamodule, self.hparams["class_name"])
        self._class_name = class_name_of(datamodule, self.hparams["class_name"])
        named = self._put_named_prompts(list(candidates) or [name for name in [self._class_name] if name])
        for name, paths in candidates.items():
            by_hand = name in self.model.bank and name not in self._collected
            if name in named or by_hand or name in self._restored_prompts:
                continue
            if named and name not in self._collected:
                logger.warning(
                    "prompts=%s names images of %s, none of %r: its prompts are chosen among the train split's normal "
                    "images. Is the class name spelt alike?",
                    self.hparams["prompts"],
                    named,
                    name,
                )
            self._choose_prompts(name, paths)
        self._put_text_prompts(self._class_name)
        self._write_prompt_list()

    def _put_named_prompts(self, class_names: Sequence[str]) -> list[str]:
        """Put the prompts the user named into the bank.

        Args:
            class_names: Classes of this run.

        Returns:
            The classes whose images the user named.
        """
        named = given_prompts(self.hparams["prompts"], list(class_names)) if self.hparams["prompts"] is not None else {}
        for name, paths in named.items():
            self._put_prompts(name, paths, key=("given", *paths))
        return list(named)

    def _put_text_prompts(self, class_name: str | None) -> None:
        """With ``k_shot=0`` there are only text prompts, which need no images to choose among."""
        if self.hparams["k_shot"] == 0 and class_name and class_name not in self.model.bank:
            self._put_prompts(class_name, [], key=("zero-shot",))

    def _choose_prompts(self, class_name: str, candidates: Sequence[Path]) -> None:
        settings = (self.hparams["k_shot"], self.hparams["prompt_selection"], self.hparams["seed"])
        if self._collected.get(class_name) == (settings, *candidates):
            return
        selector = create_selector(self.hparams["prompt_selection"], self.hparams["seed"])
        try:
            chosen = selector.select(candidates, self.hparams["k_shot"], self._encode_candidates)
        except PromptError as error:
            msg = f"class_name={class_name!r}: {error}"
            raise PromptError(msg) from error
        self._put_prompts(class_name, chosen, key=(settings, *candidates))

    def _put_prompts(self, class_name: str, paths: Sequence[Path], key: tuple[Any, ...]) -> None:
        if self._collected.get(class_name) == key:
            return
        height, width = self.model.backbone.image_size
        images = self._read_prompts(paths) if paths else torch.empty(0, 3, height, width)
        self.model.set_prompts(images, class_name, [str(path) for path in paths])
        self._collected[class_name] = key

    def _read_prompts(self, paths: Sequence[Path]) -> Tensor:
        """Read images and bring them through the same preprocessing as queries ``(N, 3, H, W)``."""
        transform: Any = self.pre_processor.transform if self.pre_processor is not None else None
        images = [read_image(path).unsqueeze(0) for path in paths]
        return torch.cat([transform(image) if transform else image for image in images])

    def _encode_candidates(self, paths: Sequence[Path]) -> Tensor:
        batches = [paths[start : start + _ENCODE_BATCH] for start in range(0, len(paths), _ENCODE_BATCH)]
        progress = tqdm(batches, desc="Looking at prompt candidates", unit="batch", leave=False)
        backbone = self.model.backbone
        features = [backbone.encode_image(self._read_prompts(batch).to(self.device)).image for batch in progress]
        return torch.cat(features).cpu()

    def _write_prompt_list(self) -> None:
        folder = Path(self.trainer.default_root_dir)
        writes = self.trainer.is_global_zero and not (self.trainer.fast_dev_run or self.trainer.barebones)  # type: ignore[attr-defined]
        if writes and any(self.prompt_files.values()):
            write_prompt_list(self.prompt_files, folder)
