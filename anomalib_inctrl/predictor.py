# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The models in five lines of Python, for pictures as people hold them, without anomalib's engine and datasets.

Example:
    >>> from anomalib_inctrl import Detector
    >>> detector = Detector("trained.ckpt")                            # doctest: +SKIP
    >>> detector.set_prompts("good/", class_name="metal nut")          # doctest: +SKIP
    >>> for result in detector.predict("to_check/"):                   # doctest: +SKIP
    ...     print(result.name, result.score)
    ...     result.save(f"{result.name}.heat.png")
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

from anomalib_inctrl.backbones import ImageFeatures
from anomalib_inctrl.errors import CheckpointError, PromptError
from anomalib_inctrl.io.inputs import ImageInput, NamedImage, list_inputs
from anomalib_inctrl.io.weights import read_checkpoint, write_checkpoint
from anomalib_inctrl.models import InCTRL, InCTRLv2
from anomalib_inctrl.models.components.prompt_bank import PromptContext
from anomalib_inctrl.models.components.prompt_shifts import check_prompt_shifts, encode_prompts
from anomalib_inctrl.models.components.residuals import unit
from anomalib_inctrl.prediction import Prediction, seen_part
from anomalib_inctrl.prompts.source import DEFAULT_CLASS_NAME
from anomalib_inctrl.visualization.heat_map import RESIDUAL_RANGE

logger = logging.getLogger(__name__)

# The model whose settings are the more comes first: a checkpoint of it also has all settings of the other.
MODELS: dict[str, type[InCTRL] | type[InCTRLv2]] = {"InCTRLv2": InCTRLv2, "InCTRL": InCTRL}


