# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Raw data of AITEX, ELPV and KolektorSDD.

What is cut and how follows the conversion scripts in the authors' public InCTRL code (Apache-2.0; nothing copied).
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from anomalib_inctrl.data.raw.base import (
    ABNORMAL,
    GOOD,
    DatasetCard,
    RawDataset,
    Record,
    Scan,
    crop,
    image_files,
    image_size,
    natural_key,
    read_masks,
    safe_path,
    split_normals,
)
from anomalib_inctrl.errors import DatasetError


class RawAITEX(RawDataset):
    """AITEX: fabric strips of 4096 x 256 pixels, cut into tiles 256 pixels wide.

    - Normal tiles come from the pictures without defects, abnormal ones from those with: tiles whose mask is not empty.
      Other tiles of pictures with defects are not used.
    - A picture may have several masks (``_mask1``, ``_mask2``): their union counts. One has none, so that nobody knows
      which of its tiles are abnormal: it is left out. One has an empty mask and gives no tiles.
    - One picture is 3796 pixels wide; its last tile is narrower.
    """

    _TILE = 256
    _DEFECTS: ClassVar[dict[str, str]] = {
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

    card = DatasetCard(
        name="AITEX",
        title="AITEX Fabric Image Database (AFID)",
        task="segmentation",
        licence="not stated",
        homepage="https://www.aitex.es/afid/",
        citation=(
            "J. Silvestre-Blanes, T. Albero-Albero, I. Miralles, R. Perez-Llorens, J. Moreno: A Public Fabric Database "
            "for Defect Prediction Methods and Results. AUTEX Research Journal 19(4):363-374, 2019."
        ),
        layout=(
            "  Defect_images/0001_002_00.png ...     picture, kind of defect, fabric\n"
            "  Mask_images/0001_002_00_mask.png ...\n"
            "  NODefect_images/2306881-210020u/0001_000_05.png ...     one folder a fabric"
        ),
        categories=("fabric",),
        default_categories=("fabric",),
        # The paper counts 140 normal pictures, the archive that is handed out holds 141; 16 tiles each.
        expected={("train", GOOD): (1680, 1692), ("test", GOOD): (560, 564)},
    )

    def _scan(self, root: Path, *, check_counts: bool) -> Scan:
        folders = {name: _inner(root / name) for name in ("Defect_images", "Mask_images", "NODefect_images")}
        files = {name: image_files(folder) for name, folder in folders.items()}
        if empty := [name for name, found in files.items() if not found]:
            raise self.missing(root, f"there are no pictures in {', '.join(empty)}")
        normal = [
            record
            for path in files["NODefect_images"]
            for record in self._tiles(root, path, GOOD, prefix=path.relative_to(folders["NODefect_images"]).parent.name)
        ]
        masks: dict[str, list[Path]] = {}
        for path in files["Mask_images"]:
            masks.setdefault(path.stem.partition("_mask")[0], []).append(path)
        if check_counts:
            without = sum(path.stem not in masks for path in files["Defect_images"])
            counts = {
                "pictures in NODefect_images": (len(files["NODefect_images"]), (140, 141)),
                "pictures in Defect_images": (len(files["Defect_images"]), (105, 106)),
                "pictures in Defect_images without a mask": (without, (0, 1)),
            }
            self._compare(f"{self.card.name} in {root}", counts)
        notes, abnormal = [], []
        for path in files["Defect_images"]:
            tiles = self._abnormal_tiles(root, path, masks.get(path.stem, []))
            abnormal += tiles
            if not tiles:
                why = "its mask is empty" if path.stem in masks else "it has no mask"
                notes.append(f"{path.name} is left out: {why}, so that its abnormal tiles are not known.")
        if unmatched := sorted(masks.keys() - {path.stem for path in files["Defect_images"]}):
            found_masks = ", ".join(unmatched[:3])
            raise self.missing(root, f"{len(unmatched)} masks have no picture in Defect_images ({found_masks} ...)")
        return Scan(root, [*split_normals(normal, self.card.name), *abnormal], notes)

    def _abnormal_tiles(self, root: Path, path: Path, mask_files: list[Path]) -> list[Record]:
        match = self._NAME.fullmatch(path.stem)
        if match is None:
            msg = f"{path}: not a name of AITEX, such as 0001_002_00.png (picture, kind of defect, fabric)."
            raise DatasetError(msg)
        if not mask_files:
            return []
        masks = tuple(mask.relative_to(root).as_posix() for mask in mask_files)
        pixels = read_masks(root, masks, image_size(path))
        label = self._DEFECTS.get(match[1], f"defect_{match[1]}")
        tiles = self._tiles(root, path, label, masks=masks)
        return [tile for tile in tiles if crop(pixels, tile.box).any()]

    def _tiles(
        self, root: Path, path: Path, label: str, *, prefix: str = "", masks: tuple[str, ...] = ()
    ) -> list[Record]:
        width, height = image_size(path)
        stem = f"{prefix}_{path.stem}" if prefix else path.stem
        return [
            Record(
                category="fabric",
                split="" if label == GOOD else "test",
                label=label,
                name=f"{stem}_{number:02}",
                source=path.relative_to(root).as_posix(),
                box=(left, 0, min(left + self._TILE, width), height),
                masks=masks,
            )
            for number, left in enumerate(range(0, width, self._TILE))
        ]


class RawKolektorSDD(RawDataset):
    """KolektorSDD: each picture is cut into three along its height; a part is abnormal if its mask is not empty."""

    card = DatasetCard(
        name="KolektorSDD",
        title="Kolektor Surface-Defect Dataset",
        task="segmentation",
        licence="CC BY-NC-SA 4.0",
        homepage="https://www.vicos.si/resources/kolektorsdd/",
        citation=(
            "D. Tabernik, S. Sela, J. Skvarc, D. Skocaj: Segmentation-Based Deep-Learning Approach for Surface-Defect "
            "Prediction. Journal of Intelligent Manufacturing 31(3):759-776, 2020."
        ),
        layout="  kos01/Part0.jpg\n  kos01/Part0_label.bmp\n  ...\n  kos50/Part7_label.bmp",
        categories=("commutator",),
        default_categories=("commutator",),
        # 399 pictures in three parts each
        expected={("train", GOOD): (857,), ("test", GOOD): (286,), ("test", ABNORMAL): (54,)},
    )

    def _scan(self, root: Path, *, check_counts: bool) -> Scan:
        del check_counts  # the counts of the parts tell
        base = root / "KolektorSDD" if (root / "KolektorSDD").is_dir() else root
        files = [path for path in image_files(base) if not path.stem.endswith("_label")]
        pictures = [path for path in files if path.relative_to(base).parts[0].lower().startswith("kos")]
        if not pictures:
            raise self.missing(root, "there are no folders kos01, kos02 ... with pictures")
        normal: list[Record] = []
        abnormal: list[Record] = []
        for path in pictures:
            mask = path.with_name(f"{path.stem}_label.bmp")
            if not mask.is_file():
                raise self.missing(root, f"{path.relative_to(root)} has no {mask.name} beside it")
            for record, is_abnormal in self._parts(base, path, mask):
                (abnormal if is_abnormal else normal).append(record)
        return Scan(base, [*split_normals(normal, self.card.name), *abnormal], [])

    @staticmethod
    def _parts(base: Path, path: Path, mask: Path) -> list[tuple[Record, bool]]:
        width, height = image_size(path)
        mask_name = mask.relative_to(base).as_posix()
        pixels = read_masks(base, [mask_name], (width, height))
        edges = [height * part // 3 for part in range(4)]
        parts = []
        for number, (top, bottom) in enumerate(pairwise(edges)):
            box = (0, top, width, bottom)
            is_abnormal = bool(crop(pixels, box).any())
            record = Record(
                category="commutator",
                split="test" if is_abnormal else "",
                label="defect" if is_abnormal else GOOD,
                name=f"{path.parent.name}_{path.stem}_{number}",
                source=path.relative_to(base).as_posix(),
                box=box,
                masks=(mask_name,) if is_abnormal else (),
            )
            parts.append((record, is_abnormal))
        return parts


class RawELPV(RawDataset):
    """ELPV: solar cells with a probability of being defective; 0 is normal, 1 abnormal, what is between is dropped."""

    in_place = True
    card = DatasetCard(
        name="ELPV",
        title="ELPV: solar cells in electroluminescence",
        task="classification",
        licence="CC BY-NC-SA 4.0 (images)",
        homepage="https://github.com/zae-bayern/elpv-dataset",
        citation=(
            "S. Deitsch, V. Christlein, S. Berger, C. Buerhop-Lutz, A. Maier, F. Gallwitz, C. Riess: Automatic "
            "Classification of Defective Photovoltaic Module Cells in Electroluminescence Images. Solar Energy "
            "185:455-468, 2019. C. Buerhop-Lutz et al.: A Benchmark for Visual Identification of Defective Solar Cells "
            "in Electroluminescence Imagery. EU PVSEC 2018."
        ),
        layout="  labels.csv\n  images/cell0001.png ...",
        categories=("solar_cell",),
        default_categories=("solar_cell",),
        expected={("train", GOOD): (1131,), ("test", GOOD): (377,), ("test", ABNORMAL): (715,)},
    )

    def _scan(self, root: Path, *, check_counts: bool) -> Scan:
        del check_counts  # the counts of the labels tell
        places = (root, root / "src/elpv_dataset/data", root / "elpv-dataset", root / "elpv-dataset-master")
        base = next((place for place in places if (place / "labels.csv").is_file()), None)
        if base is None:
            raise self.missing(root, "there is no labels.csv")
        labels = base / "labels.csv"
        try:
            table = pd.read_csv(labels, sep=r"\s+", header=None, names=["path", "probability", "kind"])
            table["probability"] = table["probability"].astype(float)
        except (ValueError, pd.errors.ParserError) as error:
            msg = f"{labels}: not a list of path, probability and kind of cell ({error}). Fetch it again."
            raise DatasetError(msg) from error
        names = table["path"].astype(str)
        if unsafe := [name for name in names if safe_path(name) is None]:
            msg = f"{labels}: names {unsafe[0]!r}, a path outside its folder. Fetch the file again."
            raise DatasetError(msg)
        if absent := [name for name in names if not (base / name).is_file()]:
            raise self.missing(root, f"{len(absent)} of {len(names)} pictures are missing, the first is {absent[0]}")
        normal, abnormal = [], []
        for name, probability, kind in zip(names, table["probability"], table["kind"].astype(str), strict=True):
            if probability not in {0.0, 1.0}:
                continue
            record = Record("solar_cell", "test", kind, Path(name).stem, name)
            if probability == 1.0:
                abnormal.append(record)
            else:
                normal.append(Record("solar_cell", "", GOOD, Path(name).stem, name))
        uncertain = int(np.sum(~table["probability"].isin([0.0, 1.0])))
        notes = [f"{uncertain} pictures are left out: their labels are uncertain."] if uncertain else []
        abnormal.sort(key=lambda record: natural_key(record.source))
        return Scan(base, [*split_normals(normal, self.card.name), *abnormal], notes)


def _inner(folder: Path) -> Path:
    """Some archives hold a folder of their own name once more."""
    return folder / folder.name if (folder / folder.name).is_dir() else folder
