# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""anomalib's images of a run, and beside them one explanation figure per image."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor, wait
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
    is_normalised,
    post_processor_value,
    raw_threshold,
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
        run_dir, output_dir, overlay_fields = Path(trainer.default_root_dir), self.output_dir, self.overlay_fields
        known, heat_map = _masks_known(batch), self._maps(batch, pl_module).get("anomaly map")
        try:
            with TemporaryDirectory() as scratch:
                for index, (item, path) in enumerate(zip(batch, batch.image_path, strict=True)):
                    self.output_dir = Path(output_dir or run_dir / "images") / _folders_between(self._root, Path(path))
                    if heat_map is not None and not is_normalised(pl_module, "pixel"):
                        low, high = heat_map.low, heat_map.high
                        item.anomaly_map = ((torch.as_tensor(item.anomaly_map) - low) / (high - low)).clamp(0, 1)
                    if not known[index]:
                        item.gt_mask = None
                    # The base class would draw the image once more, without a title, for an overlay that is missing.
                    self.overlay_fields = [
                        (base, fields) for base, fields in overlay_fields if any(_has(item, field) for field in fields)
                    ]
                    if (image := self._redrawn(path, batch, index, pl_module)) is not None:
                        # The base class opens the path and names its image after it.
                        file = Path(scratch, *Path(path).absolute().parts[1:])
                        file.parent.mkdir(parents=True, exist_ok=True)
                        image.save(file, format="PNG")
                        item.image_path = str(file)
                    # One item at a time, since the folder may differ; the base class only iterates over the batch.
                    super().on_test_batch_end(trainer, pl_module, outputs, [item], batch_idx, dataloader_idx)  # type: ignore[arg-type]
        finally:  # the next run may have another folder, also where this one failed
            self.output_dir, self.overlay_fields = output_dir, overlay_fields
        if not self.explanations:
            return
        self._finish_figures()  # of the batch before, so that at most one waits
        drawer = ThreadPoolExecutor(
            1
        )  # draws while the model scores the next batch; a lasting one would not outlive a fork
        for path, content in zip(batch.image_path, self._contents(trainer, pl_module, batch), strict=True):
            folder = run_dir / "explanations" / _folders_between(self._root, Path(path))
            name = _image_name(path, folder, trainer)
            name = name if name.suffix.lower() == ".png" else name.with_name(f"{name.name}.png")
            self._drawing.append(drawer.submit(_write_figure, name, content))
        drawer.shutdown(wait=False)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the last figures."""
        del trainer, pl_module
        self._finish_figures()

    on_predict_end = on_test_end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Finish the figures of the last batch that was scored."""
        del trainer, pl_module, exception
        wait(self._drawing)
        self._drawing = []

    def _finish_figures(self) -> None:
        """Wait for the figures under way, and raise what kept one from being written."""
        drawing, self._drawing = self._drawing, []
        wait(drawing)
        for figure in drawing:
            figure.result()

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
        return (explanation_figure(**content) for content in self._contents(trainer, pl_module, batch))

    def _contents(self, trainer: Trainer, pl_module: LightningModule, batch: ImageBatch) -> Iterator[dict[str, Any]]:
        """What the figure of every image shows, as arguments of :func:`explanation_figure`."""
        maps, rows = self._maps(batch, pl_module), image_rows(batch, trainer, pl_module)
        masks = None if batch.gt_mask is None else to_cpu(batch.gt_mask).numpy()
        known = _masks_known(batch)
        components = score_components(getattr(batch, "components", None))
        if not _has_prompts(pl_module):
            components.pop("patch_score", None)  # compared with nothing
        prompt_files: dict[str, list[str]] = getattr(pl_module, "prompt_files", None) or {}
        normal: Any = getattr(pl_module, "normal_components", None)
        score, threshold = "score", raw_threshold(pl_module, "image")
        if getattr(batch, "raw_score", None) is None:  # another model's
            score, threshold = "pred_score", post_processor_value(pl_module, "normalized_image_threshold")
        for index, (row, image) in enumerate(zip(rows, _query_images(batch.image, pl_module), strict=True)):
            files = prompt_files.get(row["class_name"], [])
            yield {
                "image": image,
                "maps": {name: heat_map._replace(values=heat_map.values[index]) for name, heat_map in maps.items()},
                "mask": masks[index] if masks is not None and known[index] else None,
                "prompts": [_thumbnail(file) for file in files[:MAX_PROMPTS]],
                # Prompts given as tensors have no files.
                "k_shot": len(files) or int(getattr(pl_module, "hparams", {}).get("k_shot") or 0),
                "score": row[score],
                "threshold": None if row["pred_label"] is None else threshold,
                "normal_scores": [] if normal is None else normal.score.tolist(),
                "pred_label": row["pred_label"],
                "gt_label": row["gt_label"],
                "components": {name.replace("_", " "): row[name] for name in components},
                "notes": _text_notes(pl_module, row["class_name"]) if "text_score" in components else [],
                "class_name": row["class_name"],
                "file_name": str(Path(*Path(row["image_path"]).parts[-3:])),
                "dpi": self.dpi,
            }

    def _maps(self, batch: ImageBatch, pl_module: LightningModule) -> dict[str, HeatMap]:
        """The maps of a batch by name, each `(B, h, w)`."""
        normal_maps = tensor_components(getattr(pl_module, "normal_components", None))
        with_prompts = _has_prompts(pl_module)
        maps = {}
        components: Any = getattr(batch, "components", None)
        for field, values in tensor_components(components).items():
            if field.endswith("_map") and field != "anomaly_map" and (with_prompts or field != "patch_map"):
                seen = _above(normal_maps[field].max().item() if field in normal_maps else None)
                name = MAP_NAMES.get(field, field.replace("_", " "))
                default = RESIDUAL_RANGE if field == "patch_map" else (0.0, 1.0)
                maps[name] = HeatMap(values.reshape(len(values), *components.grid).numpy(), *(seen or default))
        raw = getattr(batch, "raw_map", None)
        if raw is not None:
            if len(maps) == 1:
                maps = {}  # it is the anomaly map
            threshold, highest = raw_threshold(pl_module, "pixel"), post_processor_value(pl_module, "pixel_max")
            seen = None if highest is None or highest <= 0 else (0.0, highest)
            scale = _above(threshold) or seen or RESIDUAL_RANGE
            if not with_prompts:  # the text score at every pixel, or the DASL branch
                scale = (0.0, 1.0)
            maps["anomaly map"] = HeatMap(to_cpu(raw).numpy(), *scale, threshold)
        elif batch.anomaly_map is not None:  # another model's
            known = is_normalised(pl_module, "pixel")
            threshold = post_processor_value(pl_module, "normalized_pixel_threshold") if known else None
            scale = (0.0, 1.0) if known else RESIDUAL_RANGE
            maps["anomaly map"] = HeatMap(to_cpu(batch.anomaly_map).numpy(), *scale, threshold)
        for name, (low, high) in self.map_ranges.items():
            if name in maps:
                maps[name] = maps[name]._replace(low=low, high=high)
        return maps


