# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Images a second and peak memory of each precision, what it does to scores, training, and other models.

    python benchmarks/speed.py --tables scores speed --threads 1 --clock cpu --output results/speed.json
    make gpu                    # all tables on a GPU, in eight minutes: results/gpu.json and results/gpu.md
    make gpu ARGS=--small       # the same on a small scale, also without a GPU

scores: changes against float32 on rendered images, and AUROC. speed: scoring, over the bare tower; both in float32,
bfloat16 and float16 under autocast, on the CPU also OpenVINO and, with nncf, int8 quantised after training on images of
auxiliary categories. training: with and without the feature store. peers: both models beside WinCLIP or AnomalyDINO on
the same backbone, on the same files in the trainer of anomalib's engine, without visualizer. compiled: scores and speed
with torch.compile. Weights of other models are random: the cost is the same.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import open_clip
import timm
import torch
from anomalib.data import ImageBatch, PredictDataset
from anomalib.models import AnomalyDINO, WinClip
from counts import peak_bytes
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LambdaCallback
from sklearn.metrics import roc_auc_score
from timing import (
    DEMO,
    MODELS,
    NOT_RUN,
    TOWERS,
    add_prompts,
    bare_tower,
    clock_of,
    parse,
    parser_of,
    ratio,
    report,
    time_interleaved,
    train_heads,
)  # fmt: skip
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from anomalib_inctrl import Detector, GeneralistDataModule, InCTRLDemo, InCTRLv2
from anomalib_inctrl.backbones import Backbone, ImageFeatures
from anomalib_inctrl.data import DataSource
from anomalib_inctrl.demo import AUXILIARY_CATEGORIES, UNSEEN_CATEGORIES
from anomalib_inctrl.io.images import list_images
from anomalib_inctrl.models.components.prompt_collector import read_images

_TABLES = ("scores", "speed", "training", "peers", "compiled")
_SHOTS = 4  # prompts of everything but the speed
_SMALL = {
    "towers": [DEMO], "batches": [1, 2], "shots": [1, 4], "rounds": 1, "categories": ["capsule"], "images": 6,
    "tables": _TABLES[:-1], "openvino": False, "steps": 1, "peer_images": 1,
}  # fmt: skip
Rows = list[dict[str, Any]]
Encode = Callable[[Tensor], ImageFeatures]


