# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Images per second in anomalib's engine: both models beside WinCLIP or AnomalyDINO on the same backbone.

    python benchmarks/peers.py --output peers.json

All predict the same rendered images, read from disk, with their own pre- and post-processing in the trainer of
anomalib's engine, without visualizer. Prompts are set before. All weights are random: where a model would download its
own, the benchmark replaces its loader; the cost is the same.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
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
from timing import FULL_SIZE, MINIATURE, parse, parser_of, ratio, report, time_interleaved
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.utils import save_image

from anomalib_inctrl import InCTRL, InCTRLDemo, InCTRLv2
from anomalib_inctrl.io.images import list_images, read_image

# Backbone and input size: OpenCLIP's are compared with WinCLIP, timm's with AnomalyDINO.
PEERS: list[tuple[str, int | None]] = [(FULL_SIZE, None), ("timm/vit_small_patch14_dinov2", 448)]
SMALL_PEERS: list[tuple[str, int | None]] = [(MINIATURE, None), ("timm/vit_small_patch14_dinov2", 112)]
CLASS_NAME = "object"
_OFF: dict[str, Any] = {"evaluator": False, "visualizer": False}


def make_modules(backbone: str, image_size: int | None, prompts: Tensor) -> dict[str, Any]:
    """The models as anomalib runs them, their prompts set."""
    modules: dict[str, Any] = {
        name: cls(backbone=backbone, pretrained=None, image_size=image_size, k_shot=len(prompts), **_OFF)
        for name, cls in (("InCTRL", InCTRL), ("InCTRLv2", InCTRLv2))
    }
    for module in modules.values():
        module.model.heads_trained = True
        module.model.set_prompts(module.pre_processor.transform(prompts), CLASS_NAME)
    peer = _anomaly_dino if backbone.startswith("timm/") else _winclip
    side = modules["InCTRL"].model.backbone.image_size[0]
    modules |= peer(backbone.removeprefix("timm/"), side, prompts)
    return {name: module.eval() for name, module in modules.items()}


def _winclip(backbone: str, _side: int, prompts: Tensor) -> dict[str, Any]:
    clip = open_clip.create_model_and_transforms(backbone)
    with patch.object(open_clip, "create_model_and_transforms", lambda *_, **__: clip):
        module = WinClip(class_name=CLASS_NAME, **_OFF)
    module.model.eval().setup(CLASS_NAME, module.pre_processor.transform(prompts))
    module.is_setup = True
    return {"WinCLIP": module}


def _anomaly_dino(backbone: str, side: int, prompts: Tensor) -> dict[str, Any]:
    create = timm.create_model
    pre_processor = AnomalyDINO.configure_pre_processor((side, side))
    with patch.object(timm, "create_model", lambda *args, **given: create(*args, **given | {"pretrained": False})):
        module = AnomalyDINO(encoder_name=backbone, pre_processor=pre_processor, evaluator=False, visualizer=False)
    module.model.train()(pre_processor.transform(prompts))
    module.model.fit()
    return {"AnomalyDINO": module}


def compare(
    backbone: str, image_size: int | None, args: argparse.Namespace, count: int, batch: int, shots: int
) -> list[dict[str, Any]]:
    """Images a second of both models and a peer on the same backbone."""
    with tempfile.TemporaryDirectory() as root, torch.no_grad():
        counts = {"train_count": max(count, shots), "test_normal_count": 1, "test_anomalous_count": 1}
        data = InCTRLDemo(root=root, **counts)
        data.prepare_data()
        images = [read_image(path) for path in list_images(Path(root) / data.category / "train" / "good")]
        folder = Path(root) / "images"
        folder.mkdir()
        for number, image in enumerate(images[:count]):
            save_image(image, folder / f"{number:03}.png")
        modules = make_modules(backbone, image_size, torch.stack(images[:shots]))
        calls = {name: _predictor(each, folder, batch, args.device) for name, each in modules.items()}
        seconds = time_interleaved(calls, args)
    return [
        {
            "model": name, "backbone": backbone, "ms an image": 1000 * median(times) / count,
            "images/s": count / median(times), "over InCTRL": ratio(seconds, name, "InCTRL"),
        }
        for name, times in seconds.items()
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Time all models."""
    parser = parser_of(__doc__, rounds=3)
    parser.add_argument("--images", type=int, default=16, help="images predicted a round")
    parser.add_argument("--batch", type=int, default=8, help="batch size")
    parser.add_argument("--shots", type=int, default=4, help="prompts of each model")
    args = parse(parser, argv)
    rows = [row for peer in PEERS for row in compare(*peer, args, args.images, args.batch, args.shots)]
    report(args, {f"Models of anomalib, K = {args.shots}": rows})


def _predictor(module: Any, folder: Path, batch_size: int, device: str) -> Callable[[], Any]:
    def predict() -> None:
        loader = DataLoader(PredictDataset(folder), batch_size=batch_size, collate_fn=ImageBatch.collate)
        trainer = Trainer(
            accelerator="cpu" if device == "cpu" else "gpu", devices=1, logger=False,
            enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, default_root_dir=folder.parent / "results",
        )  # fmt: skip
        trainer.predict(module, loader, return_predictions=False)

    return predict


if __name__ == "__main__":
    main()
