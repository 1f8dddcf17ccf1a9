# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""anomalib's images of a run, and beside them one explanation figure per image."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from anomalib.data.transforms.utils import extract_transforms_by_type
from anomalib.utils.path import generate_output_filename
from anomalib.visualization import ImageVisualizer
from anomalib.visualization.image.item_visualizer import visualize_image_item
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
    is_normalised,
    post_processor_value,
    raw_threshold,
    score_components,
    tensor_components,
    to_cpu,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anomalib.data import ImageBatch
    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

# Names of maps in a figure where they are not simply the field's.
MAP_NAMES = {"patch_map": "residual map", "dasl_map": "DASL map", "oasl_map": "OASL map"}


class ExplanationVisualizer(ImageVisualizer):
    """Writes anomalib's image of every image, and a figure that explains its score.

    anomalib's images go to `images/`, the figures to `explanations/` under the same names, as PNG; both from `test`
    and from `predict`. See :func:`~anomalib_inctrl.visualization.explanation_figure` for what a figure shows.

    anomalib names an image after the last folder and the file, so that files of equal names overwrite each other
    where a run holds several categories or nested folders. When the images of a run would do so, all of them keep
    their folders from their common parent folder on.

    anomalib's image shows a mask only where one is known: no predicted mask without a threshold of pixels, no ground
    truth of images that have none. A map that was not normalised is drawn on the figure's range.

    Scores, maps and thresholds are those before normalisation. Ranges of the maps: those in `map_ranges`; else the
    anomaly map reaches from 0 to twice its threshold, without one to the largest pixel of the validation images, or to
    0.3. The maps it is made of are drawn where there are several: from 0 to twice the largest pixel of the normal
    images that `threshold="auto"` has scored, otherwise to 0.3 (residual map) or 1.

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
        self._drawing: list[Future[None]] = []

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out whether the names of this run's images need folders."""
        dataloaders = trainer.predict_dataloaders if trainer.predicting else trainer.test_dataloaders
        self._root, self._drawing = _folder_to_keep(dataloaders, trainer), []
        _thumbnail.cache_clear()

    on_predict_start = on_test_start

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: ImageBatch, *_: Any
    ) -> None:
        """Write the images of a batch; those without a path have no name and are left out.

        `on_predict_batch_end` comes here too, by way of the base class.
        """
        if batch.image_path is None:
            return
        run_dir = Path(trainer.default_root_dir)
        for path, drawing in zip(batch.image_path, self._plain_images(batch, pl_module), strict=True):
            if drawing is not None:
                file = _image_name(path, Path(self.output_dir or run_dir / "images"), self._root, trainer)
                file.parent.mkdir(parents=True, exist_ok=True)
                drawing.save(file)
        if not self.explanations:
            return
        self.on_test_end(trainer, pl_module)  # of the batch before, so that at most one waits
        # Draws while the model scores the next batch; a lasting one would not outlive a fork.
        drawer = ThreadPoolExecutor(1)
        for path, arguments in zip(batch.image_path, self.figure_arguments(trainer, pl_module, batch), strict=True):
            file = _image_name(path, run_dir / "explanations", self._root, trainer)
            file = file if file.suffix.lower() == ".png" else file.with_name(f"{file.name}.png")
            self._drawing.append(drawer.submit(_write_figure, file, arguments))
        drawer.shutdown(wait=False)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the figures under way, and raise what kept one from being written."""
        drawing, self._drawing = self._drawing, []
        for figure in drawing:
            figure.result()

    on_predict_end = on_test_end

    def _plain_images(self, batch: ImageBatch, pl_module: LightningModule) -> Iterator[Image.Image | None]:
        """Draw anomalib's image of every image of a batch."""
        heat_map, images = self._maps(batch, pl_module).get("anomaly map"), _query_images(batch.image, pl_module)
        names = ("fields", "field_size", "fields_config", "overlay_fields_config", "text_config")
        options = {name: getattr(self, name) for name in names}
        rows = zip(batch, batch.image_path or (), images, _masks_known(batch), strict=True)
        for item, path, image, known in rows:
            if heat_map is not None and not is_normalised(pl_module, "pixel"):
                low, high = heat_map.low, heat_map.high
                item.anomaly_map = ((torch.as_tensor(item.anomaly_map) - low) / (high - low)).clamp(0, 1)
            if not known:
                item.gt_mask = None
            # Without a path the image itself is drawn; a file that cannot be read is reported where it is opened.
            with suppress(ImageFileError):
                if is_frame(path):
                    item.image, item.image_path = image, None
                elif not read_header(path).plain:
                    item.image, item.image_path = read_image(path), None
            # For an overlay that is missing the image would be drawn once more, without a title.
            overlays = [pair for pair in self.overlay_fields if any(_has(item, name) for name in pair[1])]
            yield visualize_image_item(item, overlay_fields=overlays, **options)

    def figure_arguments(
        self, trainer: Trainer, pl_module: LightningModule, batch: ImageBatch
    ) -> Iterator[dict[str, Any]]:
        """Arguments of :func:`explanation_figure` for every image of a batch that a test or predict step has filled."""
        maps, masks = self._maps(batch, pl_module), None if batch.gt_mask is None else to_cpu(batch.gt_mask).numpy()
        components = score_components(getattr(batch, "components", None))
        if not _has_prompts(pl_module):
            components.pop("patch_score", None)  # compared with nothing
        prompt_files: dict[str, list[str]] = getattr(pl_module, "prompt_files", None) or {}
        normal: Any = getattr(pl_module, "normal_components", None)
        score, threshold = "score", raw_threshold(pl_module, "image")
        if getattr(batch, "raw_score", None) is None:  # another model's
            score, threshold = "pred_score", post_processor_value(pl_module, "normalized_image_threshold")
        rows, images = image_rows(batch, trainer, pl_module), _query_images(batch.image, pl_module)
        for index, (row, image, known) in enumerate(zip(rows, images, _masks_known(batch), strict=True)):
            name, label = row["class_name"], row["pred_label"]
            files = prompt_files.get(name, [])
            yield {
                "image": to_pil_image(image),
                "maps": {field: heat_map._replace(values=heat_map.values[index]) for field, heat_map in maps.items()},
                "mask": masks[index] if masks is not None and known else None,
                "prompts": [_thumbnail(file) for file in files[:MAX_PROMPTS]],
                # Prompts given as tensors have no files.
                "k_shot": len(files) or int(getattr(pl_module, "hparams", {}).get("k_shot") or 0),
                "score": row[score],
                "threshold": None if label is None else threshold,
                "normal_scores": [] if normal is None else normal.score.tolist(),
                "pred_label": label,
                "gt_label": row["gt_label"],
                "components": {field.replace("_", " "): row[field] for field in components},
                "notes": _text_notes(pl_module, name) if "text_score" in components else [],
                "class_name": name,
                "file_name": str(Path(*Path(row["image_path"]).parts[-3:])),
                "dpi": self.dpi,
            }

    def _maps(self, batch: ImageBatch, pl_module: LightningModule) -> dict[str, HeatMap]:
        """The maps of a batch by name, each `(B, h, w)`."""
        components: Any = getattr(batch, "components", None)
        normal_maps = tensor_components(getattr(pl_module, "normal_components", None))
        left_out = {"anomaly_map"} if _has_prompts(pl_module) else {"anomaly_map", "patch_map"}
        maps = {}
        for field, values in tensor_components(components).items():
            if field.endswith("_map") and field not in left_out:
                highest = normal_maps[field].max().item() if field in normal_maps else 0
                scale = _scale(2 * highest, default=RESIDUAL_RANGE if field == "patch_map" else (0.0, 1.0))
                name = MAP_NAMES.get(field, field.replace("_", " "))
                maps[name] = HeatMap(values.reshape(len(values), *components.grid).numpy(), *scale)
        if len(maps) == 1:
            maps = {}  # it is the anomaly map
        raw, threshold = getattr(batch, "raw_map", None), raw_threshold(pl_module, "pixel")
        scale = _scale(2 * (threshold or 0), post_processor_value(pl_module, "pixel_max") or 0, default=RESIDUAL_RANGE)
        if raw is None and is_normalised(pl_module, "pixel"):  # another model's
            threshold = post_processor_value(pl_module, "normalized_pixel_threshold")
            scale = (0.0, 1.0)
        elif "patch_map" in left_out:  # the text score at every pixel, or the DASL branch
            scale = (0.0, 1.0)
        final = batch.anomaly_map if raw is None else raw
        if final is not None:
            maps["anomaly map"] = HeatMap(to_cpu(final).numpy(), *scale, threshold)
        for name in maps.keys() & self.map_ranges.keys():
            low, high = self.map_ranges[name]
            maps[name] = maps[name]._replace(low=low, high=high)
        return maps


