# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The app without its page: checks of uploads, detectors by model and weights, and tables of their predictions."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from anomalib_inctrl.backbones.packaged import DEMO_BACKBONE, DEMO_PRETRAINED
from anomalib_inctrl.errors import CheckpointError, ImageFileError, PromptError
from anomalib_inctrl.io.images import IMAGE_SUFFIXES, image_size, read_image
from anomalib_inctrl.predictor import MODELS, Detector, Prediction, Predictions, model_of_checkpoint

UNTRAINED = "training-free"
MOST_PROMPTS, MOST_QUERIES, MOST_LETTERS = 8, 64, 80
MOST_MEGABYTES, MOST_MEGAPIXELS = 20, 40


class ServiceResult(NamedTuple):
    """Result of one request.

    Attributes:
        predictions: One for each readable image, most abnormal first.
        left_out: One message for each image that could not be read.
    """

    predictions: list[Prediction]
    left_out: list[str]


class PredictionService:
    """Predicts images with any of the models and weights on offer, one request at a time.

    Prompts belong to a request and are removed after it. One detector is kept, the one used last: a backbone may take
    a gigabyte.

    Args:
        weights: Checkpoints on offer: files, and folders with ``.ckpt`` files in them.
        backbone: OpenCLIP model that scores without trained heads; a checkpoint names its own.
        pretrained: Its pretrained tag or weights file.
        device: Where to compute; an accelerator by default, if there is one.
        prompt_shifts: Offsets along each axis at which prompts are encoded; a checkpoint's own, or 1, by default.

    Raises:
        CheckpointError: If a file is not a checkpoint of the models, or a folder holds none.
        PretrainedWeightsError: If a file does not exist.
    """

    def __init__(
        self,
        weights: Sequence[Path] = (),
        backbone: str = DEMO_BACKBONE,
        pretrained: str | None = DEMO_PRETRAINED,
        device: str | None = None,
        prompt_shifts: int | None = None,
    ) -> None:
        self.backbone, self.pretrained = backbone, pretrained
        self._options = {"device": device, "prompt_shifts": prompt_shifts}
        self._weights: dict[str, dict[str, Path | None]] = {model: {UNTRAINED: None} for model in MODELS}
        for source in weights:
            files = sorted(source.rglob("*.ckpt")) if source.is_dir() else [source]
            if not files:
                msg = f"{source}: the folder holds no .ckpt files."
                raise CheckpointError(msg)
            for path in dict.fromkeys(file.resolve() for file in files):
                offered = self._weights[model_of_checkpoint(path)]
                # Checkpoints of several runs have equal file names: the name takes in folders until it is new.
                names = ("/".join(path.parts[-count:]) for count in range(1, len(path.parts) + 1))
                if path not in offered.values():
                    offered[next(name for name in names if name not in offered)] = path
        self._lock = threading.Lock()
        self._detector: tuple[tuple[str, str], Detector] | None = None

    @property
    def models(self) -> list[str]:
        """Names of the models."""
        return list(self._weights)

    def weights_of(self, model: str) -> list[str]:
        """Names of the weights on offer for a model; the first stands for none."""
        return list(self._weights[model])

    def detector(self, model: str, weights: str) -> Detector:
        """The detector for a model and weights; raises CheckpointError if they are not on offer."""
        if weights not in self._weights.get(model, {}):
            msg = f"There are no weights {weights!r} for {model}."
            raise CheckpointError(msg)
        if self._detector is None or self._detector[0] != (model, weights):
            self._detector = None  # frees its memory before the next one is loaded
            path = self._weights[model][weights]
            options: dict[str, Any] = {"model": model, **self._options}
            if path is None:
                options |= {"backbone": self.backbone, "pretrained": self.pretrained}
            self._detector = ((model, weights), Detector(path, **options))
        return self._detector[1]

    def predict(
        self, prompts: Sequence[str] | None, queries: Sequence[str] | None, class_name: str, model: str, weights: str
    ) -> ServiceResult:
        """Predict images, leaving out those that cannot be read.

        The threshold comes from the normal references, each compared with the others; with a single one there is none.

        Args:
            prompts: Paths of the normal references.
            queries: Paths of the images to inspect.
            class_name: What they show.
            model: One of :attr:`models`.
            weights: One of :meth:`weights_of`.

        Raises:
            ImageFileError: If there are too few or too many images, or a reference cannot be read.
            PromptError: If the name is missing or too long.
            CheckpointError: If the weights are not on offer.
        """
        references = check_prompts(prompts)
        name = " ".join((class_name or "").split())
        if not 0 < len(name) <= MOST_LETTERS:
            msg = f"Name what the images show, in 1 to {MOST_LETTERS} letters."
            raise PromptError(msg)
        paths = _check_count(queries, MOST_QUERIES, "images to inspect")
        faults = _faults(paths, decode=False)
        with self._lock:
            detector = self.detector(model, weights)
            detector.threshold = "auto" if len(references) > 1 else None
            try:
                detector.set_prompts(references, name)
                within = [path for path in paths if path not in faults]
                predictions = detector.predict(within, on_error="skip") if within else Predictions()
            finally:
                detector.clear_prompts()
        faults |= {Path(file): message.replace(file, Path(file).name) for file, message in predictions.failed}
        if not predictions:
            raise ImageFileError("\n".join(faults.values()))
        return ServiceResult(sorted(predictions, key=lambda found: -found.score), list(faults.values()))


