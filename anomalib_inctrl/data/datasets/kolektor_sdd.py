# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""KolektorSDD. Images are cut as in the authors' public InCTRL code (Apache-2.0; nothing copied)."""

from itertools import pairwise
from pathlib import Path

from anomalib_inctrl.data.datasets.base import BenchmarkDataModule
from anomalib_inctrl.data.datasets.records import ABNORMAL, GOOD, DatasetCard, Record, Scan, cut_image, image_files
from anomalib_inctrl.io.images import image_size


class KolektorSDD(BenchmarkDataModule):
    """KolektorSDD: each image is cut into three along its height; a part is abnormal if its mask is not empty.

    anomalib's own ``Kolektor`` has whole images and another split.

    Licence, source and citation: see ``card``. For the arguments see :class:`BenchmarkDataModule`.
    """

    card = DatasetCard(
        name="KolektorSDD",
        title="Kolektor Surface-Defect Dataset",
        task="segmentation",
        licence="CC BY-NC-SA 4.0",
        homepage="https://www.vicos.si/resources/kolektorsdd/",
        citation=(
            "D. Tabernik, S. Sela, J. Skvarc, D. Skocaj: Segmentation-Based Deep-Learning Approach for Surface-Defect "
            "Detection. Journal of Intelligent Manufacturing 31(3):759-776, 2020."
        ),
        layout="  kos01/Part0.jpg\n  kos01/Part0_label.bmp\n  ...\n  kos50/Part7_label.bmp",
        categories=("commutator",),
        # 399 images in three parts each
        expected={("train", GOOD): (857,), ("test", GOOD): (286,), ("test", ABNORMAL): (54,)},
    )

    @classmethod
    def _scan(cls, root: Path) -> Scan:
        base = root / "KolektorSDD" if (root / "KolektorSDD").is_dir() else root
        files = [path for path in image_files(base) if not path.stem.endswith("_label")]
        images = [path for path in files if path.relative_to(base).parts[0].lower().startswith("kos")]
        if not images:
            raise cls.card.missing(root, "there are no folders kos01, kos02 ... with images")
        records: list[Record] = []
        for path in images:
            mask = path.with_name(f"{path.stem}_label.bmp")
            if not mask.is_file():
                raise cls.card.missing(root, f"{path.relative_to(root)} has no {mask.name} beside it")
            height, width = image_size(path)
            edges = [height * part // 3 for part in range(4)]
            boxes = [(0, top, width, bottom) for top, bottom in pairwise(edges)]
            records += cut_image(base, path, boxes, "commutator", "defect", f"{path.parent.name}_{path.stem}", [mask])
        return Scan(cls.card, base, records)
