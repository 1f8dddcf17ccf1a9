# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Precisions of the image encoder: images a second, and what they do to scores on rendered images.

    python benchmarks/precision.py --threads 1 --clock cpu --output precision.json

float32, bfloat16 and float16 under autocast, and torch.compile; on the CPU also OpenVINO and, with nncf, int8 quantised
after training on images of auxiliary categories (`pip install openvino nncf`). Each precision encodes the prompts too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from timing import NOT_RUN, TOWERS, add_prompts, bare_tower, parse, parser_of, ratio, report, time_interleaved
from torch import Tensor, nn

from anomalib_inctrl import Detector, InCTRLDemo
from anomalib_inctrl.backbones import Backbone, ImageFeatures
from anomalib_inctrl.demo import AUXILIARY_CATEGORIES, UNSEEN_CATEGORIES
from anomalib_inctrl.io.images import list_images, read_image

_SHOTS = 4


@dataclass
class Precision:
    """A way to compute: an encoder, in float32 itself or under autocast with what follows."""

    encode: Callable[[Tensor], ImageFeatures]
    device: str
    dtype: torch.dtype | None = None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Compute without gradients, under autocast if need be."""
        kind = self.device.partition(":")[0]
        with torch.inference_mode(), torch.autocast(kind, dtype=self.dtype, enabled=self.dtype is not None):
            yield

    def call(self, function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
        """A call of a function, to be timed."""

        def run() -> Any:
            with self.active():
                return function(*arguments)

        return run


def precisions(backbone: Backbone, args: argparse.Namespace, calibration: Tensor | None = None) -> dict[str, Precision]:
    """All precisions that this machine can run."""
    encode, on_cpu = backbone.encode_image, args.device == "cpu"
    kinds: dict[str, torch.dtype | None] = {"float32": None, "bf16": torch.bfloat16}
    if not on_cpu:
        kinds["fp16"] = torch.float16
    found = {name: Precision(encode, args.device, dtype) for name, dtype in kinds.items()}
    if args.compile:
        for name in ("float32", "bf16") if on_cpu else ("bf16",):
            found[f"{name}, compiled"] = Precision(torch.compile(encode), args.device, kinds[name])
    if on_cpu and args.openvino and find_spec("openvino"):
        encoders = _openvino(backbone, args.threads, calibration)
        found |= {name: Precision(encoder, "cpu") for name, encoder in encoders.items()}
    return found


def _openvino(
    backbone: Backbone, threads: int, calibration: Tensor | None
) -> dict[str, Callable[[Tensor], ImageFeatures]]:
    import openvino

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = backbone

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            features = self.backbone.encode_image(images)
            return features.patches, features.embedding

    torch.backends.mha.set_fastpath_enabled(False)  # OpenVINO does not know PyTorch's fused layer
    try:
        example = torch.zeros(2, 3, *backbone.image_size)
        graph = openvino.convert_model(Encoder().eval(), example_input=example, input=[-1, 3, *backbone.image_size])
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    graphs = {"OpenVINO f32": (graph, "f32"), "OpenVINO bf16": (graph, "bf16")}
    if calibration is not None:
        import nncf

        data = nncf.Dataset([image[None].numpy() for image in calibration])
        quantised = nncf.quantize(graph, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(calibration))
        graphs |= {"OpenVINO int8": (quantised, "f32"), "OpenVINO int8, rest bf16": (quantised, "bf16")}

    def encoder(graph: Any, hint: str) -> Callable[[Tensor], ImageFeatures]:
        options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        # In a thread: OpenVINO gives the one that compiles a stack for signals, and frees it before the thread ends. A
        # process whose main thread kept it would die of the next signal, such as that a child process has ended.
        with ThreadPoolExecutor(1) as pool:
            compiled = pool.submit(openvino.compile_model, graph, "CPU", options).result()

        def encode(images: Tensor) -> ImageFeatures:
            patches, embedding = compiled(images.numpy()).to_tuple()
            return ImageFeatures(torch.from_numpy(patches), torch.from_numpy(embedding))

        return encode

    return {name: encoder(*each) for name, each in graphs.items()}


def throughput(
    name: str, model: Any, ways: Mapping[str, Precision], args: argparse.Namespace, shots: Sequence[int]
) -> list[dict[str, Any]]:
    """Images a second of scoring, and over the bare tower in float32 and in the same precision."""
    bare = bare_tower(model.backbone)
    rows = []
    for batch in args.batches:
        images = torch.randn(batch, 3, *model.backbone.image_size, device=args.device)
        calls: dict[tuple[str, int], Callable[[], Any]] = {}
        for way, each in ways.items():
            if "OpenVINO" not in way:
                calls[way, 0] = each.call(torch.compile(bare) if "compiled" in way else bare, images)
            for k_shot in shots:
                context = model.bank.select(f"K = {k_shot}")

                def score(each: Precision = each, context: Any = context, images: Tensor = images) -> Any:
                    return model.to_inference_batch(model.score_query(each.encode(images), context))

                calls[way, k_shot] = each.call(score)
        seconds = time_interleaved(calls, args)
        for way, k_shot in calls:
            if k_shot:
                same = (way, 0)
                rows.append(
                    {
                        "tower": name, "precision": way, "batch": batch, "K": k_shot,
                        "images/s": batch / median(seconds[way, k_shot]),
                        "over bare float32": 1 / ratio(seconds, (way, k_shot), ("float32", 0)),
                        "over bare tower": 1 / ratio(seconds, (way, k_shot), same) if same in seconds else NOT_RUN,
                    }
                )  # fmt: skip
    return rows


def score_changes(
    name: str, detector: Detector, ways: Mapping[str, Precision], args: argparse.Namespace, root: Path
) -> list[dict[str, Any]]:
    """Changes of the score against float32 over rendered categories, and image AUROC, mean over the categories."""
    model = detector.module.model
    scores: dict[str, list[list[float]]] = {way: [] for way in ways}
    labels = []
    for category in args.categories:
        folder = _render(root, category, args.images)
        files = sorted((folder / "test").rglob("*.png"))
        files = files[:: -(-len(files) // args.images)]
        labels.append([file.parent.name != "good" for file in files])
        prompts, queries = (
            prepare(detector, some) for some in (list_images(folder / "train" / "good")[:_SHOTS], files)
        )
        for way, each in ways.items():
            model.backbone.encode_image = each.encode
            with each.active():
                model.set_prompts(prompts, category)
                scored = [model.score_components(part, category).score.float().cpu() for part in queries.split(8)]
            scores[way].append(torch.cat(scored).tolist())
            del model.backbone.encode_image
    exact = np.concatenate(scores["float32"])
    rows = []
    for way, found in scores.items():
        change = np.abs(np.concatenate(found) - exact)
        auroc = np.mean([roc_auc_score(label, score) for label, score in zip(labels, found, strict=True)])
        rows.append(
            {
                "tower": name, "precision": way, "images": len(exact), "largest change": float(change.max()),
                "median change": float(np.median(change)), "AUROC": f"{100 * auroc:.2f}",
            }
        )  # fmt: skip
    return rows


def _calibration(detector: Detector, args: argparse.Namespace, root: Path) -> Tensor | None:
    """Normal images of auxiliary categories, for int8; None where it cannot be had."""
    if not (args.openvino and find_spec("nncf")):
        return None
    folders = [_render(root, category, args.images) / "train" / "good" for category in AUXILIARY_CATEGORIES]
    return prepare(detector, [file for folder in folders for file in list_images(folder)[:_SHOTS]])


def _render(root: Path, category: str, images: int) -> Path:
    if not (root / category).is_dir():
        half = max(1, images // 2)
        counts = {"train_count": _SHOTS, "test_normal_count": half, "test_anomalous_count": half}
        InCTRLDemo(root=root, category=category, **counts).prepare_data()
    return root / category


def prepare(detector: Detector, files: Sequence[Path]) -> Tensor:
    """Preprocessed images ``(N, 3, H, W)`` on the detector's device."""
    transform: Any = detector.module.pre_processor.transform  # type: ignore[union-attr]
    return torch.cat([transform(read_image(file)[None]) for file in files]).to(detector.module.device)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of :func:`throughput` and :func:`score_changes`."""
    parser.add_argument("--towers", nargs="+", choices=tuple(TOWERS), default=list(TOWERS))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="batch sizes")
    parser.add_argument("--categories", nargs="+", choices=UNSEEN_CATEGORIES, default=list(UNSEEN_CATEGORIES))
    parser.add_argument("--images", type=int, default=60, help="test images of each category, at most")
    parser.add_argument("--data", type=Path, help="folder of rendered categories; rendered for this run if not given")
    parser.add_argument("--weights", type=Path, help="checkpoint with trained heads, for the tower that it names")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="torch.compile too")
    parser.add_argument("--openvino", action=argparse.BooleanOptionalAction, default=True)


def make_detector(name: str, args: argparse.Namespace) -> Detector:
    """A tower with trained heads, or as training-free baseline."""
    settings = TOWERS[name]
    if args.weights and settings["pretrained"]:
        return Detector(args.weights, device=args.device)
    return Detector(device=args.device, **settings)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure."""
    parser = parser_of(__doc__, rounds=5)
    add_arguments(parser)
    args = parse(parser, argv)
    speed, changes = [], []
    with TemporaryDirectory() as temporary:
        root = args.data or Path(temporary)
        for name in args.towers:
            detector = make_detector(name, args)
            ways = precisions(detector.module.model.backbone, args, _calibration(detector, args, root))
            changes += score_changes(name, detector, ways, args, root)
            speed += throughput(name, add_prompts(detector.module.model, [_SHOTS]), ways, args, [_SHOTS])
            report(args, {"Images a second": speed, "Scores": changes})


if __name__ == "__main__":
    main()