class Detector:
    """A model with its preprocessing: show it a few normal pictures once, then let it judge any number.

    Scores and maps are those of anomalib's ``predict`` before its normalisation.

    Args:
        weights: Checkpoint with trained heads, as training or :meth:`save` wrote it, or a model ready to use
            (:class:`InCTRL` or :class:`InCTRLv2`). What it says of backbone and settings goes before the arguments
            below; prompts in it stay. None leaves the training-free floor, ``(text score + patch score) / 2``.
        model: ``"InCTRLv2"`` or ``"InCTRL"``; by default the checkpoint's, or ``"InCTRLv2"``.
        backbone: Name of an OpenCLIP vision transformer.
        pretrained: OpenCLIP pretrained tag or path of a weights file.
        resize_mode: ``"squash"`` sees the whole picture, ``"center_crop"`` is the authors' protocol.
        prompt_shifts: Offsets along each axis at which the patches of prompts are seen; more than 1 help with things
            that do not lie where they lie in the prompts. By default the checkpoint's, or 1.
        device: Where to compute, such as ``"cuda:1"``; by default on an accelerator if there is one.
        batch_size: Number of pictures that go through the model at once; of no influence on the results.
        threshold: Score above which a picture is labelled anomalous; may be set later. By default there are labels
            only with prompts that a checkpoint holds beside its own threshold.

    Raises:
        PretrainedWeightsError: If the backbone's weights or the checkpoint are not there.
        CheckpointError: If the checkpoint is damaged, holds code, or is none of the model.
        BackboneError: If OpenCLIP has no such backbone.
        ValueError: If an argument has a value that it cannot have.
    """

    def __init__(
        self,
        weights: str | Path | InCTRL | InCTRLv2 | None = None,
        *,
        model: Literal["InCTRL", "InCTRLv2"] | None = None,
        backbone: str = "ViT-B-16-plus-240",
        pretrained: str | None = "laion400m_e32",
        resize_mode: Literal["squash", "center_crop"] = "squash",
        prompt_shifts: int | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 16,
        threshold: float | None = None,
    ) -> None:
        if model is not None and model not in MODELS:
            msg = f"model={model!r}: there is no such model. Choose one of {list(MODELS)}."
            raise ValueError(msg)
        if batch_size < 1:
            msg = f"batch_size={batch_size}: must be at least 1."
            raise ValueError(msg)
        if prompt_shifts is not None:
            check_prompt_shifts(prompt_shifts)
        self.batch_size = batch_size
        self.threshold = threshold
        self._device = _device(device)
        if isinstance(weights, (InCTRL, InCTRLv2)):
            self.module = weights
        elif weights is not None:
            self.module = _from_checkpoint(Path(weights), model)
        else:
            self.module = MODELS[model or "InCTRLv2"](backbone=backbone, pretrained=pretrained, resize_mode=resize_mode)
        if prompt_shifts is not None:
            self.module.hparams["prompt_shifts"] = self.module.model.prompt_shifts = prompt_shifts
        self.module.eval().to(self._device)
        self.module.model.to(self._device)
        self._with_own_threshold = set(self.class_names)
        self._class_name = self.class_names[0] if len(self.class_names) == 1 else None
        if not self.heads_trained:
            logger.warning(
                "The heads are untrained: scores are the training-free floor, (text score + patch score) / 2. Give "
                "trained heads with Detector(weights=...)."
            )

    # ------------------------------------------------------------------ prompts

    @property
    def heads_trained(self) -> bool:
        """Whether trained heads score; if not, the training-free floor does."""
        return self.module.model.heads_trained

    @property
    def class_names(self) -> list[str]:
        """Classes that prompts are set for, in the order they were set."""
        return self.module.model.bank.class_names

    def set_prompts(
        self, images: ImageInput | Iterable[ImageInput] | None, class_name: str = DEFAULT_CLASS_NAME
    ) -> None:
        """Show the detector normal pictures of a thing; replaces earlier ones of the same class name.

        Args:
            images: One or several of: path of an image file or of a folder, Pillow image, NumPy array ``(H, W, 3)``,
                tensor ``(3, H, W)``; see :func:`anomalib_inctrl.io.inputs.list_inputs`. None leaves the text prompts
                alone (zero-shot).
            class_name: What the thing is called, in English; it goes into the text prompts.

        Raises:
            ImageFileError: If a file cannot be read; names it.
            ImageDataError: If a picture in memory is none, or there are none; says which.
            PromptError: If the class name is empty.
        """
        _check_class_name(class_name)
        pictures = [] if images is None else list_inputs(images)
        prepared = [self._prepare(picture)[0] for picture in pictures]
        side = self.module.model.backbone.image_size
        self.module.model.set_prompts(
            torch.cat(prepared) if prepared else torch.empty(0, 3, *side),
            class_name,
            [picture.name for picture in pictures if isinstance(picture.source, (str, Path))],
        )
        self._class_name = class_name
        self._with_own_threshold.discard(class_name)

    def clear_prompts(self) -> None:
        """Forget all prompts."""
        self.module.model.bank.clear()
        self._class_name = None
        self._with_own_threshold = set()

    # ------------------------------------------------------------------ judging

    def predict(self, images: ImageInput | Iterable[ImageInput], class_name: str | None = None) -> list[Prediction]:
        """PredictionService pictures.

        Args:
            images: As in :meth:`set_prompts`.
            class_name: Class whose prompts to compare with; by default the one set last.

        Returns:
            One result for each picture, in order; also for a single one.

        Raises:
            PromptError: If no prompts are set, for the class or at all.
            ImageFileError: If a file cannot be read; names it.
            ImageDataError: If a picture in memory is none; says which.
            CheckpointError: If a score is not finite, because the model's weights are not.
        """
        bank = self.module.model.bank
        if not len(bank):
            msg = (
                "No prompts are set. First show the detector some normal pictures: "
                'detector.set_prompts(images, class_name="...").'
            )
            raise PromptError(msg)
        name = self._class_name if class_name is None else class_name
        if name is None:
            msg = f"The detector has prompts for several classes, {bank.class_names}: say which with class_name."
            raise PromptError(msg)
        bank.select(name)  # a wrong name is told before any picture is read
        pictures = list_inputs(images)
        starts = range(0, len(pictures), self.batch_size)
        results: list[Prediction] = []
        for start in tqdm(starts, desc="Judging", unit="batch", leave=False, disable=len(starts) < 2):
            results += self._judge(pictures[start : start + self.batch_size], name)
        return results

    @torch.inference_mode()
    def held_out_scores(
        self, images: ImageInput | Iterable[ImageInput], class_name: str = DEFAULT_CLASS_NAME
    ) -> list[float]:
        """Score normal pictures, each with the others as its prompts: a measure of what normal ones get.

        The highest of them is a threshold to start from where no defects are known. Prompts set before stay.

        Args:
            images: Two or more normal pictures, as in :meth:`set_prompts`.
            class_name: What they show.

        Returns:
            One score for each picture, in order.

        Raises:
            PromptError: If there are fewer than two, or the class name is empty.
            ImageFileError: If a file cannot be read; names it.
            ImageDataError: If a picture in memory is none; says which.
        """
        _check_class_name(class_name)
        pictures = list_inputs(images)
        if len(pictures) < 2:
            msg = f"images: {len(pictures)} picture cannot be judged by the others; give two or more."
            raise PromptError(msg)
        model = self.module.model
        prepared = torch.cat([self._prepare(picture)[0] for picture in pictures])
        features = encode_prompts(model.backbone, prepared, model.prompt_shifts, self.batch_size)
        views = features.patches.unflatten(0, (len(pictures), -1))  # of each picture the first is it as it is
        unit_views, prototypes = unit(views), model.backbone.text_prototypes(class_name)
        scores = []
        for row in range(len(pictures)):
            others = [other for other in range(len(pictures)) if other != row]
            context = PromptContext(unit_views[others].flatten(0, 1), features.embedding[others], prototypes)
            query = ImageFeatures(views[row, :1], features.embedding[row : row + 1])
            scores.append(float(model.score_features(query, context).score))
        return scores

    @torch.inference_mode()
    def _judge(self, pictures: Sequence[NamedImage], class_name: str) -> list[Prediction]:
        prepared = [self._prepare(picture) for picture in pictures]
        images = torch.cat([image for image, _ in prepared]).to(self._device)
        components = self.module.model.score_components(images, class_name)
        maps = self.module.model.to_inference_batch(components).anomaly_map.squeeze(1).float().cpu()  # type: ignore[union-attr]
        scalars = {
            term.name: value.float().cpu().tolist()
            for term in fields(components)
            if isinstance(value := getattr(components, term.name), Tensor) and value.ndim == 1
        }
        if wild := [row for row, score in enumerate(scalars["score"]) if not math.isfinite(score)]:
            name = pictures[wild[0]].name
            msg = f"{name}: its score is not finite; the model or its prompts hold NaN or infinite values."
            raise CheckpointError(msg)
        threshold = self._threshold(class_name)
        return [
            Prediction(
                name=picture.name,
                class_name=class_name,
                score=(score := scalars["score"][row]),
                label=None if threshold is None else score > threshold,
                components={name: values[row] for name, values in scalars.items() if name != "score"},
                threshold=threshold,
                k_shot=self.module.model.bank.select(class_name).k_shot,
                size=size,
                map_range=self._map_range(class_name),
                _source=picture,
                _map=maps[row].clone(),
                _seen=seen_part(size, self.module.hparams["resize_mode"], self.module.model.backbone.image_size[0]),
            )
            for row, (picture, (_, size)) in enumerate(zip(pictures, prepared, strict=True))
        ]

    def _prepare(self, picture: NamedImage) -> tuple[Tensor, tuple[int, int]]:
        """A picture as the backbone wants it ``(1, 3, S, S)``, and its own height and width."""
        image = picture.read()
        transform: Any = self.module.pre_processor.transform  # type: ignore[union-attr]
        height, width = image.shape[-2:]
        return transform(image.unsqueeze(0)), (height, width)

    def _threshold(self, class_name: str) -> float | None:
        if self.threshold is not None or class_name not in self._with_own_threshold:
            return self.threshold
        return self._post_processor_value("image_threshold")

    def _map_range(self, class_name: str) -> tuple[float, float]:
        if not self.module.model.bank.select(class_name).k_shot:
            return 0.0, 1.0
        highest = self._post_processor_value("pixel_max") if class_name in self._with_own_threshold else None
        return RESIDUAL_RANGE if highest is None or highest <= 0 else (0.0, highest)

    def _post_processor_value(self, name: str) -> float | None:
        value = getattr(self.module.post_processor, name, None)
        return float(value) if value is not None and math.isfinite(value) else None

    # ------------------------------------------------------------------ keeping

    def save(self, path: str | Path) -> Path:
        """Write heads, prompts and threshold to one file, for ``Detector(path)`` and for anomalib's ``--ckpt_path``.

        The backbone's weights are not in it, only which ones they are.

        Args:
            path: File to write.

        Returns:
            The path.
        """
        checkpoint = self.module.checkpoint_content()
        checkpoint["state_dict"] |= self._thresholds()
        return write_checkpoint(path, checkpoint)

    def _thresholds(self) -> dict[str, Tensor]:
        """State of anomalib's post-processor that fits the prompts now set."""
        prefix = "post_processor."
        state = {key: value for key, value in self.module.state_dict().items() if key.startswith(prefix)}
        if not set(self.class_names) <= self._with_own_threshold:
            # Thresholds and ranges of other prompts, with which the checkpoint was validated.
            state = {key: torch.full_like(value, math.nan) for key, value in state.items()}
        if self.threshold is not None:
            # On a range of 0 to 1 normalising moves the threshold to 0.5, where anomalib expects it.
            values = {"_image_threshold": self.threshold, "image_min": 0.0, "image_max": 1.0}
            state |= {f"{prefix}{name}": torch.tensor(value) for name, value in values.items()}
        return state