def _write_figure(path: Path, content: dict[str, Any]) -> None:
    write_image_atomic(path, explanation_figure(**content))


def _text_notes(pl_module: LightningModule, class_name: str) -> list[str]:
    """How well the text prompts of a class fit its normal images."""
    model: Any = getattr(pl_module, "model", None)
    alignment = model.text_alignment(class_name) if class_name in getattr(model, "bank", ()) else None
    return [] if alignment is None else alignment.notes


def _masks_known(batch: ImageBatch) -> list[bool]:
    """Whether each image's ground truth is known: batches that mix sources say so, as zeros may mean nothing there."""
    known = getattr(batch, "mask_valid", None)
    return [True] * batch.batch_size if known is None else [bool(value) for value in known]


def _has(item: Any, field: str) -> bool:
    return getattr(item, field, None) is not None


def _above(value: float | None) -> tuple[float, float] | None:
    """The range with a value in its middle; None without a positive value."""
    return None if value is None or value <= 0 else (0.0, min(2 * value, 1.0))


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


def _has_prompts(pl_module: LightningModule) -> bool:
    files: dict[str, list[str]] = getattr(pl_module, "prompt_files", None) or {}
    # Prompts given as tensors have no files.
    return any(files.values()) or getattr(pl_module, "hparams", {}).get("k_shot") != 0
