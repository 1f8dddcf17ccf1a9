# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The prompt bank: encoded prompts by class name, part of a model's state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from anomalib_inctrl.errors import PromptError


@dataclass(frozen=True)
class PromptContext:
    """The prompts that queries are compared with: one context for all queries, or one per query.

    Attributes:
        patches: Unit patch tokens of the prompts, ``(K, L, P, D_v)`` or ``(B, K, L, P, D_v)``; several times as many
            where each prompt is seen at several offsets.
        embeddings: Class embeddings of the prompts, ``(K, D)`` or ``(B, K, D)``.
        prototypes: Normal and abnormal text prototypes, ``(2, D)`` or ``(B, 2, D)``.
        similarity: Cosines of the queries at hand with their nearest prompt patches ``(B, L, P)``, where they are known
            already; ``patches`` are not looked at then.
    """

    patches: Tensor
    embeddings: Tensor
    prototypes: Tensor
    similarity: Tensor | None = None

    def rows(self, index: Tensor | slice) -> PromptContext:
        """Contexts of some of the queries; only where each query has its own."""
        similarity = None if self.similarity is None else self.similarity[index]
        return PromptContext(self.patches[index], self.embeddings[index], self.prototypes[index], similarity)

    @property
    def k_shot(self) -> int:
        """Number of prompts, ``K``; 0 for text prompts alone."""
        return self.embeddings.shape[-2]


class _Entry(nn.Module):
    """The context of one class as buffers, so that it moves, is saved and is exported with the model."""

    patches: Tensor
    embeddings: Tensor
    prototypes: Tensor

    def __init__(self, patches: Tensor, embeddings: Tensor, prototypes: Tensor) -> None:
        super().__init__()
        self.register_buffer("patches", patches)
        self.register_buffer("embeddings", embeddings)
        self.register_buffer("prototypes", prototypes)


@dataclass
class _Index:
    """Names of the entries, in order, and the files each one's prompts came from."""

    class_names: list[str] = field(default_factory=list)
    files: list[list[str]] = field(default_factory=list)


class PromptBank(nn.Module):
    """Encoded prompts per class name; part of the model's state.

    Set once, used for every query, saved in checkpoints and exports. A class name may be any text.
    """

    _anchor: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.entries = nn.ModuleList()
        self._index = _Index()
        # Knows the model's device and precision while the bank is still empty.
        self.register_buffer("_anchor", torch.empty(0), persistent=False)

    @property
    def class_names(self) -> list[str]:
        """Class names in the bank, in the order they were set."""
        return list(self._index.class_names)

    @property
    def files(self) -> dict[str, list[str]]:
        """Files the prompts came from, by class name; empty for prompts given as tensors."""
        return dict(zip(self._index.class_names, map(list, self._index.files), strict=True))

    def __contains__(self, class_name: object) -> bool:
        """Whether the bank has prompts for a class name."""
        return class_name in self._index.class_names

    def __len__(self) -> int:
        """Number of class names in the bank."""
        return len(self.entries)

    def put(self, class_name: str, context: PromptContext, files: list[str] | None = None) -> None:
        """Store the context of a class name, replacing an earlier one.

        Args:
            class_name: Any text.
            context: Shared context ``(K, ...)``, patch tokens already of unit length.
            files: Where the prompts came from.
        """
        # A copy outside inference mode: inference tensors could be neither trained with nor loaded into.
        with torch.inference_mode(mode=False), torch.no_grad():
            # In memory block by block, as queries read it.
            patches = context.patches.transpose(0, 1).clone(memory_format=torch.contiguous_format).transpose(0, 1)
            # In the model's own precision: queries may come, or a checkpoint be loaded, without the autocast of now.
            dtype = self._anchor.dtype
            rest = (tensor.to(dtype, copy=True) for tensor in (context.embeddings, context.prototypes))
            entry = _Entry(patches.to(dtype), *rest)
        if class_name in self:
            position = self._index.class_names.index(class_name)
            self.entries[position] = entry
            self._index.files[position] = list(files or [])
        else:
            self.entries.append(entry)
            self._index.class_names.append(class_name)
            self._index.files.append(list(files or []))

    def clear(self) -> None:
        """Remove all prompts."""
        self.entries = nn.ModuleList()
        self._index = _Index()

    def select(self, class_name: str | None = None) -> PromptContext:
        """Get the context of a class name.

        Args:
            class_name: A name in the bank; may be left out if the bank holds exactly one.

        Returns:
            The shared context ``(K, ...)``.

        Raises:
            PromptError: If the bank is empty, lacks the name, or holds several and none was given.
        """
        if not len(self):
            msg = (
                "No prompts are set. Give the model some normal images first: set_prompts(images, class_name) in "
                "Python; --model.prompts FOLDER or a datamodule with a train split on the command line; or a "
                "checkpoint that holds prompts (--ckpt_path)."
            )
            raise PromptError(msg)
        if class_name is None:
            if len(self) > 1:
                msg = f"The model has prompts for several classes, {self.class_names}: name one with class_name."
                raise PromptError(msg)
            class_name = self.class_names[0]
        if class_name not in self:
            msg = f"class_name={class_name!r}: no prompts are set for it, only for {self.class_names}."
            raise PromptError(msg)
        entry = self.entries[self._index.class_names.index(class_name)]
        return PromptContext(entry.patches, entry.embeddings, entry.prototypes)  # type: ignore[arg-type]

    def get_extra_state(self) -> dict[str, Any]:
        """Class names and files as plain data for checkpoints."""
        return {"class_names": self.class_names, "files": [list(files) for files in self._index.files]}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore class names and files."""
        self._index = _Index(list(state["class_names"]), [list(files) for files in state["files"]])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Entries come into being with the checkpoint: make room of the right shapes before they are filled.
        self.entries = nn.ModuleList()
        while f"{prefix}entries.{len(self.entries)}.patches" in state_dict:
            start = f"{prefix}entries.{len(self.entries)}."
            tensors = [state_dict[start + name] for name in ("patches", "embeddings", "prototypes")]
            self.entries.append(_Entry(*(torch.empty_like(tensor, device=self._anchor.device) for tensor in tensors)))
        super()._load_from_state_dict(state_dict, prefix, *args)
