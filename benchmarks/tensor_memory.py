# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Memory that tensors take, counted operation by operation, on any device.

With ``FakeTensorMode`` nothing is computed and nothing allocated, so sizes can be asked for that no machine has.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class TensorMemory(TorchDispatchMode):
    """Counts the bytes of all tensors that come into being within, and that still live.

    What an operation allocates for itself and gives back before it returns is not seen.

    Attributes:
        live: Bytes of tensors made within that still live.
        peak: The most it has been.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        inputs = {_storage(item) for item in tree_iter((args, kwargs)) if isinstance(item, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for item in tree_iter(result):
            if isinstance(item, torch.Tensor) and _storage(item) not in inputs | self._known:
                self._count(item)
        return result

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = _storage(tensor), storage.nbytes()
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def peak_bytes(call: Callable[[], Any]) -> int:
    """Peak of the tensors that a call makes, its result included."""
    with TensorMemory() as memory:
        call()
    return memory.peak
