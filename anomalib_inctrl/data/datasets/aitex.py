# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""AITEX. Images are cut as in the conversion script of the authors' public InCTRL code (Apache-2.0; nothing copied)."""

import re
from pathlib import Path

from anomalib_inctrl.data.datasets.base import BenchmarkDataModule
from anomalib_inctrl.data.datasets.records import GOOD, Box, DatasetCard, Scan, cut_image, image_files
from anomalib_inctrl.errors import DatasetError
from anomalib_inctrl.io.images import image_size

_TILE = 256
_DEFECTS = {
    "002": "broken_end",
    "006": "broken_yarn",
    "010": "broken_pick",
    "016": "weft_curling",
    "019": "fuzzyball",
    "022": "cut_selvage",
    "023": "crease",
    "025": "warp_ball",
    "027": "knots",
    "029": "contamination",
    "030": "nep",
    "036": "weft_crack",
}
_NAME = re.compile(r"\d{4}_(\d{3})_\d{2}")


class AITEX(BenchmarkDataModule):
    """AITEX: fabric strips of 4096 x 256 pixels, cut into tiles 256 pixels wide, with masks.

    All seven fabrics are one class, as in the papers.

    - Normal tiles come from the images without defects, abnormal ones from those with: tiles whose mask is not empty.
      Other tiles of images with defects are not used.
    - An image may have several masks (``_mask1``, ``_mask2``): their union counts. One has none, so that its abnormal
      tiles are unknown: it is left out. One has an empty mask and gives no tiles.
    - One image is 3796 pixels wide; its last tile is narrower.

    Licence, source and citation: see ``card``. For the arguments see :class:`BenchmarkDataModule`.
    """

    card = DatasetCard(
        name="AITEX",
        title="AITEX Fabric Image Database (AFID)",
        task="segmentation",
        licence="not stated",
        homepage="https://www.aitex.es/afid/",
        citation=(
            "J. Silvestre-Blanes, T. Albero-Albero, I. Miralles, R. Perez-Llorens, J. Moreno: A Public Fabric Database "
            "for Defect Detection Methods and Results. AUTEX Research Journal 19(4):363-374, 2019."
        ),
        layout=(
            "  Defect_images/0001_002_00.png ...     image, kind of defect, fabric\n"
            "  Mask_images/0001_002_00_mask.png ...\n"
            "  NODefect_images/2306881-210020u/0001_000_05.png ...     one folder a fabric"
        ),
        categories=("fabric",),
        # The paper counts 140 normal images, the distributed archive holds 141; 16 tiles each.
        expected={
            ("", "images in NODefect_images"): (140, 141),
            ("", "images in Defect_images"): (105, 106),
            ("", "images in Defect_images without a mask"): (0, 1),
            ("train", GOOD): (1680, 1692),
            ("test", GOOD): (560, 564),
        },
    )

    @classmethod
    def _scan(cls, root: Path) -> Scan:
        folders = {name: _inner(root / name) for name in ("Defect_images", "Mask_images", "NODefect_images")}
        files = {name: image_files(folder) for name, folder in folders.items()}
        if empty := [name for name, found in files.items() if not found]:
            raise cls.card.missing(root, f"there are no images in {', '.join(empty)}")
        records = []
        for path in files["NODefect_images"]:
            fabric = path.relative_to(folders["NODefect_images"]).parent.name
            records += cut_image(root, path, _tiles(path), "fabric", GOOD, f"{fabric}_{path.stem}".lstrip("_"))
        masks: dict[str, list[Path]] = {}
        for path in files["Mask_images"]:
            masks.setdefault(path.stem.partition("_mask")[0], []).append(path)
        notes = []
        for path in files["Defect_images"]:
            if (match := _NAME.fullmatch(path.stem)) is None:
                msg = f"{path}: not a name of AITEX, such as 0001_002_00.png (image, kind of defect, fabric)."
                raise DatasetError(msg)
            label = _DEFECTS.get(match[1], f"defect_{match[1]}")
            parts = cut_image(root, path, _tiles(path), "fabric", label, path.stem, masks.get(path.stem, ()))
            records += (abnormal := [part for part in parts if part.masks])
            if not abnormal:
                why = "its mask is empty" if path.stem in masks else "it has no mask"
                notes.append(f"{path.name} is left out: {why}, so that its abnormal tiles are not known.")
        counts = {f"images in {name}": len(files[name]) for name in ("NODefect_images", "Defect_images")}
        without = [path for path in files["Defect_images"] if path.stem not in masks]
        counts["images in Defect_images without a mask"] = len(without)
        return Scan(cls.card, root, records, notes, {("", what): count for what, count in counts.items()})


def _inner(folder: Path) -> Path:
    """Some archives hold a folder of their own name once more."""
    return folder / folder.name if (folder / folder.name).is_dir() else folder


def _tiles(path: Path) -> list[Box]:
    height, width = image_size(path)
    return [(left, 0, min(left + _TILE, width), height) for left in range(0, width, _TILE)]
