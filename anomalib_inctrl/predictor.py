# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The models in five lines of Python, without anomalib's engine and datasets.

Example:
    >>> from anomalib_inctrl import Detector
    >>> detector = Detector("trained.ckpt")                            # doctest: +SKIP
    >>> detector.set_prompts("good/", class_name="metal nut")          # doctest: +SKIP
    >>> for prediction in detector.predict("to_check/"):               # doctest: +SKIP
    ...     print(prediction.name, prediction.score)
    ...     prediction.save(f"{prediction.name}.heat.png")
"""

from __future__ import annotations

import copy
import inspect
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import to_pil_image
from tqdm.auto import tqdm

from anomalib_inctrl.arguments import check_arguments
from anomalib_inctrl.errors import ArgumentError, CheckpointError, ImageDataError, ImageFileError, PromptError
from anomalib_inctrl.io.files import write_image_atomic
from anomalib_inctrl.io.inputs import ImageInput, NamedImage, list_inputs
from anomalib_inctrl.io.weights import read_checkpoint, write_checkpoint
from anomalib_inctrl.models import InCTRL, InCTRLv2
from anomalib_inctrl.models.components.conformal import check_threshold, conformal_threshold, p_value
from anomalib_inctrl.models.components.post_processor import FewShotPostProcessor
from anomalib_inctrl.models.components.text_alignment import TextAlignment
from anomalib_inctrl.prompts.source import DEFAULT_CLASS_NAME
from anomalib_inctrl.visualization import HeatMap, explanation_figure, heat_overlay
from anomalib_inctrl.visualization.heat_map import RESIDUAL_RANGE
from anomalib_inctrl.visualization.outputs import post_processor_value, score_components, to_cpu

logger = logging.getLogger(__name__)

# InCTRLv2 comes first: its checkpoints also hold every setting of InCTRL.
MODELS: dict[str, type[InCTRL] | type[InCTRLv2]] = {"InCTRLv2": InCTRLv2, "InCTRL": InCTRL}


@dataclass(frozen=True, eq=False)
class Prediction:
    """The result for one image.

    Attributes:
        name: Path of the image's file, or its position among the images given: ``images[2]``.
        class_name: Class whose prompts it was compared with.
        score: Anomaly score in [0, 1], higher is more abnormal; the raw score of anomalib's runs.
        label: True where the score is above the detector's threshold; None without one.
        components: What the score is computed from, by name, each in [0, 1]: ``text_score``, ``patch_score`` and, with
            trained heads, ``image_score`` and ``head_score``.
        threshold: The detector's threshold at the time; None without one.
        p_value: How likely a normal image scores as high, in (0, 1]; comparable between classes. None without normal
            images to calibrate with, which ``threshold="auto"`` provides.
        normal_scores: Scores of those normal images; empty without any.
        k_shot: Number of prompts.
        size: Height and width of the image in pixels.
        map_range: Values of the map that are drawn in the first and the last colour. With ``threshold="auto"`` the last
            is twice the largest pixel of the normal images, so what lies in the upper half is on none of them.
        text_alignment: See :meth:`Detector.text_alignment`.
    """

    name: str
    class_name: str
    score: float
    label: bool | None
    components: dict[str, float]
    threshold: float | None
    p_value: float | None
    normal_scores: tuple[float, ...] = field(repr=False)
    k_shot: int
    size: tuple[int, int]
    map_range: tuple[float, float]
    text_alignment: TextAlignment | None = field(repr=False)
    _source: NamedImage = field(repr=False)
    _map: Tensor = field(repr=False)
    _cropped: bool = field(repr=False)

    @property
    def anomaly_map(self) -> NDArray[np.float32]:
        """The anomaly map at the image's own size, ``(H, W)`` in [0, 1]; computed at each access.

        NaN outside the part that the model sees, which is the centre with ``resize_mode="center_crop"``.
        """
        height, width = (min(self.size),) * 2 if self._cropped else self.size
        top, left = (self.size[0] - height) // 2, (self.size[1] - width) // 2
        seen = F.interpolate(self._map[None, None], size=(height, width), mode="bilinear", align_corners=False)[0, 0]
        whole = np.full(self.size, np.nan, dtype=np.float32)
        whole[top : top + height, left : left + width] = seen
        return whole

    @property
    def image(self) -> Image.Image:
        """The image itself in RGB; a file is read again.

        Raises:
            ImageFileError: If the file is gone.
        """
        image: Image.Image = to_pil_image(self._source.read())
        return image

    def heat_map(self, side: int | None = None, map_range: tuple[float, float] | None = None) -> Image.Image:
        """Draw the anomaly map over the image.

        Args:
            side: Longer side of the drawing in pixels; the image's own size by default.
            map_range: Values drawn in the first and the last colour; the prediction's own by default. It is never
                stretched to the map's extremes, so drawings of one detector can be compared by eye.

        Returns:
            The drawing in RGB. It shows the plain image outside the part that the model sees.
        """
        check_arguments(Prediction.heat_map, {"side": side, "map_range": map_range}, {"side": 1})
        image = self.image
        if side is not None:
            scale = side / max(image.size)
            image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
        return heat_overlay(image, self._heat(map_range))

    def explain(self, prompts: ImageInput | Iterable[ImageInput] = (), dpi: int = 100) -> Image.Image:
        """Draw the image, its map, the score beside its threshold, and the normal references in one figure.

        Args:
            prompts: The normal references, to be shown; see :meth:`Detector.set_prompts`.
            dpi: Pixels per inch; the figure is about 13 inches wide.

        Returns:
            The figure in RGB.
        """
        check_arguments(Prediction.explain, {"dpi": dpi}, {"dpi": 20})
        components = {name.replace("_", " "): value for name, value in self.components.items()}
        if not self.k_shot:
            components.pop("patch score", None)  # which would be compared with nothing
        return explanation_figure(
            self.image,
            maps={"anomaly map": self._heat()},
            prompts=[to_pil_image(prompt.read()) for prompt in list_inputs(prompts, "prompts", empty_ok=True)],
            k_shot=self.k_shot,
            score=self.score,
            threshold=self.threshold,
            normal_scores=self.normal_scores,
            pred_label=self.label,
            components=components,
            notes=[] if self.text_alignment is None else self.text_alignment.notes,
            class_name=self.class_name,
            file_name=Path(self.name).name,
            dpi=dpi,
        )

    def to_dict(self) -> dict[str, Any]:
        """The prediction as plain data, without image and map.

        Returns:
            ``name``, ``class_name``, ``score``, ``label``, ``threshold``, ``p_value``, ``k_shot``, ``height`` and
            ``width``, then the components.
        """
        names = ("name", "class_name", "score", "label", "threshold", "p_value", "k_shot")
        height, width = self.size
        return {name: getattr(self, name) for name in names} | {"height": height, "width": width} | self.components

    def save(self, path: str | Path) -> Path:
        """Write the image with its heat map.

        Args:
            path: File to write, in the format that its suffix names; its folder is created.

        Returns:
            The path.
        """
        return write_image_atomic(path, self.heat_map())

    def _heat(self, map_range: tuple[float, float] | None = None) -> HeatMap:
        # On the model's own grid where it covers the image: drawing scales it.
        return HeatMap(self.anomaly_map if self._cropped else self._map.numpy(), *(map_range or self.map_range))


class Predictions(list[Prediction]):
    """The predictions of one call, a list in the order of the images.

    Attributes:
        failed: Name and error message of each image that was left out; see ``on_error`` of :meth:`Detector.predict`.
    """

    def __init__(self, predictions: Iterable[Prediction] = ()) -> None:
        super().__init__(predictions)
        self.failed: list[tuple[str, str]] = []

    def to_pandas(self) -> pd.DataFrame:
        """One row per image, with the columns of :meth:`Prediction.to_dict`."""
        return pd.DataFrame([prediction.to_dict() for prediction in self])


class _Normals(NamedTuple):
    """Scores of the normal images of a class, and the largest pixel of their maps."""

    scores: list[float]
    peak: float


class _Read(NamedTuple):
    """An image that was read: preprocessed ``(1, 3, S, S)``, and its own height and width."""

    source: NamedImage
    pixels: Tensor
    size: tuple[int, int]


class Detector:
    """A model with its preprocessing: set a few normal images as prompts once, then predict any number of images.

    Scores and maps are those of anomalib's ``predict`` before its normalisation.

    Args:
        weights: Checkpoint with trained heads, as training or :meth:`save` wrote it, or a model ready to use
            (:class:`InCTRL` or :class:`InCTRLv2`). Its backbone and settings go before the arguments below; prompts in
            it stay. None leaves the training-free baseline, ``(text score + patch score) / 2``, or the patch score
            where the backbone has no text encoder.
        model: ``"InCTRLv2"`` or ``"InCTRL"``; by default the checkpoint's, or ``"InCTRLv2"``.
        backbone: Name of an OpenCLIP vision transformer, or ``timm/`` and the name of a timm one.
        pretrained: Pretrained tag or path of a weights file; ``True`` for the backbone's default weights, ``None`` for
            random ones.
        blocks: Blocks whose patch tokens are compared, counted from 1; by default the backbone's.
        image_size: Side of the square input in pixels, a multiple of the patch size; by default the backbone's.
        resize_mode: ``"squash"`` keeps the whole image, ``"center_crop"`` is the authors' protocol.
        prompt_shifts: Offsets along each axis at which the patches of prompts are encoded; more than 1 help with
            objects whose position varies. By default the checkpoint's, or 1.
        device: Where to compute, such as ``"cuda:1"``; by default on an accelerator if there is one.
        batch_size: Number of images that go through the model at once; of no influence on the results.
        precision: ``"bf16"`` computes in bfloat16 where that changes scores little (autocast, Lightning's
            ``bf16-mixed``): about twice as fast or more on processors with AVX-512 BF16 or AMX and on GPUs that
            support it, slower on other processors; see docs/performance.md.
        threshold: Score above which an image is labelled anomalous, in [0, 1]; may be set later. ``"auto"`` computes it
            for each class from normal images, see :meth:`set_prompts`. By default images are labelled only with
            prompts that a checkpoint holds beside its own threshold.
        false_alarm_rate: With ``threshold="auto"``, the share of normal images that may be labelled anomalous, by
            conformal prediction; ``n`` normal images can guarantee ``1 / (n + 1)`` at best, which is the default.

    Raises:
        PretrainedWeightsError: If the backbone's weights or the checkpoint do not exist.
        CheckpointError: If the checkpoint is damaged, holds code, or does not fit the model.
        BackboneError: If there is no such backbone, or blocks or image size do not fit it.
        ValueError: If an argument has an invalid value.
    """

    def __init__(
        self,
        weights: str | Path | InCTRL | InCTRLv2 | None = None,
        *,
        model: Literal["InCTRL", "InCTRLv2"] | None = None,
        backbone: str = "ViT-B-16-plus-240",
        pretrained: bool | str | None = True,
        blocks: Sequence[int] | None = None,
        image_size: int | None = None,
        resize_mode: Literal["squash", "center_crop"] = "squash",
        prompt_shifts: int | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 16,
        precision: Literal["float32", "bf16"] = "float32",
        threshold: float | Literal["auto"] | None = None,
        false_alarm_rate: float | None = None,
    ) -> None:
        given = locals()
        check_arguments(Detector.__init__, given, {"batch_size": 1, "image_size": 1, "prompt_shifts": 1})
        check_threshold(threshold, false_alarm_rate)
        self.batch_size, self.false_alarm_rate = batch_size, false_alarm_rate
        self._threshold, self._precision = threshold, precision
        self._device = _device(device)
        self._normals: dict[str, _Normals] = {}
        settings = {name: given[name] for name in ("backbone", "pretrained", "blocks", "image_size", "resize_mode")}
        settings["blocks"] = None if blocks is None else list(blocks)
        if weights is None:
            self.module = MODELS[model or "InCTRLv2"](**settings)
        elif isinstance(weights, (InCTRL, InCTRLv2)):
            self.module = weights
        else:
            checkpoint = read_checkpoint(weights)
            found = MODELS[model_of_checkpoint(weights, checkpoint)]
            self.module = found.load_from_checkpoint(weights, content=checkpoint)
        if model not in {None, name := type(self.module).__name__}:
            msg = f"model={model!r}: the weights given are of {name}. Leave model out, or give other weights."
            raise ArgumentError(msg)
        defaults = inspect.signature(Detector.__init__).parameters
        for name, value in settings.items() if weights is not None else ():
            kept = self.module.hparams[name]
            if value not in (defaults[name].default, kept):
                logger.warning("%s=%r is ignored: the weights given have %r.", name, value, kept)
        if prompt_shifts is not None:
            self.module.hparams["prompt_shifts"] = self.module.model.prompt_shifts = prompt_shifts
        self.module.eval().to(self._device)
        # Classes whose prompts the checkpoint's threshold and ranges were computed with.
        self._validated = set(self.class_names)
        self._class_name = self.class_names[0] if len(self.class_names) == 1 else None
        if not self.heads_trained:
            logger.warning(
                "The heads are untrained: scores are those of the training-free baseline. Give trained heads with "
                "Detector(weights=...)."
            )

    @property
    def heads_trained(self) -> bool:
        """Whether scores come from trained heads, not from the training-free baseline."""
        return self.module.model.heads_trained

    @property
    def class_names(self) -> list[str]:
        """Classes that prompts are set for, in the order they were set."""
        return self.module.model.bank.class_names

    @property
    def threshold(self) -> float | Literal["auto"] | None:
        """Score above which an image is labelled anomalous, ``"auto"``, or None.

        Raises:
            ValueError: When set to anything else.
        """
        return self._threshold

    @threshold.setter
    def threshold(self, threshold: float | Literal["auto"] | None) -> None:
        check_threshold(threshold, None)
        self._threshold = threshold

    @property
    def normal_scores(self) -> dict[str, list[float]]:
        """Scores of the normal images that ``threshold="auto"`` is computed from, by class name; else empty."""
        return {name: list(normals.scores) for name, normals in self._normals.items()}

    def set_prompts(
        self,
        images: ImageInput | Iterable[ImageInput] | None,
        class_name: str = DEFAULT_CLASS_NAME,
        calibration: ImageInput | Iterable[ImageInput] | None = None,
    ) -> None:
        """Set normal images of an object as prompts; they replace earlier ones of the same class name.

        Args:
            images: One or several of: path of an image file or of a folder, Pillow image, NumPy array ``(H, W, 3)``,
                tensor ``(3, H, W)``; see :func:`anomalib_inctrl.io.inputs.list_inputs`. None leaves the text prompts
                alone (zero-shot).
            class_name: What the object is called, in English; it goes into the text prompts.
            calibration: Further normal images, for ``threshold="auto"``: they are scored against the prompts. Without
                them every prompt is scored against the others.

        Raises:
            ImageFileError: If a file cannot be read; names it.
            ImageDataError: If an image in memory cannot be used, or there are none; names it.
            PromptError: If the class name is empty, or with ``threshold="auto"`` there are too few normal images.
            ValueError: If calibration images are given without ``threshold="auto"``.
        """
        _check_class_name(class_name)
        if calibration is not None and self.threshold != "auto":
            msg = f"calibration has no effect with threshold={self.threshold!r}: use Detector(..., threshold='auto')."
            raise ValueError(msg)
        inputs = [] if images is None else list_inputs(images)
        normals = inputs if calibration is None else list_inputs(calibration, "calibration")
        if self.threshold == "auto":  # too few are reported before anything is computed
            if len(inputs) < 2 and calibration is None:
                msg = (
                    f"threshold='auto' compares each prompt with the others, found {len(inputs)}: give two or more "
                    "prompts, or normal images to calibrate with, calibration=."
                )
                raise PromptError(msg)
            conformal_threshold([0.0] * len(normals), self.false_alarm_rate)
        model = self.module.model
        none = torch.empty(0, 3, *model.backbone.image_size)
        prepared = torch.cat([none, *(self._read(item).pixels for item in inputs)])
        files = [item.name for item in inputs if isinstance(item.source, (str, Path))]
        with self._autocast():
            model.set_prompts(prepared, class_name, files)
        if (alignment := model.text_alignment(class_name)) is not None:
            alignment.log()
        self._class_name = class_name
        self._validated.discard(class_name)
        self._normals.pop(class_name, None)
        if calibration is not None:
            predictions = list(self._predictions(normals, class_name))
            peak = max(float(prediction._map.max()) for prediction in predictions)
            self._normals[class_name] = _Normals([prediction.score for prediction in predictions], peak)
        elif self.threshold == "auto":
            self._normals[class_name] = self._held_out(prepared, class_name)

    def text_alignment(self, class_name: str | None = None) -> TextAlignment | None:
        """Measure how well the text prompts of a class fit its normal images, and so whether to trust the text score.

        Args:
            class_name: The class; by default the one set last.

        Returns:
            Words of the name that the text encoder does not know, the cosine of the text prototypes, and the text score
            of each prompt; None without a text encoder.

        Raises:
            PromptError: If no prompts are set for the class.
        """
        return self.module.model.text_alignment(self._class_name if class_name is None else class_name)

    def clear_prompts(self) -> None:
        """Remove all prompts."""
        self.module.model.bank.clear()
        self._class_name = None
        self._validated.clear()
        self._normals.clear()

    def predict(
        self,
        images: ImageInput | Iterable[ImageInput],
        class_name: str | None = None,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> Predictions:
        """Predict images.

        Args:
            images: As in :meth:`set_prompts`.
            class_name: Class whose prompts to compare with; by default the one set last.
            on_error: What an image that cannot be read or used does: ``"raise"`` its error, or ``"skip"`` it, so that
                it is listed in ``failed`` of the result.

        Returns:
            One prediction for each image, in order; also for a single one.

        Raises:
            PromptError: If no prompts are set, for the class or at all.
            ImageFileError: If a file cannot be read; names it.
            ImageDataError: If an image in memory cannot be used; names it.
            CheckpointError: If a score is not finite, because the model's weights are not.
            ValueError: If ``on_error`` is neither of the two.
        """
        check_arguments(Detector.predict, {"on_error": on_error})
        predictions = Predictions()
        skip = on_error == "skip"
        inputs, name = self._inputs(images, class_name, missing_ok=skip)
        predictions.extend(self._predictions(inputs, name, predictions.failed if skip else None))
        if failed := predictions.failed:
            count, whole = len(failed), len(inputs)
            logger.warning("%d of %d images are left out (see .failed), first: %s", count, whole, failed[0][1])
        return predictions

    def stream(self, images: ImageInput | Iterable[ImageInput], class_name: str | None = None) -> Iterator[Prediction]:
        """Predict images one after the other, in memory that does not grow with their number.

        What :meth:`predict` returns keeps every anomaly map: some 230 kB an image at 240 pixels. Arguments and errors
        are those of :meth:`predict`.

        Yields:
            One prediction for each image, in order.
        """
        yield from self._predictions(*self._inputs(images, class_name))

    def _inputs(
        self, images: ImageInput | Iterable[ImageInput], class_name: str | None, missing_ok: bool = False
    ) -> tuple[list[NamedImage], str]:
        """The images to read and the class to compare them with."""
        name = self._class_name if class_name is None else class_name
        self.module.model.bank.select(name)  # a wrong name is reported before any image is read
        return list_inputs(images, missing_ok=missing_ok), name or self.class_names[0]

    def _predictions(
        self, inputs: list[NamedImage], class_name: str, failed: list[tuple[str, str]] | None = None
    ) -> Iterator[Prediction]:
        """Predict images batch by batch; the next one's are read while the model works.

        Names and errors of images that cannot be used are added to ``failed``; None raises the errors.
        """

        def read(item: NamedImage) -> _Read | str:
            try:
                return self._read(item)
            except (ImageFileError, ImageDataError) as error:
                if failed is None:
                    raise
                return str(error)

        batches = [inputs[start : start + self.batch_size] for start in range(0, len(inputs), self.batch_size)]
        progress = tqdm(batches, desc="Predicting", unit="batch", leave=False, disable=len(batches) < 2)
        with ThreadPoolExecutor() as readers:
            upcoming = readers.map(read, batches[0])
            for batch, following in zip(progress, [*batches[1:], []], strict=True):
                reading, upcoming = upcoming, readers.map(read, following)
                usable = []
                for item, found in zip(batch, reading, strict=True):
                    if isinstance(found, _Read):
                        usable.append(found)
                    elif failed is not None:
                        failed.append((item.name, found))
                if usable:
                    yield from self._predict_batch(usable, class_name)

    def held_out_scores(
        self, images: ImageInput | Iterable[ImageInput], class_name: str = DEFAULT_CLASS_NAME
    ) -> list[float]:
        """Score normal images, each with the others as its prompts; what ``threshold="auto"`` is computed from.

        Prompts set before stay.

        Args:
            images: Two or more normal images, as in :meth:`set_prompts`.
            class_name: What they show.

        Returns:
            One score for each image, in order.

        Raises:
            PromptError: If there are fewer than two, or the class name is empty.
            ImageFileError: If a file cannot be read; names it.
            ImageDataError: If an image in memory cannot be used; names it.
        """
        _check_class_name(class_name)
        prepared = [self._read(item).pixels for item in list_inputs(images)]
        return self._held_out(torch.cat(prepared), class_name).scores

    def _held_out(self, prepared: Tensor, class_name: str) -> _Normals:
        with self._autocast():
            held_out = self.module.model.held_out(prepared, class_name, self.batch_size)
        return _Normals(to_cpu(held_out.score).tolist(), float(held_out.anomaly_map.max()))

    def _predict_batch(self, batch: list[_Read], class_name: str) -> list[Prediction]:
        model, normals = self.module.model, self._normals.get(class_name)
        with torch.inference_mode(), self._autocast():
            images = torch.cat([image.pixels for image in batch]).to(self._device)
            result = model.score_components(images, class_name)
            maps = to_cpu(model.to_inference_batch(result).anomaly_map.squeeze(1))  # type: ignore[union-attr]
        scores = to_cpu(result.score).tolist()
        components = {name: values.tolist() for name, values in score_components(result).items()}
        k_shot, alignment = model.bank.select(class_name).k_shot, model.text_alignment(class_name)
        threshold, largest = self._threshold_of(class_name), None if normals is None else min(2 * normals.peak, 1.0)
        if class_name in self._validated:
            threshold = post_processor_value(self.module, "image_threshold") if threshold is None else threshold
            largest = post_processor_value(self.module, "pixel_max")
        predictions = []
        for row, (image, score) in enumerate(zip(batch, scores, strict=True)):
            if not math.isfinite(score):
                msg = (
                    f"{image.source.name}: its score is not finite; the model or its prompts hold NaN or infinite "
                    "values. Use another checkpoint."
                )
                raise CheckpointError(msg)
            prediction = Prediction(
                name=image.source.name,
                class_name=class_name,
                score=score,
                label=None if threshold is None else score > threshold,
                components={name: values[row] for name, values in components.items()},
                threshold=threshold,
                p_value=None if normals is None else p_value(score, normals.scores),
                normal_scores=() if normals is None else tuple(normals.scores),
                k_shot=k_shot,
                size=image.size,
                map_range=(0.0, (largest or RESIDUAL_RANGE[1]) if k_shot else 1.0),
                text_alignment=alignment,
                _source=image.source,
                _map=maps[row].clone(),
                _cropped=self.module.hparams["resize_mode"] == "center_crop",
            )
            predictions.append(prediction)
        return predictions

    def _threshold_of(self, class_name: str) -> float | None:
        """The threshold given, or with "auto" that of the class; None until its prompts are set."""
        if self.threshold != "auto":
            return self.threshold
        normals = self._normals.get(class_name)
        return None if normals is None else conformal_threshold(normals.scores, self.false_alarm_rate)

    def _autocast(self) -> torch.autocast:
        # A new one each time: it keeps the state to restore, and an app predicts in several threads.
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision == "bf16")

    def _read(self, item: NamedImage) -> _Read:
        image, transform = item.read().unsqueeze(0), self.module.image_transform
        prepared = image if transform is None else transform(image)
        self.module.model.backbone.check_images(prepared)
        return _Read(item, prepared, (image.shape[-2], image.shape[-1]))

    def save(self, path: str | Path) -> Path:
        """Write heads, prompts and threshold to one file, for ``Detector(path)`` and for anomalib's ``--ckpt_path``.

        The backbone's weights are not in it, only their name.

        Args:
            path: File to write.

        Returns:
            The path.
        """
        if self.threshold == "auto" and len(self.class_names) > 1:
            msg = f"{path}: a file holds one threshold, and {self.class_names} have one each. Save one class at a time."
            raise PromptError(msg)
        post_processor = FewShotPostProcessor()  # thresholds and ranges of other prompts stay out
        own, validated = self.module.post_processor, set(self.class_names) <= self._validated
        if validated and isinstance(own, FewShotPostProcessor):
            post_processor = copy.deepcopy(own)
        if self.class_names:
            post_processor.set_thresholds(self._threshold_of(self.class_names[0]), None)
        checkpoint = self.module.checkpoint_content()
        checkpoint["state_dict"] |= post_processor.cpu().state_dict(prefix="post_processor.")
        return write_checkpoint(path, checkpoint)


def model_of_checkpoint(path: str | Path, checkpoint: dict[str, Any] | None = None) -> str:
    """Find out which model a checkpoint belongs to, without running code from it.

    Args:
        path: Checkpoint.
        checkpoint: Its content, if it has been read.

    Returns:
        A name in :data:`MODELS`.

    Raises:
        PretrainedWeightsError: If there is no such file.
        CheckpointError: If it is damaged, holds code, or belongs to neither model.
    """
    content = read_checkpoint(path) if checkpoint is None else checkpoint
    settings = content.get("hyper_parameters", {})
    for name, cls in MODELS.items():
        if all(key in settings for key in cls.model_arguments()):
            return name
    msg = f"{path}: found no checkpoint of InCTRL or InCTRLv2. Give one that training or Detector.save wrote."
    raise CheckpointError(msg)


def _check_class_name(class_name: object) -> None:
    if not isinstance(class_name, str) or not class_name.strip():
        msg = f"class_name={class_name!r}: name in a word or two what the images show."
        raise PromptError(msg)


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        device = next((name for name in ("cuda", "mps") if getattr(torch, name).is_available()), "cpu")
    try:
        torch.empty(1, device=device).tolist()  # a driver that is missing shows only now, as a device without memory
        return torch.device(device)
    except (RuntimeError, AssertionError) as error:
        found = str(error).strip().splitlines()[0]
        msg = f"device={str(device)!r} cannot be used here ({found}). Leave device out, or give 'cpu'."
        raise ArgumentError(msg) from error
