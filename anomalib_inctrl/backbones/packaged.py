# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Backbone weights that come with the package: the demonstration encoder's.

Its text encoder has OpenCLIP's vocabulary of 49408 tokens, but its training sentences use a hundred or two. The file
keeps the embeddings of those, and one more that stands for every other token.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from anomalib_inctrl.errors import CheckpointError
from anomalib_inctrl.io.files import write_bytes_atomic

DEMO_BACKBONE = "mini-clip-16-240"
DEMO_PRETRAINED = "demo"

_EMBEDDING = "token_embedding.weight"
_VOCABULARY = "vocabulary"
_WEIGHTS = Path(__file__).parent / "weights"


def packaged_weights(name: str, tag: str) -> Path | None:
    """File of an OpenCLIP model's weights that come with the package under a pretrained tag; None if there are none."""
    # Compared, not composed: a tag may be any path.
    return next((path for path in _WEIGHTS.glob("*.safetensors") if path.stem == f"{name}-{tag}"), None)


def write_weights(path: str | Path, state_dict: dict[str, Tensor], vocabulary: Sequence[int]) -> Path:
    """Write a model's weights in half precision, atomically, with the embeddings of the vocabulary only.

    Args:
        path: File to write.
        state_dict: Tensors under OpenCLIP's names; the embedding has one row for each token of the vocabulary, in its
            order, and a last one for all others.
        vocabulary: Tokens the model was trained on.
    """
    tensors = {key: value.detach().cpu().half().contiguous() for key, value in state_dict.items()}
    tensors[_VOCABULARY] = torch.tensor(list(vocabulary), dtype=torch.int32)
    return write_bytes_atomic(path, save(tensors))


def expand_vocabulary(state_dict: dict[str, Tensor], vocabulary_size: int, source: str) -> dict[str, Tensor]:
    """Restore the embeddings of the whole vocabulary, in single precision, in weights of :func:`write_weights`.

    Tensors that hold the whole vocabulary are returned as they are. Raises a :class:`CheckpointError` if vocabulary and
    embeddings do not fit each other.
    """
    if _VOCABULARY not in state_dict:
        return state_dict
    tensors = dict(state_dict)
    vocabulary = tensors.pop(_VOCABULARY).long()
    kept = tensors.get(_EMBEDDING, torch.empty(0))
    if not len(kept) == len(vocabulary) + 1 > 1 or vocabulary.min() < 0 or vocabulary.max() >= vocabulary_size:
        msg = (
            f"{source}: expected {_EMBEDDING!r} with one row more than {_VOCABULARY!r}, whose tokens lie in "
            f"0..{vocabulary_size - 1}. Write it with tools/encoder/train.py."
        )
        raise CheckpointError(msg)
    whole = kept[-1:].repeat(vocabulary_size, 1)
    whole[vocabulary] = kept[:-1]
    tensors[_EMBEDDING] = whole
    return {key: value.float() for key, value in tensors.items()}
