# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The app without its page: checks of uploads, detectors by model and weights, and tables of their predictions."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
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
        self.backbone, self.pretrained, self.device = backbone, pretrained, device
        self.prompt_shifts = prompt_shifts
        self._weights: dict[str, dict[str, Path | None]] = {model: {UNTRAINED: None} for model in MODELS}
        for source in weights:
            files = sorted(source.rglob("*.ckpt")) if source.is_dir() else [source]
            if not files:
                msg = f"{source}: the folder holds no .ckpt files."
                raise CheckpointError(msg)
            for path in files:
                self._offer(path.resolve())
        self._lock = threading.Lock()
        self._detector: tuple[tuple[str, str], Detector] | None = None

    def _offer(self, path: Path) -> None:
        offered = self._weights[model_of_checkpoint(path)]
        if path in offered.values():
            return
        # Checkpoints of several runs have equal file names: the name takes in folders until it is new.
        names = ("/".join(path.parts[-count:]) for count in range(1, len(path.parts) + 1))
        offered[next(name for name in names if name not in offered)] = path

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
            # A checkpoint names its own.
            named: dict[str, Any] = {} if path else {"backbone": self.backbone, "pretrained": self.pretrained}
            detector = Detector(
                path,
                model=model,  # type: ignore[arg-type]  # one of the keys of MODELS
                **named,
                device=self.device,
                prompt_shifts=self.prompt_shifts,
            )
            self._detector = ((model, weights), detector)
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
        if not name or len(name) > MOST_LETTERS:
            msg = f"Name what the images show, in 1 to {MOST_LETTERS} letters."
            raise PromptError(msg)
        paths = _check_count(queries, MOST_QUERIES, "images to inspect")
        faults = _faults(paths, _check_limits)
        within = [path for path in paths if path not in faults]
        with self._lock:
            detector = self.detector(model, weights)
            detector.threshold = "auto" if len(references) > 1 else None
            try:
                detector.set_prompts(references, name)
                predictions = detector.predict(within, on_error="skip") if within else Predictions()
            finally:
                detector.clear_prompts()
        faults |= {Path(file): str(_unreadable(Path(file))) for file, _ in predictions.failed}
        if not predictions:
            raise ImageFileError("\n".join(faults.values()))
        predictions.sort(key=lambda prediction: -prediction.score)
        return ServiceResult(predictions, list(faults.values()))


def check_prompts(files: Sequence[str] | None) -> list[Path]:
    """The paths of normal references.

    Raises:
        ImageFileError: If some cannot be used, with a line for each, or their number is wrong.
    """
    paths = _check_count(files, MOST_PROMPTS, "normal references")
    if faults := _faults(paths, check_image):
        raise ImageFileError("\n".join(faults.values()))
    return paths


def _check_count(files: Sequence[str] | None, most: int, kind: str) -> list[Path]:
    if not files or len(files) > most:
        found = f"{len(files)} {kind} are too many." if files else f"No {kind} yet."
        msg = f"{found} Drop 1 to {most}."
        raise ImageFileError(msg)
    return [Path(file) for file in files]


def _faults(paths: Sequence[Path], check: Callable[[Path], None]) -> dict[Path, str]:
    """The files that a check refuses, each with one message."""
    return {path: fault for path in paths if (fault := _fault(path, check))}


def _fault(path: Path, check: Callable[[Path], None]) -> str:
    try:
        check(path)
    except ImageFileError as error:
        return str(error)
    return ""


def check_image(path: Path) -> None:
    """Check that an upload is an image of a common format and of a size within the limits.

    Raises:
        ImageFileError: If it is not; names the file without the server's folder.
    """
    _check_limits(path)
    try:
        read_image(path)
    except ImageFileError as error:
        raise _unreadable(path) from error


def _check_limits(path: Path) -> None:
    """Check what is known without reading the pixels."""
    name, size = path.name, path.stat().st_size
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        msg = f"{name}: not one of the formats {', '.join(sorted(IMAGE_SUFFIXES))}."
        raise ImageFileError(msg)
    if size > MOST_MEGABYTES * 2**20:
        msg = f"{name}: {size / 2**20:.1f} MB; at most {MOST_MEGABYTES} MB are taken."
        raise ImageFileError(msg)
    try:
        height, width = image_size(path)
    except ImageFileError as error:
        raise _unreadable(path) from error
    if width * height > MOST_MEGAPIXELS * 1e6:
        msg = f"{name}: {width} x {height} pixels; at most {MOST_MEGAPIXELS} million are taken. Make it smaller."
        raise ImageFileError(msg)


def _unreadable(path: Path) -> ImageFileError:
    size = path.stat().st_size
    return ImageFileError(f"{path.name}: {size} bytes, not readable as an image. Replace or remove the file.")


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
    labels = [label_of(prediction, threshold) for prediction in predictions]
    counts = [f"{labels.count(label)} {label}" for label in ("anomalous", "normal")]
    normals = predictions[0].normal_scores
    if threshold is None:
        counts = [f"{len(predictions)} scored"]
        promise = "A single reference gives no threshold: drop two or more, and images are labelled."
    else:
        above = sum(score > threshold for score in normals)
        # A threshold above all of them has fewer false alarms; how many fewer they cannot tell.
        about = "About" if threshold <= max(normals) + 1e-3 else "At most about"
        promise = (
            f"{about} {above + 1} in {len(normals) + 1} normal images will be labelled anomalous, by your "
            f"{len(normals)} normal references."
        )
    return f"{', '.join([*counts, f'{left_out} unreadable'])}. {promise}"


def score_table(predictions: Sequence[Prediction], threshold: float | None) -> pd.DataFrame:
    """Predictions as a table, with the columns of ``scores.csv``; 1 is anomalous, with a score above the threshold."""
    rows = [
        {
            "image_path": Path(prediction.name).name,
            "class_name": prediction.class_name,
            "score": prediction.score,
            "threshold": threshold,
            "pred_label": {"anomalous": 1, "normal": 0}.get(label_of(prediction, threshold)),
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
    paths = {}
    for split in ("train", "test"):
        (folder / split).mkdir(exist_ok=True)
        # Uploads lose their folder, so the file name takes it over.
        paths[split] = [
            str(shutil.copyfile(path, folder / split / f"{path.parent.name}_{path.name}"))
            for path in sorted((root / "washer" / split).rglob("*.png"))
        ]
    return paths["train"], "washer", paths["test"]