def model_of_checkpoint(path: str | Path) -> str:
    """Tell which model a checkpoint is of, without running code from it.

    Args:
        path: Checkpoint.

    Returns:
        A name in :data:`MODELS`.

    Raises:
        PretrainedWeightsError: If there is no such file.
        CheckpointError: If it is damaged, holds code, or is of neither model.
    """
    return _model_of(read_checkpoint(path), path)


def _model_of(checkpoint: dict[str, Any], path: str | Path) -> str:
    settings = checkpoint.get("hyper_parameters", {})
    for name, cls in MODELS.items():
        if all(key in settings for key in cls.model_arguments()):
            return name
    msg = f"{path}: found no checkpoint of InCTRL or InCTRLv2. Give one that training or Detector.save wrote."
    raise CheckpointError(msg)


def _from_checkpoint(path: Path, model: str | None) -> InCTRL | InCTRLv2:
    checkpoint = read_checkpoint(path)
    found = _model_of(checkpoint, path)
    if model not in {None, found}:
        msg = f"{path}: found a checkpoint of {found}, expected one of {model}. Leave model out, or give another file."
        raise CheckpointError(msg)
    loaded: InCTRL | InCTRLv2 = MODELS[found].from_checkpoint(checkpoint, path)
    return loaded


def _check_class_name(class_name: object) -> None:
    if not isinstance(class_name, str) or not class_name.strip():
        msg = f"class_name={class_name!r}: say in a word or two what the pictures show."
        raise PromptError(msg)


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        found = next((name for name in ("cuda", "mps") if getattr(torch, name).is_available()), "cpu")
        return torch.device(found)
    try:
        return torch.device(device)
    except RuntimeError as error:
        msg = f"device={device!r}: {error}"
        raise ValueError(msg) from error
