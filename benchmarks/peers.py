# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Images per second through anomalib's engine: both models, WinCLIP and AnomalyDINO.

    python benchmarks/peers.py --output results/speed/peers.json

All predict the same rendered pictures, read from disk, with their own pre- and post-processing in the trainer that
anomalib's engine runs; nothing is drawn. Prompts are set before. WinCLIP gets the same CLIP tower. All weights are
random: where a peer would download its own, the benchmark stands in for its loader; weights do not change the cost.

Beside them, without the engine, stand baselines on the same tower: the prompts encoded anew for every query, with the
text prototypes cached, and with the 242 sentences encoded anew as well, as the authors' code does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import open_clip
import timm
import torch
from anomalib.data import ImageBatch, PredictDataset
from anomalib.models import AnomalyDINO, WinClip
from lightning.pytorch import Trainer
from timing import CLASS_NAME, over, parser_of, prepare, report, time_interleaved
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.utils import save_image

from anomalib_inctrl import InCTRL, InCTRLDemo, InCTRLv2
from anomalib_inctrl.io.images import list_images, read_image

_OFF: dict[str, Any] = {"evaluator": False, "visualizer": False}


@contextmanager
def random_weights(backbone: str) -> Iterator[None]:
    """Within, what would download weights makes random ones, and WinCLIP's tower is the given one."""
    create_openclip_model, create_timm = open_clip.create_model_and_transforms, timm.create_model

    def same_tower(*args: Any, **kwargs: Any) -> Any:
        del args, kwargs
        return create_openclip_model(backbone)

    def without_download(*args: Any, **kwargs: Any) -> Any:
        return create_timm(*args, **kwargs | {"pretrained": False})

    with (
        patch.object(open_clip, "create_model_and_transforms", same_tower),
        patch.object(timm, "create_model", without_download),
    ):
        yield


def make_modules(backbone: str, prompts: Tensor) -> dict[str, Any]:
    """The models as anomalib runs them, their prompts set.

    Args:
        backbone: OpenCLIP model.
        prompts: Normal images ``(K, 3, H, W)`` in [0, 1].

    Returns:
        Modules by name.
    """
    modules: dict[str, Any] = {
        name: cls(backbone=backbone, pretrained=None, k_shot=len(prompts), **_OFF)
        for name, cls in (("InCTRL", InCTRL), ("InCTRLv2", InCTRLv2))
    }
    with torch.no_grad():
        for module in modules.values():
            module.model.heads_trained = True
            module.model.set_prompts(module.pre_processor.transform(prompts), CLASS_NAME)
        with random_weights(backbone):
            modules |= {"WinCLIP": WinClip(class_name=CLASS_NAME, **_OFF), "AnomalyDINO": AnomalyDINO(**_OFF)}
        winclip, dino = modules["WinCLIP"], modules["AnomalyDINO"]
        winclip.model.eval().setup(CLASS_NAME, winclip.pre_processor.transform(prompts))
        winclip.is_setup = True
        dino.model.train()(dino.pre_processor.transform(prompts))
        dino.model.fit()
    return {name: module.eval() for name, module in modules.items()}


def predict(module: Any, folder: Path, batch_size: int) -> None:
    """Predict the pictures of a folder, as the engine does once it has chosen its trainer's arguments."""
    loader = DataLoader(PredictDataset(folder), batch_size=batch_size, collate_fn=ImageBatch.collate)
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=folder.parent / "results",
    )  # fmt: skip
    trainer.predict(module, loader, return_predictions=False)


def encode_anew(module: Any, queries: Tensor, prompts: Tensor, text: bool) -> None:
    """Score queries one by one, the prompts encoded for each, and the sentences too if asked."""
    for query in queries.split(1):
        if text:
            module.model.backbone._text_prototypes.clear()
        module.model.set_prompts(prompts, CLASS_NAME)
        module.model(query, CLASS_NAME)


def main(argv: Sequence[str] | None = None) -> int:
    """Time all models.

    Args:
        argv: Arguments without the program's name; those of the process if None.

    Returns:
        0.
    """
    parser = parser_of(__doc__, rounds=3)
    parser.add_argument("--images", type=int, default=16, help="pictures predicted a round")
    parser.add_argument("--batch", type=int, default=8, help="batch size")
    parser.add_argument("--shots", type=int, default=4, help="prompts of each model")
    parser.add_argument("--with-text", action="store_true", help="also time sentences encoded anew; takes long")
    args = parser.parse_args(argv)
    prepare(args)
    with tempfile.TemporaryDirectory() as root, torch.no_grad():
        data = InCTRLDemo(root=root, train_count=max(args.images, args.shots), test_normal_count=1,
                          test_anomalous_count=1)  # fmt: skip
        data.prepare_data()
        pictures = [read_image(path) for path in list_images(Path(root) / data.category / "train" / "good")]
        folder = Path(root) / "pictures"
        folder.mkdir()
        for number, picture in enumerate(pictures[: args.images]):
            save_image(picture, folder / f"{number:03}.png")
        prompts = torch.stack(pictures[: args.shots])
        modules = make_modules(args.backbone, prompts)
        rows = _rows(args, {name: _predictor(module, folder, args.batch) for name, module in modules.items()})
        queries = torch.stack(pictures[: max(1, args.images // 4)])
        rows += _rows(args, _baselines(modules["InCTRL"], queries, prompts, args.with_text), len(queries))
    report(args, f"Peers, K = {args.shots}, {args.backbone}", rows)
    return 0


def _predictor(module: Any, folder: Path, batch_size: int) -> Callable[[], None]:
    return lambda: predict(module, folder, batch_size)


def _baselines(module: Any, queries: Tensor, prompts: Tensor, text: bool) -> dict[str, Callable[[], Any]]:
    queries, prompts = (module.pre_processor.transform(images) for images in (queries, prompts))

    def prompts_kept() -> None:
        for query in queries.split(1):
            module.model(query, CLASS_NAME)

    calls: dict[str, Callable[[], Any]] = {
        "InCTRL, prompts kept": prompts_kept,
        "InCTRL, prompts per query": lambda: encode_anew(module, queries, prompts, text=False),
    }
    if text:
        calls["InCTRL, prompts and text per query"] = lambda: encode_anew(module, queries, prompts, text=True)
    return calls


def _rows(args: Any, calls: dict[str, Callable[[], Any]], images: int | None = None) -> list[dict[str, Any]]:
    count = images or args.images
    seconds = time_interleaved(calls, args.rounds, args.clock)
    reference = next(iter(calls))
    how = "engine" if images is None else "one by one"
    return [
        {
            "model": name, "how": how, "ms an image": 1000 * median(times) / count,
            "images/s": count / median(times), "time over InCTRL's": over(seconds, name, reference),
        }
        for name, times in seconds.items()
    ]  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