def check_prompts(files: Sequence[str] | None) -> list[Path]:
    """The paths of normal references.

    Raises:
        ImageFileError: If some cannot be used, with a line for each, or their number is wrong.
    """
    paths = _check_count(files, MOST_PROMPTS, "normal references")
    if faults := _faults(paths):
        raise ImageFileError("\n".join(faults.values()))
    return paths


def _check_count(files: Sequence[str] | None, most: int, kind: str) -> list[Path]:
    if not files or len(files) > most:
        found = f"{len(files)} {kind} are too many." if files else f"No {kind} yet."
        msg = f"{found} Drop 1 to {most}."
        raise ImageFileError(msg)
    return [Path(file) for file in files]


def _faults(paths: Sequence[Path], *, decode: bool = True) -> dict[Path, str]:
    """The files that cannot be used, each with one message."""
    return {path: fault for path in paths if (fault := _fault(path, decode))}


def _fault(path: Path, decode: bool) -> str:
    """What is wrong with an upload, without the server's folder; empty for an image of a format and size allowed."""
    name, size = path.name, path.stat().st_size
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        return f"{name}: not one of the formats {', '.join(sorted(IMAGE_SUFFIXES))}."
    if size > MOST_MEGABYTES * 2**20:
        return f"{name}: {size / 2**20:.1f} MB; at most {MOST_MEGABYTES} MB are taken."
    try:
        height, width = image_size(path)
        if width * height > MOST_MEGAPIXELS * 1e6:
            limit = f"at most {MOST_MEGAPIXELS} million are taken. Make it smaller."
            return f"{name}: {width} x {height} pixels; {limit}"
        if decode:
            read_image(path)
    except ImageFileError as error:
        return str(error).replace(str(path), name)
    return ""


def label_of(prediction: Prediction, threshold: float | None) -> str:
    """``anomalous`` or ``normal``; empty without a threshold."""
    return "" if threshold is None else "anomalous" if prediction.score > threshold else "normal"


def summary(predictions: Sequence[Prediction], left_out: int, threshold: float | None) -> str:
    """Counts of labels, and how many false alarms to expect, in a sentence each.

    Args:
        predictions: Of one request, one or more.
        left_out: Number of images that could not be read.
        threshold: Score above which an image is anomalous; None if there is none.
    """
    if threshold is None:
        promise = "A single reference gives no threshold: drop two or more, and images are labelled."
        return f"{len(predictions)} scored, {left_out} unreadable. {promise}"
    normals, anomalous = predictions[0].normal_scores, sum(found.score > threshold for found in predictions)
    above = sum(score > threshold for score in normals)
    # A threshold above all of them has fewer false alarms; how many fewer is not known from them.
    about = "About" if threshold <= max(normals) + 1e-3 else "At most about"
    return (
        f"{anomalous} anomalous, {len(predictions) - anomalous} normal, {left_out} unreadable. {about} {above + 1} in "
        f"{len(normals) + 1} normal images will be labelled anomalous, by your {len(normals)} normal references."
    )


def score_table(predictions: Sequence[Prediction], threshold: float | None) -> pd.DataFrame:
    """Predictions as a table, with the columns of ``scores.csv``; 1 is anomalous, with a score above the threshold."""
    rows = [
        {
            "image_path": Path(prediction.name).name,
            "class_name": prediction.class_name,
            "score": prediction.score,
            "threshold": threshold,
            "pred_label": None if threshold is None else int(prediction.score > threshold),
            "p_value": prediction.p_value,
            **prediction.components,
        }
        for prediction in predictions
    ]
    return pd.DataFrame(rows)


def to_csv(table: pd.DataFrame) -> str:
    """Convert a table to CSV; a name that begins like a formula gets an apostrophe, which spreadsheets hide."""
    names = table[["image_path", "class_name"]].replace(r"^(?=[=+\-@\t\r])", "'", regex=True)
    return str(table.assign(**names).to_csv(index=False, float_format="%.9g", lineterminator="\n"))


def render_example(folder: Path) -> tuple[list[str], str, list[str]]:
    """Render the example: paths of normal references, what they show, and paths of images to inspect."""
    from anomalib_inctrl.demo import InCTRLDemo

    root = folder / "example"
    InCTRLDemo(root, "washer", train_count=4, test_normal_count=3, test_anomalous_count=5).prepare_data()
    paths: dict[str, list[str]] = {"train": [], "test": []}
    for split, copies in paths.items():
        (folder / split).mkdir(exist_ok=True)
        for path in sorted((root / "washer" / split).rglob("*.png")):
            # Uploads lose their folder, so the file name takes it over.
            copies.append(str(shutil.copyfile(path, folder / split / f"{path.parent.name}_{path.name}")))
    return paths["train"], "washer", paths["test"]
