# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What the app does, without the page: detectors by model and weights, and the tables of their results."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from anomalib_inctrl.app.uploads import Limits, check_count, check_picture
from anomalib_inctrl.errors import CheckpointError, ImageFileError, PromptError
from anomalib_inctrl.predictor import MODELS, Detector, Prediction, model_of_checkpoint

UNTRAINED = "training-free"


@dataclass(frozen=True)
class ServiceResult:
    """Results of one request.

    Attributes:
        results: What was judged, most abnormal first.
        left_out: One message for each picture that could not be read.
        highest_normal: Highest score of a normal picture, each judged by the others; None if there is but one.
    """

    results: list[Prediction]
    left_out: list[str]
    highest_normal: float | None


class PredictionService:
    """Judges pictures by any of the models and weights on offer, one request at a time.

    Prompts belong to a request and are forgotten after it, so visitors do not meet each other's. One detector is kept,
    the one used last: a backbone may take a gigabyte.

    Args:
        weights: Checkpoints on offer: files, and folders with ``.ckpt`` files in them.
        backbone: OpenCLIP model that scores without trained heads; a checkpoint names its own.
        pretrained: Its pretrained tag or weights file.
        device: Where to compute; an accelerator by default, if there is one.
        limits: What one request may ask for.
        prompt_shifts: Offsets along each axis at which prompts are seen; a checkpoint's own, or 1, by default.

    Raises:
        CheckpointError: If a file is none of the models' checkpoints.
        PretrainedWeightsError: If a file does not exist.
    """

    def __init__(
        self,
        weights: Sequence[Path] = (),
        backbone: str = "mini-clip-16-240",
        pretrained: str | None = "demo",
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
            # Checkpoints of several runs are all called alike.
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
        """Make the detector for a model and weights; the last one is kept.

        Args:
            model: One of :attr:`models`.
            weights: One of :meth:`weights_of`.

        Returns:
            The detector.

        Raises:
            CheckpointError: If they are not on offer.
        """
        if weights not in self._weights.get(model, {}):
            msg = f"There are no weights {weights!r} for {model}."
            raise CheckpointError(msg)
        if self._detector is None or self._detector[0] != (model, weights):
            self._detector = None  # its memory is needed
            path = self._weights[model][weights]
            made = Detector(
                path,
                model=model,  # type: ignore[arg-type]  # one of the keys of MODELS
                backbone=self.backbone,
                pretrained=self.pretrained,
                device=self.device,
                prompt_shifts=self.prompt_shifts,
            )
            self._detector = ((model, weights), made)
        return self._detector[1]

    def check_prompts(self, files: Sequence[str] | None) -> list[Path]:
        """Take normal pictures if they can be used, all of them.

        Args:
            files: Paths of the uploads.

        Returns:
            The paths.

        Raises:
            ImageFileError: If there are none or too many, or one of them cannot be read.
        """
        paths = check_count(files, self.limits.prompts, "normal pictures")
        for path in paths:
            check_picture(path, self.limits)
        return paths

    def _fault(self, path: Path) -> str | None:
        try:
            check_picture(path, self.limits)
        except ImageFileError as error:
            return str(error)
        return None

    def judge(
        self, prompts: Sequence[str] | None, queries: Sequence[str] | None, class_name: str, model: str, weights: str
    ) -> ServiceResult:
        """PredictionService pictures.

        Args:
            prompts: Paths of the normal pictures.
            queries: Paths of the pictures to judge; those that cannot be read are left out.
            class_name: What they show.
            model: One of :attr:`models`.
            weights: One of :meth:`weights_of`.

        Returns:
            The results and what was left out.

        Raises:
            ImageFileError: If there are too few or too many pictures, or a normal one cannot be read.
            PromptError: If the name is missing or too long.
        """
        normal = self.check_prompts(prompts)
        name = " ".join((class_name or "").split())
        if not name or len(name) > self.limits.letters:
            msg = f"Name what the pictures show, in 1 to {self.limits.letters} letters."
            raise PromptError(msg)
        paths = check_count(queries, self.limits.queries, "pictures to judge")
        faults = {path: self._fault(path) for path in paths}
        good, left_out = [path for path in paths if not faults[path]], [fault for fault in faults.values() if fault]
        if not good:
            raise ImageFileError(" ".join(left_out))
        with self._lock:
            detector = self.detector(model, weights)
            try:
                detector.set_prompts(normal, name)
                results = detector.predict(good)
                highest = max(detector.held_out_scores(normal, name)) if len(normal) > 1 else None
            finally:
                detector.clear_prompts()
        return ServiceResult(sorted(results, key=lambda result: -result.score), left_out, highest)


def score_table(results: Sequence[Prediction], threshold: float) -> pd.DataFrame:
    """Results as a table, with the column names of ``scores.csv``.

    Args:
        results: Any number of results.
        threshold: Score above which a picture is anomalous.

    Returns:
        One row for each result: ``image_path`` (the file's name), ``class_name``, ``score``, ``threshold``,
        ``pred_label`` (1 anomalous, 0 normal), and the components.
    """
    rows = [
        {
            "image_path": Path(result.name).name,
            "class_name": result.class_name,
            "score": result.score,
            "threshold": threshold,
            "pred_label": int(result.score > threshold),
            **result.components,
        }
        for result in results
    ]
    return pd.DataFrame(rows)


def to_csv(table: pd.DataFrame) -> str:
    """Write a table of :func:`score_table` as CSV that spreadsheets take for text and numbers only.

    A name that begins like a formula gets an apostrophe in front, which spreadsheets hide.
    """
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
    """Names for a checkpoint, ever longer ones; the last is one of a kind."""
    parts = path.resolve().parts
    return ["/".join(parts[-count:]) for count in range(1, len(parts) + 1)]
