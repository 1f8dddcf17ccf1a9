# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What a detector says of one picture, as numbers and as drawings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import to_pil_image

from anomalib_inctrl.io.files import write_image_atomic
from anomalib_inctrl.io.inputs import ImageInput, NamedImage, list_inputs
from anomalib_inctrl.visualization import HeatMap, explanation_figure, heat_overlay


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a detector says of one picture.

    Attributes:
        name: Path of the picture's file, or its place among the pictures given: ``images[2]``.
        class_name: Class whose prompts it was compared with.
        score: Anomaly score in [0, 1], higher is more abnormal; the raw score of anomalib's runs.
        label: True where the score is above the detector's threshold; None without one.
        components: What the score is computed from, by name, each in [0, 1]: ``text_score``, ``patch_score`` and, with
            trained heads, ``image_score`` and ``head_score``.
        threshold: The detector's threshold at the time; None without one.
        k_shot: Number of prompts.
        size: Height and width of the picture in pixels.
        map_range: Values of the map that are drawn in the first and the last colour.
    """

    name: str
    class_name: str
    score: float
    label: bool | None
    components: dict[str, float]
    threshold: float | None
    k_shot: int
    size: tuple[int, int]
    map_range: tuple[float, float]
    _source: NamedImage = field(repr=False)
    _map: Tensor = field(repr=False)
    _seen: tuple[int, int, int, int] = field(repr=False)

    @property
    def anomaly_map(self) -> NDArray[np.float32]:
        """The anomaly map at the picture's own size, ``(H, W)`` in [0, 1]; computed at each access.

        NaN where the model did not look, which is outside the centre with ``resize_mode="center_crop"``.
        """
        top, left, height, width = self._seen
        seen = F.interpolate(self._map[None, None], size=(height, width), mode="bilinear", align_corners=False)
        if (height, width) == self.size:
            return seen[0, 0].numpy()
        whole = np.full(self.size, np.nan, dtype=np.float32)
        whole[top : top + height, left : left + width] = seen[0, 0]
        return whole

    @property
    def picture(self) -> Image.Image:
        """The picture itself in RGB; a file is read again.

        Raises:
            ImageFileError: If the file is gone.
        """
        image: Image.Image = to_pil_image(self._source.read())
        return image

    def heat_map(self, side: int | None = None, map_range: tuple[float, float] | None = None) -> Image.Image:
        """Draw the anomaly map over the picture.

        Args:
            side: Longer side of the drawing in pixels; the picture's own size by default.
            map_range: Values drawn in the first and the last colour; the result's own by default. It is never
                stretched to the map's extremes, so drawings of one detector can be compared by eye.

        Returns:
            The drawing in RGB. Where the model did not look it shows the plain picture.
        """
        picture = self.picture
        if side is not None:
            scale = side / max(picture.size)
            picture = picture.resize(tuple(max(1, round(length * scale)) for length in picture.size))  # type: ignore[arg-type]
        return heat_overlay(picture, self._heat(map_range))

    def sheet(self, prompts: ImageInput | Iterable[ImageInput] = (), tile: int = 240) -> Image.Image:
        """Draw the picture, the map, the score with its components, and the prompts on one sheet.

        Args:
            prompts: The prompts' pictures, to be shown; see :meth:`Detector.set_prompts`.
            tile: Side of a tile in pixels.

        Returns:
            The sheet in RGB.
        """
        shown = [] if isinstance(prompts, Sequence) and not len(prompts) else list_inputs(prompts, "prompts")
        return explanation_figure(
            self.picture,
            maps={"anomaly map": self._heat()},
            prompts=[to_pil_image(picture.read()) for picture in shown],
            k_shot=self.k_shot,
            score=self.score,
            threshold=self.threshold,
            pred_label=self.label,
            components={name.replace("_", " "): value for name, value in self.components.items()},
            class_name=self.class_name,
            file_name=Path(self.name).name,
            tile=tile,
        )

    def save(self, path: str | Path) -> Path:
        """Write the picture with its heat map.

        Args:
            path: File to write, in the format that its suffix names; its folder is created.

        Returns:
            The path.
        """
        return write_image_atomic(path, self.heat_map())

    def _heat(self, map_range: tuple[float, float] | None = None) -> HeatMap:
        low, high = map_range or self.map_range
        whole = self._seen[2:] == self.size
        # On the model's own grid: drawing scales it to the picture.
        return HeatMap(self._map.numpy() if whole else self.anomaly_map, low, high)


def seen_part(size: tuple[int, int], resize_mode: str, side: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of the part of a picture ``(H, W)`` that a model of input ``side`` sees."""
    height, width = size
    if resize_mode == "squash":
        return 0, 0, height, width
    # As torchvision resizes to the shorter side, which is rounded down, and cuts out the centre.
    shorter = min(size)
    scaled = [int(side * length / shorter) for length in size]
    top, left = (round((length - side) / 2) for length in scaled)
    part = [round(side * own / length) for own, length in zip(size, scaled, strict=True)]
    return round(top * height / scaled[0]), round(left * width / scaled[1]), part[0], part[1]
