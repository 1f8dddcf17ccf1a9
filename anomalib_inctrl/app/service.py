# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The app without its page: detectors by model and weights, and tables of their predictions."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from anomalib_inctrl.app.uploads import Limits, check_count, check_image
from anomalib_inctrl.backbones.packaged import DEMO_BACKBONE, DEMO_PRETRAINED
from anomalib_inctrl.errors import CheckpointError, ImageFileError, PromptError
from anomalib_inctrl.predictor import MODELS, Detector, Prediction, model_of_checkpoint

UNTRAINED = "training-free"


@dataclass(frozen=True)
class ServiceResult:
    """Result of one request.

    Attributes:
        predictions: One for each readable image, most abnormal first.
        left_out: One message for each image that could not be read.
        highest_normal: Highest score of a normal reference, each compared with the others; None if there is only one.
    """

    predictions: list[Prediction]
    left_out: list[str]
    highest_normal: float | None


class PredictionService:
    """Predicts images with any of the models and weights on offer, one request at a time.

    Prompts belong to a request and are removed after it, so requests do not share them. One detector is kept, the one
    used last: a backbone may take a gigabyte.

    Args:
        weights: Checkpoints on offer: files, and folders with ``.ckpt`` files in them.
        backbone: OpenCLIP model that scores without trained heads; a checkpoint names its own.
        pretrained: Its pretrained tag or weights file.
        device: Where to compute; an accelerator by default, if there is one.
        limits: Limits of one request.
        prompt_shifts: Offsets along each axis at which prompts are encoded; a checkpoint's own, or 1, by default.

    Raises:
        CheckpointError: If a file is not a checkpoint of the models.
        PretrainedWeightsError: If a file does not exist.
    """

    def __init__(
        self,
        weights: Sequence[Path] = (),
        backbone: str = DEMO_BACKBONE,
        pretrained: str | None = DEMO_PRETRAINED,
        device: str | None = None,
        limits: Limits | None = None,
        prompt_shifts: int | None = None,
    ) -> None:
        self.backbone, self.pretrained, self.device = backbone, pretrained, device
        self.prompt_shifts = prompt_shifts
        self.limits = limits or Limits()
        self._weights: dict[str, dict[str, Path | None]] = {model: {UNTRAINED: None} for model in MODELS}
        for path in _checkpoints(weights):
            offered = self._weights[model_of_checkpoint(path)]
            # Checkpoints of several runs have equal file names.
            name = next(name for name in _names(path) if name not in offered)
            offered[name] = path
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
            detector = Detector(
                path,
                model=model,  # type: ignore[arg-type]  # one of the keys of MODELS
                backbone=self.backbone,
                pretrained=self.pretrained,
                device=self.device,
                prompt_shifts=self.prompt_shifts,
            )
            self._detector = ((model, weights), detector)
        return self._detector[1]

    def check_prompts(self, files: Sequence[str] | None) -> list[Path]:
        """The paths of normal references; raises ImageFileError if one cannot be used, or their number is wrong."""
        paths = check_count(files, self.limits.prompts, "normal references")
        for path in paths:
            check_image(path, self.limits)
        return paths

    def _fault(self, path: Path) -> str | None:
        try:
            check_image(path, self.limits)
        except ImageFileError as error:
            return str(error)
        return None

    def predict(
        self, prompts: Sequence[str] | None, queries: Sequence[str] | None, class_name: str, model: str, weights: str
    ) -> ServiceResult:
        """Predict images, leaving out those that cannot be read.

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
        references = self.check_prompts(prompts)
        name = " ".join((class_name or "").split())
        if not name or len(name) > self.limits.letters:
            msg = f"Name what the images show, in 1 to {self.limits.letters} letters."
            raise PromptError(msg)
        faults = {path: self._fault(path) for path in check_count(queries, self.limits.queries, "images to inspect")}
        readable = [path for path, fault in faults.items() if fault is None]
        left_out = [fault for fault in faults.values() if fault is not None]
        if not readable:
            raise ImageFileError(" ".join(left_out))
        with self._lock:
            detector = self.detector(model, weights)
            try:
                detector.set_prompts(references, name)
                predictions = detector.predict(readable)
                highest = max(detector.held_out_scores(references, name)) if len(references) > 1 else None
            finally:
                detector.clear_prompts()
        return ServiceResult(sorted(predictions, key=lambda prediction: -prediction.score), left_out, highest)


def score_table(predictions: Sequence[Prediction], threshold: float) -> pd.DataFrame:
    """Predictions as a table, with the columns of ``scores.csv``; 1 is anomalous, with a score above the threshold."""
    rows = [
        {
            "image_path": Path(prediction.name).name,
            "class_name": prediction.class_name,
            "score": prediction.score,
            "threshold": threshold,
            "pred_label": int(prediction.score > threshold),
            **prediction.components,
        }
        for prediction in predictions
    ]
    return pd.DataFrame(rows)


def to_csv(table: pd.DataFrame) -> str:
    """Convert a table to CSV; a name that begins like a formula gets an apostrophe, which spreadsheets hide."""
    table = table.copy()
    for column in ("image_path", "class_name"):
        if column in table:
            table[column] = [f"'{text}" if text[:1] in "=+-@\t\r" else text for text in table[column]]
    return str(table.to_csv(index=False, float_format="%.9g", lineterminator="\n"))


def _checkpoints(sources: Sequence[Path]) -> list[Path]:
    found = []
    for source in sources:
        files = sorted(source.rglob("*.ckpt")) if source.is_dir() else [source]
        if not files:
            msg = f"{source}: the folder holds no .ckpt files."
            raise CheckpointError(msg)
        found += files
    return list(dict.fromkeys(found))


def _names(path: Path) -> list[str]:
    """Names for a checkpoint, from the file's name to its whole path."""
    parts = path.resolve().parts
    return ["/".join(parts[-count:]) for count in range(1, len(parts) + 1)]