def _write_figure(path: Path, arguments: dict[str, Any]) -> None:
    write_image_atomic(path, explanation_figure(**arguments))


def _text_notes(pl_module: LightningModule, class_name: str) -> list[str]:
    """How well the text prompts of a class fit its normal images."""
    model: Any = getattr(pl_module, "model", None)
    alignment = model.text_alignment(class_name) if class_name in getattr(model, "bank", ()) else None
    return [] if alignment is None else alignment.notes


def _masks_known(batch: ImageBatch) -> list[bool]:
    """Whether each image's ground truth is known: batches that mix sources mark it, as zeros may mean nothing there."""
    known = getattr(batch, "mask_valid", None)
    return [True] * batch.batch_size if known is None else [bool(value) for value in known]


def _has(item: Any, name: str) -> bool:
    return getattr(item, name, None) is not None


def _scale(*highest: float, default: tuple[float, float]) -> tuple[float, float]:
    """From 0 to the first value above 0, at most 1."""
    return next(((0.0, min(value, 1.0)) for value in highest if value > 0), default)


@lru_cache(maxsize=64)
def _thumbnail(file: str) -> Image.Image:
    """A small image of a prompt; grey where the file cannot be read."""
    try:
        return ImageOps.contain(to_pil_image(read_image(file)), (320, 320))
    except ImageFileError:
        return Image.new("RGB", (320, 320), "grey")


