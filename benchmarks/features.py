# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Every image encoded once, and the models' own code run on what was encoded.

The backbone is frozen, so a table of features replaces it. Which prompt patch is nearest to a query's does not depend
on the heads either, so the table holds the cosines of every query with every possible prompt, too; of several prompts
the largest counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from anomalib_inctrl.backbones import ImageFeatures, OpenCLIPBackbone, openclip_preprocessing
from anomalib_inctrl.backbones.preprocessing import BackbonePreProcessor
from anomalib_inctrl.benchmark.encoding import ImageEncoder, concatenate
from anomalib_inctrl.models.components.prompt_bank import PromptContext
from anomalib_inctrl.models.components.residuals import nearest_prompt_similarity, unit

if TYPE_CHECKING:
    from anomalib_inctrl.data.dataset import GeneralistDataset
    from anomalib_inctrl.data.sampler import TrainingDraw
    from anomalib_inctrl.models.components.few_shot_model import FewShotModel


class Encoder:
    """A frozen backbone with its preprocessing.

    Args:
        backbone: Name of an OpenCLIP vision transformer.
        pretrained: OpenCLIP pretrained tag or path of a weights file; ``None`` for random weights.
        layers: Blocks whose patch tokens are used; None for the default.
    """

    def __init__(self, backbone: str, pretrained: str | None, layers: Sequence[int] | None = None) -> None:
        self.backbone = OpenCLIPBackbone(backbone, pretrained, layers)
        size, mean, std = openclip_preprocessing(backbone, pretrained)
        self.pre_processor = BackbonePreProcessor(size, "squash", mean, std)
        self._images = ImageEncoder(self.backbone, self.pre_processor)

    def encode_files(self, paths: Sequence[Path], shifts: int = 1) -> ImageFeatures:
        """Encode image files, as the models encode their prompts."""
        return self._images.encode_files(paths, shifts)

    def encode_dataset(self, dataset: GeneralistDataset, title: str = "Encoding") -> EncodedDataset:
        """Encode all images of a dataset and keep their masks, as the datamodule would bring them.

        Args:
            dataset: Images, labels and masks.
            title: Title of the progress bar.

        Returns:
            The table.
        """
        parts: list[ImageFeatures] = []
        masks: list[Tensor] = []
        bar = tqdm(self._images.encode_dataset(dataset), desc=title, unit="batch", disable=None)
        for features, batch in bar:
            parts.append(features)
            empty = torch.zeros(len(features.embedding), *self.backbone.image_size)
            masks.append((empty if batch.gt_mask is None else torch.as_tensor(batch.gt_mask)).bool())
        samples = dataset.samples
        return EncodedDataset(
            features=concatenate(parts),
            masks=torch.cat(masks),
            mask_valid=torch.tensor(samples["has_mask"].to_numpy(dtype=bool)),
            labels=torch.tensor(samples["label_index"].to_numpy(dtype=int)),
            class_names=samples["class_name"].tolist(),
        )


@dataclass
class EncodedDataset:
    """Features, labels and masks of ``N`` images.

    Attributes:
        features: Patch tokens ``(N, L, P, D_v)`` and class embeddings ``(N, D)``.
        masks: ``(N, H, W)`` bool, zero where unknown.
        mask_valid: ``(N,)`` bool, whether the mask is known.
        labels: ``(N,)``, 1 for abnormal.
        class_names: Class name of each image.
    """

    features: ImageFeatures
    masks: Tensor
    mask_valid: Tensor
    labels: Tensor
    class_names: list[str]

    def rows_of(self, class_name: str) -> Tensor:
        """Rows of a class, ascending."""
        return torch.tensor([row for row, name in enumerate(self.class_names) if name == class_name])


@dataclass
class IndexBatch:
    """A training batch whose images are rows of an :class:`EncodedDataset`; see ``PromptedBatch`` for the fields."""

    image: Tensor
    prompt_image: Tensor
    class_name: list[str]
    one_class: Tensor
    gt_label: Tensor
    gt_mask: Tensor | None
    mask_valid: Tensor | None

    def __len__(self) -> int:
        return len(self.image)


class TrainingTable:
    """What training needs of encoded images: lookups in place of the backbone and of the nearest-patch search.

    Args:
        encoded: The training images.
        mask_size: Side of the masks that the pixel losses see, in pixels; the image's own if None.
    """

    def __init__(self, encoded: EncodedDataset, mask_size: int | None = None) -> None:
        self.encoded = encoded
        self.mask_size = (mask_size, mask_size) if mask_size else tuple(encoded.masks.shape[-2:])
        masks = encoded.masks.unsqueeze(1).to(torch.uint8)
        self._masks = F.interpolate(masks, size=self.mask_size, mode="nearest-exact").squeeze(1).bool()
        # Position of each image among the queries, or the normal images, of its class.
        self._place = torch.zeros(2, len(masks), dtype=torch.long)
        self._cosines: dict[str, Tensor] = {}
        for name in tqdm(sorted(set(encoded.class_names)), desc="Comparing patches", unit="class", disable=None):
            queries = encoded.rows_of(name)
            prompts = queries[encoded.labels[queries] == 0]
            self._place[0, queries], self._place[1, prompts] = torch.arange(len(queries)), torch.arange(len(prompts))
            patches = encoded.features.patches[queries]
            of_prompts = unit(encoded.features.patches[prompts]).split(1)
            # Axes are query, prompt, block and patch.
            self._cosines[name] = torch.stack([nearest_prompt_similarity(patches, one) for one in of_prompts], dim=1)

    def batch(self, draws: Sequence[TrainingDraw]) -> IndexBatch:
        """Make the batch that the datamodule would make of these draws."""
        rows = torch.tensor([draw.query for draw in draws])
        valid = self.encoded.mask_valid[rows]
        return IndexBatch(
            image=rows,
            prompt_image=torch.tensor([draw.prompts for draw in draws]),
            class_name=[self.encoded.class_names[draw.query] for draw in draws],
            one_class=torch.tensor([draw.one_class for draw in draws]),
            gt_label=self.encoded.labels[rows],
            gt_mask=self._masks[rows] if bool(valid.any()) else None,
            mask_valid=valid,
        )

    @contextmanager
    def replace_backbone_of(self, model: FewShotModel) -> Iterator[None]:
        """Let a model train on batches of rows. Its losses on empty masks take the size of the masks here."""

        def encode_pairs(
            rows: Tensor, prompts: Tensor, class_name: Sequence[str]
        ) -> tuple[ImageFeatures, PromptContext]:
            model.heads_trained |= model.training
            places = zip(class_name, self._place[0, rows], self._place[1, prompts], strict=True)
            context = PromptContext(
                patches=torch.empty(len(rows), 0),
                image=self.encoded.features.embedding[prompts],
                prototypes=torch.stack([model.backbone.text_prototypes(name) for name in class_name]),
                similarity=torch.stack(
                    [self._cosines[name][query, shots].amax(dim=0) for name, query, shots in places]
                ),
            )
            return self.encoded.features.rows(rows), context

        image_size, model.backbone.image_size = model.backbone.image_size, self.mask_size
        model.encode_pairs = encode_pairs  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            del model.encode_pairs
            model.backbone.image_size = image_size
