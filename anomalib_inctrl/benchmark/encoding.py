# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Images through a frozen backbone, in the preprocessing of the model that it belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from anomalib_inctrl.backbones import ImageFeatures, OpenCLIPBackbone
from anomalib_inctrl.data.batch import PromptedBatch
from anomalib_inctrl.io.images import read_image
from anomalib_inctrl.models.components.prompt_shifts import encode_prompts

if TYPE_CHECKING:
    from anomalib_inctrl.backbones.preprocessing import BackbonePreProcessor
    from anomalib_inctrl.data.dataset import GeneralistDataset


class ImageEncoder:
    """A frozen backbone with its preprocessing.

    Args:
        backbone: The backbone.
        pre_processor: Its preprocessing.
        batch_size: Images encoded at a time.
        num_workers: Processes that read the images of datasets.
    """

    def __init__(
        self,
        backbone: OpenCLIPBackbone,
        pre_processor: BackbonePreProcessor,
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> None:
        self.backbone = backbone
        self.pre_processor = pre_processor
        self.batch_size = batch_size
        self.num_workers = num_workers

    def encode_files(self, paths: Sequence[Path], shifts: int = 1) -> ImageFeatures:
        """Encode image files, as the models encode their prompts.

        Args:
            paths: ``N`` image files.
            shifts: Offsets along each axis at which their patches are seen, ``S``.

        Returns:
            Features of all ``N``, with patch tokens ``(N * S * S, L, P, D_v)``.
        """
        transform = self.pre_processor.transform
        nothing = torch.empty(0, 3, *self.backbone.image_size)
        features = []
        for start in range(0, max(1, len(paths)), self.batch_size):
            images = [transform(read_image(path).unsqueeze(0)) for path in paths[start : start + self.batch_size]]
            # Plain tensors: anomalib's image type would spread to all that is computed from them.
            batch = torch.cat([nothing, *images]).as_subclass(Tensor)
            features.append(encode_prompts(self.backbone, batch, shifts, self.batch_size))
        return concatenate(features)

    def encode_dataset(self, dataset: GeneralistDataset) -> Iterator[tuple[ImageFeatures, PromptedBatch]]:
        """Encode the images of a dataset, batch by batch, in its order.

        Args:
            dataset: Images, labels and masks. Its augmentations become the model's resize.

        Yields:
            Features of a batch, and the batch, its masks of the model's size.
        """
        dataset.augmentations = self.pre_processor.transform.transforms[0]
        loader: DataLoader[PromptedBatch] = DataLoader(
            dataset, batch_size=self.batch_size, num_workers=self.num_workers, collate_fn=PromptedBatch.collate
        )
        for batch in loader:
            yield self._encode(self.pre_processor.transform(batch.image)), batch

    def _encode(self, images: Tensor) -> ImageFeatures:
        # Plain tensors: anomalib's image type would spread to all that is computed from them.
        device = self.backbone.device
        return self.backbone.encode_image(images.as_subclass(Tensor).to(device))


def concatenate(parts: Sequence[ImageFeatures]) -> ImageFeatures:
    """Put the features of several batches together."""
    return ImageFeatures(torch.cat([part.patches for part in parts]), torch.cat([part.embedding for part in parts]))