def _image_name(path: str | Path, folder: Path, root: Path | None, trainer: Trainer) -> Path:
    """Where anomalib's visualizer would put an image, were `folder` its output folder; with the folders from `root`."""
    if root is not None and Path(path).is_relative_to(root):
        folder = folder / Path(path).relative_to(root).parent.parent
    datamodule = getattr(trainer, "datamodule", None)
    name, category = getattr(datamodule, "name", None), getattr(datamodule, "category", None)
    return generate_output_filename(path, folder, dataset_name=name, category=category, mkdir=False)


def _folder_to_keep(dataloaders: Any, trainer: Trainer) -> Path | None:
    """The folder from which on to keep folders in names: None where anomalib's names are already one per image."""
    paths = set(map(Path, _image_paths(dataloaders)))
    common = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path()
    for root in (None, common):
        if len({_image_name(path, Path(), root, trainer) for path in paths}) == len(paths):
            return root
    return common.parent  # for an image in the common folder, next to a folder of the same name


def _image_paths(source: Any) -> Iterator[str]:
    """All image paths that dataloaders or datasets, nested in any way, will yield; none where they hide them."""
    if isinstance(source, (list, tuple)):
        for part in source:
            yield from _image_paths(part)
    elif hasattr(source, "image_filenames"):
        yield from map(str, source.image_filenames)
    elif hasattr(getattr(source, "samples", None), "image_path"):
        yield from source.samples.image_path
    elif source is not None:
        yield from _image_paths(getattr(source, "dataset", getattr(source, "datasets", None)))


def _query_images(normalised: Any, pl_module: LightningModule) -> Tensor:
    """Undo the normalisation of images `(B, 3, H, W)`, if the pre-processor has any."""
    images = to_cpu(torch.as_tensor(normalised))
    pre_processor = getattr(pl_module, "pre_processor", None)
    for normalize in extract_transforms_by_type(getattr(pre_processor, "transform", None), Normalize):
        mean, std = (torch.as_tensor(values).view(-1, 1, 1) for values in (normalize.mean, normalize.std))
        images = images * std + mean
    return images.nan_to_num().clamp(0, 1)


def _has_prompts(pl_module: LightningModule) -> bool:
    files: dict[str, list[str]] = getattr(pl_module, "prompt_files", None) or {}
    # Prompts given as tensors have no files.
    return any(files.values()) or getattr(pl_module, "hparams", {}).get("k_shot") != 0
