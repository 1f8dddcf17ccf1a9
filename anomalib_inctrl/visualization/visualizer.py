# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""anomalib's images of a run, and beside them one explanation figure per image."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from anomalib.data.transforms.utils import extract_transforms_by_type
from anomalib.utils.path import generate_output_filename
from anomalib.visualization import ImageVisualizer
from PIL import Image, ImageOps
from torchvision.transforms.v2 import Normalize
from torchvision.transforms.v2.functional import to_pil_image

from anomalib_inctrl.arguments import check_arguments
from anomalib_inctrl.errors import ArgumentError, ImageFileError
from anomalib_inctrl.io.files import write_image_atomic
from anomalib_inctrl.io.images import read_header, read_image
from anomalib_inctrl.io.video import is_frame
from anomalib_inctrl.visualization.explanation import MAX_PROMPTS, explanation_figure
from anomalib_inctrl.visualization.heat_map import RESIDUAL_RANGE, HeatMap
from anomalib_inctrl.visualization.outputs import (
    image_rows,
    post_processor_value,
    score_components,
    tensor_components,
    to_cpu,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from anomalib.data import ImageBatch
    from lightning.pytorch import LightningModule, Trainer

# Names of maps in a figure where they are not simply the field's.
MAP_NAMES = {"patch_map": "residual map", "dasl_map": "DASL map", "oasl_map": "OASL map"}


class ExplanationVisualizer(ImageVisualizer):
    """Writes anomalib's image of every query, and a figure that explains its score.

    anomalib's images go to `images/`, the figures to `explanations/` under the same names, as PNG; both from `test`
    and from `predict`. See :func:`~anomalib_inctrl.visualization.explanation_figure` for what a figure shows.

    anomalib names an image after the last folder and the file, so that files of equal names overwrite each other
    where a run holds several categories or nested folders. When the images of a run would do so, all of them keep
    their folders from their common parent folder on.

    Ranges of the maps: those in `map_ranges`; else 0 to 1, which a normalised anomaly map fills with its threshold
    in the middle. The residual map, and an anomaly map that was not normalised, reach from 0 to the largest pixel of
    the validation images, or to 0.3 where no validation was run.

    Args:
        explanations: Whether to write figures.
        dpi: Pixels per inch of the figures.
        map_ranges: Lowest and highest value by name of the map, such as `{"residual map": [0.0, 0.2]}`.
        options: Arguments of anomalib's `ImageVisualizer`, by name; `output_dir` is the folder of its images.

    Raises:
        ArgumentError: If an argument has an invalid value.
    """

    def __init__(
        self,
        explanations: bool = True,
        dpi: int = 100,
        map_ranges: dict[str, tuple[float, float]] | None = None,
        **options: Any,
    ) -> None:
        given = {"explanations": explanations, "dpi": dpi, "map_ranges": map_ranges}
        check_arguments(ExplanationVisualizer.__init__, given, {"dpi": 20})
        for name, (low, high) in (map_ranges or {}).items():
            if not low < high:
                msg = f"map_ranges[{name!r}]={(low, high)}: give the lower value first."
                raise ArgumentError(msg)
        super().__init__(**options)
        self.explanations = explanations
        self.dpi = dpi
        self.map_ranges = map_ranges or {}
        self._root: Path | None = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out whether the names of this run's images need folders."""
        del pl_module
        dataloaders = trainer.predict_dataloaders if trainer.predicting else trainer.test_dataloaders
        self._root = _folder_to_keep(dataloaders, trainer)
        _thumbnail.cache_clear()

    on_predict_start = on_test_start

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the images of a batch; those without a path have no name and are left out.

        `on_predict_batch_end` comes here too, by way of the base class.
        """
        if batch.image_path is None:
            return
        run_dir, output_dir = Path(trainer.default_root_dir), self.output_dir
        try:
            with TemporaryDirectory() as scratch:
                for index, (item, path) in enumerate(zip(batch, batch.image_path, strict=True)):
                    self.output_dir = Path(output_dir or run_dir / "images") / _folders_between(self._root, Path(path))
                    if (image := self._redrawn(path, batch, index, pl_module)) is not None:
                        # The base class opens the path and names its image after it.
                        file = Path(scratch, *Path(path).absolute().parts[1:])
                        file.parent.mkdir(parents=True, exist_ok=True)
                        image.save(file, format="PNG")
                        item.image_path = str(file)
                    # One item at a time, since the folder may differ; the base class only iterates over the batch.
                    super().on_test_batch_end(trainer, pl_module, outputs, [item], batch_idx, dataloader_idx)  # type: ignore[arg-type]
        finally:  # the next run may have another folder, also where this one failed
            self.output_dir = output_dir
        if not self.explanations:
            return
        for path, figure in zip(batch.image_path, self.figures(trainer, pl_module, batch), strict=True):
            folder = run_dir / "explanations" / _folders_between(self._root, Path(path))
            name = _image_name(path, folder, trainer)
            write_image_atomic(name if name.suffix.lower() == ".png" else name.with_name(f"{name.name}.png"), figure)

    def _redrawn(self, path: str, batch: ImageBatch, index: int, pl_module: LightningModule) -> Image.Image | None:
        """The image of a file that the base class cannot open or would draw wrongly; None for any other."""
        if is_frame(path):
            return next(iter(_query_images(torch.as_tensor(batch.image)[index : index + 1], pl_module)))
        try:
            return None if read_header(path).plain else to_pil_image(read_image(path))
        except ImageFileError:  # for the base class to tell
            return None

    def figures(self, trainer: Trainer, pl_module: LightningModule, batch: ImageBatch) -> Iterator[Image.Image]:
        """Draw the explanation figure of every image of a batch that has been through a test or predict step."""
        maps, rows = self._maps(batch, pl_module), image_rows(batch, trainer, pl_module)
        masks = None if batch.gt_mask is None else to_cpu(batch.gt_mask).numpy()
        # Batches that mix sources name the images with a mask; elsewhere its zeros mean nothing.
        known = getattr(batch, "mask_valid", None)
        components = score_components(getattr(batch, "components", None))
        normalised = _is_normalised(pl_module, "image")
        prompt_files: dict[str, list[str]] = getattr(pl_module, "prompt_files", None) or {}
        threshold = post_processor_value(pl_module, "normalized_image_threshold")
        for index, (row, image) in enumerate(zip(rows, _query_images(batch.image, pl_module), strict=True)):
            files = prompt_files.get(row["class_name"], [])
            yield explanation_figure(
                image,
                maps={name: heat_map._replace(values=heat_map.values[index]) for name, heat_map in maps.items()},
                mask=masks[index] if masks is not None and (known is None or known[index]) else None,
                prompts=[_thumbnail(file) for file in files[:MAX_PROMPTS]],
                # Prompts given as tensors have no files.
                k_shot=len(files) or int(getattr(pl_module, "hparams", {}).get("k_shot") or 0),
                score=row["score"],
                pred_score=row["pred_score"] if normalised else None,
                pred_label=row["pred_label"],
                gt_label=row["gt_label"],
                threshold=None if row["pred_label"] is None else threshold,
                components={name.replace("_", " "): row[name] for name in components},
                class_name=row["class_name"],
                file_name=str(Path(*Path(row["image_path"]).parts[-3:])),
                dpi=self.dpi,
            )

    def _maps(self, batch: ImageBatch, pl_module: LightningModule) -> dict[str, HeatMap]:
        """The maps of a batch by name, each `(B, h, w)`."""
        highest = post_processor_value(pl_module, "pixel_max")
        raw_range = RESIDUAL_RANGE if highest is None or highest <= 0 else (0.0, highest)
        maps = {}
        components: Any = getattr(batch, "components", None)
        for field, values in tensor_components(components).items():
            if field.endswith("_map"):
                name = MAP_NAMES.get(field, field.replace("_", " "))
                grids = values.reshape(len(values), *components.grid).numpy()
                maps[name] = HeatMap(grids, *(raw_range if field == "patch_map" else (0.0, 1.0)))
        if batch.anomaly_map is not None:
            maps.pop("anomaly map", None)  # of the components, that is before post-processing
            scale: tuple[Any, ...] = raw_range
            if _is_normalised(pl_module, "pixel"):
                scale = (0.0, 1.0, post_processor_value(pl_module, "normalized_pixel_threshold"))
            maps["anomaly map"] = HeatMap(to_cpu(batch.anomaly_map).numpy(), *scale)
        for name, (low, high) in self.map_ranges.items():
            if name in maps:
                maps[name] = maps[name]._replace(low=low, high=high)
        return maps


@lru_cache(maxsize=64)
def _thumbnail(file: str) -> Image.Image:
    """A small image of a prompt; grey where the file cannot be read."""
    try:
        return ImageOps.contain(to_pil_image(read_image(file)), (320, 320))
    except ImageFileError:
        return Image.new("RGB", (320, 320), "grey")


def _image_name(path: str | Path, folder: Path, trainer: Trainer) -> Path:
    """Where anomalib's visualizer would put an image, were `folder` its output folder."""
    datamodule = getattr(trainer, "datamodule", None)
    name, category = getattr(datamodule, "name", None), getattr(datamodule, "category", None)
    return generate_output_filename(path, folder, dataset_name=name, category=category, mkdir=False)


def _folder_to_keep(dataloaders: Any, trainer: Trainer) -> Path | None:
    """The folder from which on to keep folders in names: None where anomalib's names are already one per image."""
    paths = {Path(path) for path in _image_paths(dataloaders)}
    if not paths:
        return None
    common = Path(os.path.commonpath([path.parent for path in paths]))
    # The parent is for an image that lies in the common folder, next to a folder of the same name.
    for root in (None, common, common.parent):
        names = {_image_name(path, _folders_between(root, path), trainer) for path in paths}
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
    elif hasattr(getattr(source, "samples", None), "image_path"):
        yield from source.samples.image_path
    elif hasattr(source, "image_filenames"):
        yield from map(str, source.image_filenames)
    elif source is not None:
        yield from _image_paths(getattr(source, "dataset", getattr(source, "datasets", None)))


def _query_images(images: Any, pl_module: LightningModule) -> Iterable[Image.Image]:
    """Undo the normalisation of images `(B, 3, H, W)`, if the pre-processor has any."""
    images = to_cpu(torch.as_tensor(images))
    pre_processor = getattr(pl_module, "pre_processor", None)
    for normalize in extract_transforms_by_type(getattr(pre_processor, "transform", None), Normalize):
        mean, std = normalize.mean, normalize.std
        images = images * torch.as_tensor(std).view(-1, 1, 1) + torch.as_tensor(mean).view(-1, 1, 1)
    return (to_pil_image(image) for image in images.nan_to_num().clamp(0, 1))


def _is_normalised(pl_module: LightningModule, level: str) -> bool:
    """Whether the post-processor normalises scores (`image`) or maps (`pixel`); it needs validation images for that."""
    enabled = getattr(getattr(pl_module, "post_processor", None), "enable_normalization", False)
    return enabled and None not in {post_processor_value(pl_module, f"{level}_{end}") for end in ("min", "max")}