class Precision(NamedTuple):
    """A way to compute: an encoder, the bare tower if there is one, in float32 itself or under autocast."""

    encode: Encode
    bare: Callable[[Tensor], Any] | None
    device: str
    dtype: torch.dtype | None = None

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function without gradients, under autocast if need be."""
        kind = self.device.partition(":")[0]
        with torch.inference_mode(), torch.autocast(kind, dtype=self.dtype, enabled=self.dtype is not None):
            return function(*arguments)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure; the tables are written after each step, so that none is lost."""
    parser = parser_of(__doc__, rounds=5)
    parser.add_argument("--tables", nargs="+", choices=_TABLES, default=_TABLES)
    parser.add_argument("--towers", nargs="+", choices=tuple(TOWERS), default=list(TOWERS))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="batch sizes")
    parser.add_argument("--shots", type=int, nargs="+", default=[_SHOTS], help="numbers of prompts")
    parser.add_argument("--categories", nargs="+", choices=UNSEEN_CATEGORIES, default=list(UNSEEN_CATEGORIES))
    parser.add_argument("--images", type=int, default=60, help="test images of each category, at most")
    parser.add_argument("--data", type=Path, help="folder of rendered categories; rendered for this run if not given")
    parser.add_argument("--weights", type=Path, help="checkpoint with trained heads, for the tower that it names")
    parser.add_argument("--openvino", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--steps", type=int, default=10, help="steps of a training epoch")
    parser.add_argument("--peer_images", type=int, default=32, help="images that the other models predict")
    parser.add_argument("--minutes", type=float, default=600, help="no step begins later")
    parser.add_argument("--small", action="store_true", help="few images and one tower, on the CPU if there is no GPU")
    args = parse(parser, argv)
    if args.small:
        vars(args).update(_SMALL)
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        if not args.small:
            parser.error("no CUDA GPU was found. Use --small or --device cpu.")
        args.device = "cpu"
    begin = time.monotonic()
    tables: dict[str, Rows] = {}
    with TemporaryDirectory() as folder:
        args.data = args.data or Path(folder)
        for title, step in _steps(args, Path(folder)):
            tables.setdefault(title, [])
            if time.monotonic() - begin < 60 * args.minutes:
                tables[title] += step()
            report(args, tables)


def _steps(args: argparse.Namespace, root: Path) -> Iterator[tuple[str, Callable[[], Rows]]]:
    """Titles and measurements, the most important first; compiling takes longest."""
    detectors = {name: _detector(name, args) for name in args.towers}
    ways = cache(lambda name, compiled: precisions(detectors[name], args, compiled=compiled))

    def measure(table: Callable[..., Rows], name: str, *, compiled: bool = False) -> Rows:
        return table(name, detectors[name], ways(name, compiled), args)

    tables = {"scores": score_changes, "speed": speed}
    for key, table in tables.items():
        for name in args.towers if key in args.tables else ():
            yield key.capitalize(), partial(measure, table, name)
    if "training" in args.tables:
        yield "Training", partial(training, args.towers[0], args, root / "training")
    for name in args.towers if "peers" in args.tables else ():
        yield f"Models of anomalib, K = {_SHOTS}", partial(peers, name, args, root / name)
    for name in args.towers if "compiled" in args.tables else ():
        for key, table in tables.items():
            yield f"{key.capitalize()}, compiled", partial(measure, table, name, compiled=True)


def _detector(name: str, args: argparse.Namespace) -> Detector:
    """A tower with trained heads, or as training-free baseline."""
    if args.weights and TOWERS[name]["pretrained"]:
        return Detector(args.weights, device=args.device)
    return Detector(device=args.device, **TOWERS[name])


# ---------------------------------------------------------------------- precisions


def precisions(detector: Detector, args: argparse.Namespace, *, compiled: bool) -> dict[str, Precision]:
    """All precisions that this machine can run."""
    backbone, on_cpu = detector.module.model.backbone, args.device == "cpu"
    encode, bare = backbone.encode_image, bare_tower(backbone)
    kinds: dict[str, torch.dtype | None] = {"float32": None, "bf16": torch.bfloat16}
    if not on_cpu:
        kinds["fp16"] = torch.float16
    found = {name: Precision(encode, bare, args.device, dtype) for name, dtype in kinds.items()}
    if compiled:
        for name in ("float32", "bf16") if on_cpu else ("bf16",):
            encode_fast, bare_fast = torch.compile(encode), torch.compile(bare)
            found[f"{name}, compiled"] = Precision(encode_fast, bare_fast, args.device, kinds[name])
    elif on_cpu and args.openvino and find_spec("openvino"):
        calibration = _calibration(detector, args) if find_spec("nncf") else None
        encoders = _openvino(backbone, args.threads, calibration)
        found |= {name: Precision(encoder, None, "cpu") for name, encoder in encoders.items()}
    return found


def _openvino(backbone: Backbone, threads: int, calibration: Tensor | None) -> dict[str, Encode]:
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

    def encoder(graph: Any, hint: str) -> Encode:
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


def _calibration(detector: Detector, args: argparse.Namespace) -> Tensor:
    """Normal images of auxiliary categories, for int8."""
    files = [_render(args, category)[0][:_SHOTS] for category in AUXILIARY_CATEGORIES]
    return _read(detector, [file for some in files for file in some])


def _render(args: argparse.Namespace, category: str) -> tuple[list[Path], list[Path]]:
    """Files of a rendered category: normal ones to train on, and to test."""
    folder = args.data / category
    if not folder.is_dir():
        half = max(1, args.images // 2)
        counts = {"train_count": _SHOTS, "test_normal_count": half, "test_anomalous_count": half}
        InCTRLDemo(root=args.data, category=category, **counts).prepare_data()
    return list_images(folder / "train" / "good"), sorted((folder / "test").rglob("*.png"))


def _read(detector: Detector, files: Sequence[Path]) -> Tensor:
    return read_images(files, detector.module.pre_processor.transform).to(detector.module.device)  # type: ignore[union-attr]


# ---------------------------------------------------------------------- tables


def score_changes(name: str, detector: Detector, ways: dict[str, Precision], args: argparse.Namespace) -> Rows:
    """Changes of the score against float32 over rendered categories, and image AUROC, mean over the categories.

    Each precision encodes the prompts too.
    """
    model = detector.module.model
    scores: dict[str, list[list[float]]] = {way: [] for way in ways}
    labels = []
    for category in args.categories:
        normal, tests = _render(args, category)
        tests = tests[:: -(-len(tests) // args.images)]
        labels.append([file.parent.name != "good" for file in tests])
        prompts, queries = _read(detector, normal[:_SHOTS]), _read(detector, tests)
        for way, each in ways.items():
            with patch.object(model.backbone, "encode_image", each.encode):
                each.call(model.set_prompts, prompts, category)
                parts = [each.call(model.score_components, part, category) for part in queries.split(8)]
            scores[way].append(torch.cat([part.score.float().cpu() for part in parts]).tolist())
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


def speed(name: str, detector: Detector, ways: dict[str, Precision], args: argparse.Namespace) -> Rows:
    """Images a second of scoring, over the bare tower in float32 and in the same precision, and peak memory."""
    model: Any = add_prompts(detector.module.model, args.shots)
    rows = []

    def score(encode: Encode, images: Tensor, k_shot: int) -> Any:
        return model.to_inference_batch(model.score_query(encode(images), model.bank.select(f"K = {k_shot}")))

    for batch in args.batches:
        images = torch.randn(batch, 3, *model.backbone.image_size, device=args.device)
        calls = {(way, 0): partial(each.call, each.bare, images) for way, each in ways.items() if each.bare}
        for way, each in ways.items():
            calls |= {(way, k): partial(each.call, score, each.encode, images, k) for k in args.shots}
        seconds = time_interleaved(calls, args)
        # On the CPU only PyTorch's own operations can be followed.
        counted = ("float32", "bf16") if args.device == "cpu" else ways
        memory = {key: _peak(call, args) for key, call in calls.items() if key[0] in counted}
        for way, k_shot in calls:
            bare = (way, 0)
            if k_shot:
                rows.append(
                    {
                        "tower": name, "precision": way, "batch": batch, "K": k_shot,
                        "images/s": batch / median(seconds[way, k_shot]),
                        "over bare float32": 1 / ratio(seconds, (way, k_shot), ("float32", 0)),
                        "over bare tower": 1 / ratio(seconds, (way, k_shot), bare) if bare in calls else NOT_RUN,
                        "MB": memory.get((way, k_shot), NOT_RUN), "bare tower MB": memory.get(bare, NOT_RUN),
                    }
                )  # fmt: skip
    return rows


def _peak(call: Callable[[], Any], args: argparse.Namespace) -> float:
    """Peak of the memory that a call takes beside the weights, in MB."""
    if args.device == "cpu":
        return peak_bytes(call) / 1e6
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def training(tower: str, args: argparse.Namespace, root: Path) -> Rows:
    """Epochs of InCTRLv2 with and without the feature store; its first epoch encodes, later ones read."""
    counts = {"train_count": 30, "test_normal_count": 10, "test_anomalous_count": 10}
    InCTRLDemo(root=root, category="tile", **counts).prepare_data()
    now, rows = clock_of(args), Rows()
    for store in (None, "memory"):
        datamodule = GeneralistDataModule(
            auxiliary=[DataSource("InCTRLDemo", str(root), ["tile"], counts)], train_batch_size=8,
            steps_per_epoch=args.steps, k_shot=2, num_workers=0, feature_store=store,
        )  # fmt: skip
        marks: list[float] = []
        # Callbacks come before the model, which fills the store.
        timer = LambdaCallback(
            on_train_epoch_start=lambda *_, marks=marks: marks.append(now()),
            on_train_epoch_end=lambda *_, marks=marks: marks.append(now()),
        )
        module = InCTRLv2(**TOWERS[tower], k_shot=2, visualizer=False)
        options = {"max_epochs": 3, "accelerator": _accelerator(args), "devices": 1, "callbacks": [timer]}
        train_heads(module, datamodule, root / "results", **options)
        first, *others = (end - start for start, end in zip(marks[::2], marks[1::2], strict=True))
        later = median(others)
        rows.append(
            {
                "tower": tower, "store": store or "none", "first epoch s": first, "later epoch s": later,
                "times faster": rows[0]["later epoch s"] / later if rows else 1.0,
            }
        )  # fmt: skip
    return rows


def _accelerator(args: argparse.Namespace) -> str:
    return "cpu" if args.device == "cpu" else "gpu"


def peers(tower: str, args: argparse.Namespace, root: Path) -> Rows:
    """Images a second of both models and another on the same backbone."""
    count, settings = args.peer_images, TOWERS[tower]
    data = InCTRLDemo(root=root, train_count=max(count, _SHOTS), test_normal_count=1, test_anomalous_count=1)
    data.prepare_data()
    files = list_images(root / data.category / "train" / "good")
    dataset = Subset(PredictDataset(files[0].parent), range(count))
    prompts, off = read_images(files[:_SHOTS], None), {"evaluator": False, "visualizer": False}
    modules: dict[str, Any] = {name: cls(**settings, k_shot=_SHOTS, **off) for name, cls in MODELS.items()}
    for module in modules.values():
        module.model.heads_trained = True
        module.model.set_prompts(module.pre_processor.transform(prompts), data.category)
    backbone = settings["backbone"]
    if backbone.startswith("timm/"):
        modules["AnomalyDINO"] = _anomaly_dino(backbone.removeprefix("timm/"), settings["image_size"], prompts, off)
    else:
        modules["WinCLIP"] = _winclip(backbone, data.category, prompts, off)

    def predict(module: Any) -> None:
        loader = DataLoader(dataset, batch_size=8, collate_fn=ImageBatch.collate)
        trainer = Trainer(
            accelerator=_accelerator(args), devices=1, logger=False, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False, default_root_dir=root / "results",
        )  # fmt: skip
        trainer.predict(module, loader, return_predictions=False)

    seconds = time_interleaved({name: partial(predict, module.eval()) for name, module in modules.items()}, args)
    return [
        {
            "model": name, "backbone": tower, "ms an image": 1000 * median(times) / count,
            "images/s": count / median(times), "over InCTRL": ratio(seconds, name, "InCTRL"),
        }
        for name, times in seconds.items()
    ]  # fmt: skip


# The other models would download their weights; the benchmark replaces their loaders.
def _winclip(backbone: str, class_name: str, prompts: Tensor, off: dict[str, Any]) -> WinClip:
    clip = open_clip.create_model_and_transforms(backbone)
    with patch.object(open_clip, "create_model_and_transforms", lambda *_, **__: clip):
        module = WinClip(class_name=class_name, **off)
    with torch.no_grad():
        module.model.eval().setup(class_name, module.pre_processor.transform(prompts))
    module.is_setup = True
    return module


def _anomaly_dino(backbone: str, side: int, prompts: Tensor, off: dict[str, Any]) -> AnomalyDINO:
    create, pre_processor = timm.create_model, AnomalyDINO.configure_pre_processor((side, side))
    with patch.object(timm, "create_model", lambda *args, **given: create(*args, **given | {"pretrained": False})):
        module = AnomalyDINO(encoder_name=backbone, pre_processor=pre_processor, **off)
    with torch.no_grad():
        module.model.train()(pre_processor.transform(prompts))
    module.model.fit()
    return module


if __name__ == "__main__":
    main()
