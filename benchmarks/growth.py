# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Predicting a large folder: images a second and memory as it goes on, and what the parts cost by themselves.

    python benchmarks/growth.py --images 10000 --output results/growth.json

`Detector.stream` scores the images, `Engine.predict` scores them and writes its files; a hundred rendered images are
linked as often as it takes. Each part is then timed alone on images of two sizes: what the whole takes less than their
sum runs side by side.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import torch
from anomalib.data import PredictDataset
from anomalib.engine import Engine
from lightning.pytorch import Callback
from PIL import Image
from timing import DEMO, TOWERS, clock_of, parse, parser_of, report, time_interleaved

from anomalib_inctrl import Detector, InCTRLDemo, InCTRLv2
from anomalib_inctrl.io.images import list_images, read_image

_STEPS = 5  # rows of the table
_LARGE = 3000  # pixels of a camera's image, on its longer side


def main(argv: Sequence[str] | None = None) -> None:
    """Predict, time the parts and print the tables."""
    parser = parser_of(__doc__, rounds=3)
    parser.add_argument("--images", type=int, default=10_000, help="images that are scored")
    parser.add_argument("--explained", type=int, default=500, help="images of the run that writes figures")
    parser.add_argument("--tower", choices=TOWERS, default=DEMO)
    args = parse(parser, argv)
    torch.manual_seed(0)
    detector = Detector(InCTRLv2(**TOWERS[args.tower], k_shot=4), device=args.device)
    with TemporaryDirectory() as root:
        data = InCTRLDemo(root=root, train_count=100, test_normal_count=1, test_anomalous_count=1)
        data.prepare_data()
        files = list_images(Path(root) / data.category / "train" / "good")
        detector.set_prompts(files[:4], data.category)
        folders = {count: _linked(files, count, Path(root) / str(count)) for count in (args.images, args.explained)}
        tables = {
            f"Detector.stream, {args.images} images": list(_stream(detector, folders[args.images], args)),
            f"Engine.predict with figures, {args.explained} images": list(
                _engine(detector, folders[args.explained], Path(root), args)
            ),
            "Parts, ms an image": _parts(detector, files[0], args),
        }
    report(args, tables)


def _linked(files: Sequence[Path], count: int, folder: Path) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:06}.png").symlink_to(files[number % len(files)].absolute())
    return folder


def _stream(detector: Detector, folder: Path, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    progress = _Progress(args.images, clock_of(args))
    for number, _ in enumerate(detector.stream(folder), start=1):
        yield from progress.row(number)


def _engine(detector: Detector, folder: Path, root: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The engine's way, with the table of scores and a figure of each image."""
    progress, rows = _Progress(args.explained, clock_of(args)), []

    class Watch(Callback):
        def on_predict_batch_end(self, trainer: Any, *_: Any) -> None:
            rows.extend(progress.row(trainer.predict_loop.batch_progress.current.ready))  # one image a batch

    engine = Engine(
        default_root_dir=root / "results", callbacks=[Watch()], accelerator=args.device.replace("cuda", "gpu"),
        enable_progress_bar=False,
    )  # fmt: skip
    engine.predict(model=detector.module, dataset=PredictDataset(folder), return_predictions=False)
    return rows


class _Progress:
    """Rate and memory since the last row."""

    def __init__(self, total: int, now: Callable[[], float]) -> None:
        self.marks = {total * (step + 1) // _STEPS for step in range(_STEPS)}
        self.now, self.before, self.count = now, now(), 0

    def row(self, number: int) -> list[dict[str, Any]]:
        if number not in self.marks:
            return []
        now, memory = self.now(), psutil.Process().memory_info().rss
        rate = (number - self.count) / (now - self.before)
        self.before, self.count = now, number
        return [{"images": number, "images/s": rate, "memory MB": memory / 1e6}]


def _parts(detector: Detector, file: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """What an image costs in each part, in batches of eight where the model takes them."""
    model, batch = detector.module.model, detector.batch_size
    large = file.with_name("large.jpg")
    Image.open(file).convert("RGB").resize((_LARGE, _LARGE * 3 // 4)).save(large, quality=90)
    pixels = {"small": read_image(file)[None], "large": read_image(large)[None]}
    transform: Any = detector.module.image_transform or (lambda image: image)
    with torch.inference_mode():
        images = transform(pixels["small"]).expand(batch, -1, -1, -1).to(args.device)
        features = model.backbone.encode_image(images)
        context = model.bank.select()
        prediction = detector.predict(file)[0]
        calls: dict[str, tuple[Callable[[], Any], int]] = {
            f"reading, {Image.open(file).size}, PNG": (lambda: read_image(file), 1),
            f"reading, {Image.open(large).size}, JPEG": (lambda: read_image(large), 1),
            "resizing, small": (lambda: transform(pixels["small"]), 1),
            "resizing, large": (lambda: transform(pixels["large"]), 1),
            "tower": (lambda: model.backbone.encode_image(images), batch),
            "comparing": (lambda: model.score_features(features, context), batch),
            "drawing and writing a figure": (lambda: prediction.explain().save(file.with_suffix(".figure.png")), 1),
        }
        seconds = time_interleaved({name: call for name, (call, _) in calls.items()}, args)
    return [{"part": name, "ms": 1000 * median(seconds[name]) / count} for name, (_, count) in calls.items()]


if __name__ == "__main__":
    main()
