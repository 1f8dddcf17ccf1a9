# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""anomalib's pictures, and beside them one explanation sheet per image."""

from __future__ import annotations

import math
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from anomalib.utils.path import generate_output_filename
from anomalib.visualization import ImageVisualizer
from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image

from anomalib_inctrl.backbones.openclip import CLIP_MEAN, CLIP_STD
from anomalib_inctrl.errors import ImageFileError
from anomalib_inctrl.io.files import write_image_atomic
from anomalib_inctrl.io.images import read_image
from anomalib_inctrl.io.video import is_frame
from anomalib_inctrl.visualization.explanation import MAX_PROMPTS, explanation_figure
from anomalib_inctrl.visualization.heat_map import RESIDUAL_RANGE, HeatMap
from anomalib_inctrl.visualization.outputs import (
    class_names,
    map_components,
    pred_label,
    raw_score,
    score_components,
    to_cpu,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from anomalib.data import ImageBatch
    from lightning.pytorch import LightningModule, Trainer

# How components are called on a sheet where it is not simply the field's name.
MAP_NAMES = {"patch_map": "residual map", "dasl_map": "DASL map", "oasl_map": "OASL map"}


class ExplanationVisualizer(ImageVisualizer):
    """Writes anomalib's picture of every image, and a sheet that explains its score.

    anomalib's pictures go to `images/` as ever, the sheets to `explanations/` under the same names, as PNG; both from
    `test` and from `predict`. See :func:`~anomalib_inctrl.visualization.explanation_figure` for what a sheet shows.

    anomalib names a picture after the last folder and the file, so that images of equal names overwrite each other
    where a run holds several categories or nested folders. When the images of a run would do so, all its pictures keep
    their folders from the images' common parent folder on.

    Ranges of the maps: those in `map_ranges`; else 0 to 1, which a normalised anomaly map fills with its threshold
    in the middle. The residual map, and an anomaly map that was not normalised, reach from 0 to the largest pixel of
    the validation images, or to 0.3 where no validation was run.

    Args:
        explanations: Whether to write sheets.
        tile: Side of a tile of the sheet in pixels.
        map_ranges: Lowest and highest value by name of the map, such as `{"residual map": [0.0, 0.2]}`.
        font: File or name of a TrueType font for class names in scripts that DejaVu Sans lacks.
        fields: As for anomalib's `ImageVisualizer`, like all that follow.
        overlay_fields: Fields to lay over others.
        field_size: Size of each field `(width, height)` in pixels.
        fields_config: Settings by field.
        overlay_fields_config: Settings by overlaid field.
        text_config: Settings of the text.
        output_dir: Folder of anomalib's pictures. Defaults to `images/` in the run's folder.
    """

    def __init__(
        self,
        explanations: bool = True,
        tile: int = 240,
        map_ranges: dict[str, tuple[float, float]] | None = None,
        font: str | None = None,
        fields: list[str] | None = None,
        overlay_fields: list[tuple[str, list[str]]] | None = None,
        field_size: tuple[int, int] = (256, 256),
        fields_config: dict[str, dict[str, Any]] | None = None,
        overlay_fields_config: dict[str, dict[str, Any]] | None = None,
        text_config: dict[str, Any] | None = None,
        output_dir: str | Path | None = None,
    ) -> None:
        super().__init__(
            fields, overlay_fields, field_size, fields_config, overlay_fields_config, text_config, output_dir
        )
        self.explanations = explanations
        self.tile = tile
        self.map_ranges = map_ranges or {}
        self.font = font
        self._root: Path | None = None
        self._thumbnails: dict[tuple[str, ...], list[Image.Image]] = {}

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out whether the names of this run's pictures need folders."""
        del pl_module
        self._begin(trainer.test_dataloaders, trainer)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out whether the names of this run's pictures need folders."""
        del pl_module
        self._begin(trainer.predict_dataloaders, trainer)

    def _begin(self, dataloaders: Any, trainer: Trainer) -> None:
        self._root = _folder_to_keep(dataloaders, trainer)
        self._thumbnails.clear()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the pictures of a batch; images without a path have no name and are left out.

        `on_predict_batch_end` comes here too, by way of the base class.
        """
        if batch.image_path is None:
            return
        run_dir, output_dir = Path(trainer.default_root_dir), self.output_dir
        try:
            with TemporaryDirectory() as scratch:
                for index, (item, path) in enumerate(zip(batch, batch.image_path, strict=True)):
                    self.output_dir = Path(output_dir or run_dir / "images") / _folders_between(self._root, Path(path))
                    if is_frame(path):
                        # The base class opens the path: what it names has to be a file for that moment.
                        (picture,) = _pictures(torch.as_tensor(batch.image)[index : index + 1], pl_module)
                        item.image_path = str(write_image_atomic(Path(scratch, *Path(path).parts[-2:]), picture))
                    # One item at a time, since the folder may differ; the base class only iterates over the batch.
                    super().on_test_batch_end(trainer, pl_module, outputs, [item], batch_idx, dataloader_idx)  # type: ignore[arg-type]
        finally:  # the next run may have another folder, also where this one failed
            self.output_dir = output_dir
        if not self.explanations:
            return
        for path, sheet in zip(batch.image_path, self.sheets(trainer, pl_module, batch), strict=True):
            folder = run_dir / "explanations" / _folders_between(self._root, Path(path))
            name = _picture_path(path, folder, trainer)
            write_image_atomic(name if name.suffix.lower() == ".png" else name.with_name(f"{name.name}.png"), sheet)

    def sheets(self, trainer: Trainer, pl_module: LightningModule, batch: ImageBatch) -> Iterator[Image.Image]:
        """Draw the sheet of every image of a batch.

        Args:
            trainer: The trainer, asked for the datamodule's category only.
            pl_module: The model; its `prompt_files`, pre-processor and post-processor are read where it has them.
            batch: A batch that has been through a test or predict step, normalised images `(B, 3, H, W)`.

        Yields:
            One sheet per image, in the batch's order.
        """
        pictures = _pictures(torch.as_tensor(batch.image), pl_module)
        names, score, components = class_names(batch, trainer), raw_score(batch), score_components(batch)
        maps = self._maps(batch, pl_module)
        masks = None if batch.gt_mask is None else to_cpu(batch.gt_mask)
        # Batches that mix sources tell where a mask is known; elsewhere its zeros mean nothing.
        mask_valid = getattr(batch, "mask_valid", None)
        known = [True] * batch.batch_size if mask_valid is None else mask_valid.tolist()
        prompt_files: dict[str, list[str]] = getattr(pl_module, "prompt_files", None) or {}
        normalised = _is_normalised(pl_module, "image")
        threshold, labels = _post_processor_value(pl_module, "normalized_image_threshold"), pred_label(batch, pl_module)
        for index, picture in enumerate(pictures):
            files = tuple(str(file) for file in prompt_files.get(names[index], ()))
            path = Path(batch.image_path[index]) if batch.image_path is not None else Path()
            label, gt_label = _at(labels, index), _at(batch.gt_label, index)
            yield explanation_figure(
                picture,
                maps={name: heat_map._replace(values=heat_map.values[index]) for name, heat_map in maps.items()},
                overlay="anomaly map" if "anomaly map" in maps else None,
                mask=None if masks is None or not known[index] else masks[index].numpy(),
                prompts=self._prompts(files),
                # Prompts given as tensors have no files.
                k_shot=len(files) or int(getattr(pl_module, "hparams", {}).get("k_shot") or 0),
                score=_at(score, index),
                pred_score=_at(batch.pred_score, index) if normalised else None,
                threshold=None if label is None else threshold,
                pred_label=None if label is None else bool(label),
                gt_label=None if gt_label is None else bool(gt_label),
                components={name.replace("_", " "): float(values[index]) for name, values in components.items()},
                class_name=names[index],
                file_name=str(Path(*path.parts[-3:])),
                tile=self.tile,
                font=self.font,
            )

    def _maps(self, batch: ImageBatch, pl_module: LightningModule) -> dict[str, HeatMap]:
        """The maps of a batch by name, each `(B, h, w)`."""
        highest = _post_processor_value(pl_module, "pixel_max")
        raw_range = RESIDUAL_RANGE if highest is None or highest <= 0 else (0.0, highest)
        scale: tuple[Any, ...] = raw_range
        if _is_normalised(pl_module, "pixel"):
            scale = (0.0, 1.0, _post_processor_value(pl_module, "normalized_pixel_threshold"))

        maps = {}
        for term, values in map_components(batch).items():
            name = MAP_NAMES.get(term, term.replace("_", " "))
            maps[name] = HeatMap(values.numpy(), *(raw_range if term == "patch_map" else (0.0, 1.0)))
        if batch.anomaly_map is not None:
            maps.pop("anomaly map", None)  # of the components, that is before post-processing
            maps["anomaly map"] = HeatMap(to_cpu(batch.anomaly_map).numpy(), *scale)
        for name in maps.keys() & self.map_ranges.keys():
            low, high = self.map_ranges[name]
            maps[name] = maps[name]._replace(low=low, high=high)
        return maps

    def _prompts(self, files: tuple[str, ...]) -> list[Image.Image]:
        """Thumbnails of the first prompts, read once per run for each list of files; grey for unreadable files."""
        if files not in self._thumbnails:
            side = self.tile
            pictures = []
            for file in files[:MAX_PROMPTS]:
                try:
                    picture = to_pil_image(read_image(file))
                    picture.thumbnail((side, side))
                except ImageFileError:
                    picture = Image.new("RGB", (side, side), "grey")
                pictures.append(picture)
            self._thumbnails[files] = pictures
        return self._thumbnails[files]


def _picture_path(path: str, folder: Path, trainer: Trainer) -> Path:
    """Where anomalib's visualizer would put the picture of an image, were `folder` its output folder."""
    datamodule = getattr(trainer, "datamodule", None)
    return generate_output_filename(
        path,
        folder,
        dataset_name=getattr(datamodule, "name", None),
        category=getattr(datamodule, "category", None),
        mkdir=False,
    )


def _folder_to_keep(dataloaders: Any, trainer: Trainer) -> Path | None:
    """The folder from which on to keep folders in names: None where anomalib's names are already one per image."""
    paths = {Path(path) for path in _image_paths(dataloaders)}
    if not paths:
        return None
    common = Path(os.path.commonpath([path.parent for path in paths]))
    # The parent is for an image that lies in the common folder, next to a folder of the same name.
    for root in (None, common, common.parent):
        names = {_picture_path(str(path), _folders_between(root, path), trainer) for path in paths}
        if len(names) == len(paths):
            break
    return root


def _folders_between(root: Path | None, path: Path) -> Path:
    """The folders from `root` to those that anomalib keeps by itself; none where `path` is not under `root`."""
    return path.relative_to(root).parent.parent if root is not None and path.is_relative_to(root) else Path()


def _image_paths(source: Any) -> Iterator[str]:
    """All image paths that dataloaders or datasets, nested in any way, will yield; none where they hide them."""
    if isinstance(source, (list, tuple)):
        for part in source:
            yield from _image_paths(part)
    elif hasattr(source, "samples") and hasattr(source.samples, "image_path"):
        yield from source.samples.image_path
    elif hasattr(source, "image_filenames"):
        yield from map(str, source.image_filenames)
    else:
        for name in ("dataset", "datasets"):
            if hasattr(source, name):
                yield from _image_paths(getattr(source, name))


def _pictures(images: torch.Tensor, pl_module: LightningModule) -> Iterable[Image.Image]:
    """Undo the normalisation of images `(B, 3, H, W)`; without a pre-processor there is none."""
    images = to_cpu(images)
    pre_processor = getattr(pl_module, "pre_processor", None)
    if pre_processor is not None:
        mean, std = getattr(pre_processor, "mean", CLIP_MEAN), getattr(pre_processor, "std", CLIP_STD)
        images = images * torch.as_tensor(std).view(-1, 1, 1) + torch.as_tensor(mean).view(-1, 1, 1)
    return (to_pil_image(image) for image in images.nan_to_num().clamp(0, 1))


def _post_processor_value(pl_module: LightningModule, name: str) -> float | None:
    """A number of the post-processor; None where there is none or validation has not set it."""
    value: Any = getattr(getattr(pl_module, "post_processor", None), name, None)
    return float(value) if value is not None and math.isfinite(value) else None


def _is_normalised(pl_module: LightningModule, level: str) -> bool:
    """Whether the post-processor normalises scores (`image`) or maps (`pixel`); it needs validation images for that."""
    enabled = getattr(getattr(pl_module, "post_processor", None), "enable_normalization", False)
    return enabled and None not in {_post_processor_value(pl_module, f"{level}_{end}") for end in ("min", "max")}


def _at(values: torch.Tensor | None, index: int) -> float | None:
    return None if values is None else float(to_cpu(values).reshape(-1)[index])
