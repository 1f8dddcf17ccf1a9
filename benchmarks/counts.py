# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Operations and memory of scoring, counted without computing anything: the same on every machine.

    python benchmarks/counts.py --output counts.json

Operations are those of matrix products and convolutions, for each image; "prompts each time" encodes the prompts for
every query, "text each time" also the sentences. Memory is the peak of all tensors that a call creates: of OpenCLIP's
``encode_image``, of what scoring needs in addition, and of comparing patches and heads alone.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import open_clip
import torch
from timing import FULL_SIZE, add_prompts, parse, parser_of, report
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from anomalib_inctrl import InCTRLModel, InCTRLv2Model
from anomalib_inctrl.backbones import backbone_preprocessing
from anomalib_inctrl.backbones.text_prompts import text_prompts


def count_operations(call: Callable[[], Any]) -> int:
    """Floating-point operations of a call's matrix products and convolutions."""
    # PyTorch's counter does not see into its fused attention.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            call()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    return int(counter.get_total_flops())


def peak_bytes(call: Callable[[], Any]) -> int:
    """Peak memory of the tensors that a call creates, its result included."""
    with _TensorMemory() as memory:
        call()
    return memory.peak


class _TensorMemory(TorchDispatchMode):
    """Counts the bytes of living tensors, operation by operation; an operation's own scratch memory is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        inputs = {_storage(item) for item in tree_iter((args, kwargs)) if isinstance(item, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for item in tree_iter(result):
            if isinstance(item, torch.Tensor) and (key := _storage(item)) not in inputs | self._known:
                storage = item.untyped_storage()
                self._known.add(key)
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._forget, key, storage.nbytes())
        return result

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def main(argv: Sequence[str] | None = None) -> None:
    """Count both models' operations and memory."""
    parser = parser_of(__doc__)
    parser.add_argument("--backbone", default=FULL_SIZE, help="OpenCLIP model, with random weights")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 64], help="batch sizes")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 2, 4, 8, 64], help="numbers of prompts")
    args = parse(parser, argv)
    backbone_preprocessing(args.backbone, None, None)  # registers the package's own backbones, refuses unknown ones
    rows: list[dict[str, Any]] = []
    with FakeTensorMode(), torch.no_grad():
        clip = open_clip.model.CLIP(**open_clip.get_model_config(args.backbone)).eval()
        sentences = torch.zeros(sum(map(len, text_prompts("object"))), clip.context_length, dtype=torch.long)
        text = count_operations(lambda: clip.encode_text(sentences))
        one = torch.empty(1, 3, *clip.visual.image_size)
        backbone = count_operations(lambda: clip.encode_image(one))
        for batch in args.batches:
            images = torch.empty(batch, 3, *clip.visual.image_size)
            memory = peak_bytes(lambda images=images: clip.encode_image(images))
            for name, kind in (("InCTRL", InCTRLModel), ("InCTRLv2", InCTRLv2Model)):
                for k_shot in args.shots:
                    model = add_prompts(kind(clip), [k_shot])
                    counted = _count(model, images, f"K = {k_shot}")
                    operations = counted["operations"] / batch
                    rows.append(
                        {
                            "model": name, "batch": batch, "K": k_shot, "GFLOP": operations / 1e9,
                            "over backbone": operations / backbone,
                            "prompts each time": operations / backbone + k_shot,
                            "text each time": (operations + text) / backbone + k_shot,
                            "backbone MB": memory / 1e6, "additional MB": (counted["whole"] - memory) / 1e6,
                            "scoring MB": counted["scoring"] / 1e6, "prompts MB": counted["prompts"] / 1e6,
                        }
                    )  # fmt: skip
    report(args, {f"{args.backbone}, {backbone / 1e9:.1f} GFLOP an image by itself": rows})


def _count(model: Any, images: torch.Tensor, class_name: str) -> dict[str, float]:
    query, context = model.backbone.encode_image(images), model.bank.select(class_name)
    return {
        "operations": count_operations(lambda: model(images, class_name)),
        "whole": peak_bytes(lambda: model(images, class_name)),
        "scoring": peak_bytes(lambda: model.score_features(query, context)),
        "prompts": context.patches.nbytes,
    }


if __name__ == "__main__":
    main()
