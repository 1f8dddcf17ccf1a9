# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Training without encoding an image twice: features of queries and prompts come from a store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from anomalib_inctrl.backbones import Backbone, ImageFeatures
from anomalib_inctrl.backbones.preprocessing import BackbonePreProcessor
from anomalib_inctrl.data.datamodule import MEMORY, GeneralistDataModule
from anomalib_inctrl.data.sampler import BalancedSampler
from anomalib_inctrl.io.images import read_image
from anomalib_inctrl.models.components.feature_store import FeatureStore, ImageKeys

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from anomalib_inctrl.data.batch import CachedBatch

logger = logging.getLogger(__name__)

_ENCODE_BATCH = 32
# Of the memory that is free, at most this part goes to a store.
_MEMORY_SHARE = 0.75


class TrainingFeatures:
    """Features of a datamodule's training images: from its store, or encoded when first needed.

    Args:
        datamodule: The datamodule whose training images are encoded.
        store: The store.
        backbone: Encodes the images that the store lacks.
        transform: Preprocessing of the images.
        trainer: Decides device and precision.
    """

    def __init__(
        self,
        datamodule: GeneralistDataModule,
        store: FeatureStore,
        backbone: Backbone,
        transform: Callable[[Tensor], Tensor],
        trainer: Trainer,
    ) -> None:
        self._datamodule = datamodule
        self._paths: list[str] = datamodule.train_data.samples["image_path"].tolist()
        self._store = store
        self._backbone = backbone
        self._transform = transform
        self._trainer = trainer
        self._key = ImageKeys()

    @classmethod
    def open(cls, trainer: Trainer, backbone: Backbone, pre_processor: Any) -> TrainingFeatures | None:
        """Open the store of a training run, or log why there is none.

        Args:
            trainer: The trainer, its datamodule set up.
            backbone: The backbone.
            pre_processor: The pre-processor of the model.

        Returns:
            The features; None if every image is encoded whenever it is drawn.
        """
        datamodule: Any = getattr(trainer, "datamodule", None)
        if not isinstance(datamodule, GeneralistDataModule):
            return None
        datamodule.train_data.cached_size = None
        if datamodule.feature_store is None:
            return None
        if obstacle := _obstacle(datamodule, pre_processor):
            rank_zero_info(f"The feature store is off: {obstacle}. Every image is encoded whenever it is drawn.")
            return None
        in_memory = datamodule.feature_store == MEMORY
        size = 2 * (len(backbone.blocks) * backbone.num_patches * backbone.patch_width + backbone.embed_dim)
        count = len(datamodule.train_data)
        total = count * size * (trainer.world_size if in_memory else 1)  # in memory every process has its own
        announced = f"up to {count} images, {size / 1e6:.3g} MB each, {total / 1e6:.4g} MB in all"
        if in_memory and total > _MEMORY_SHARE * psutil.virtual_memory().available:
            logger.warning(
                "The feature store is off: it would take %s, and %.4g MB of memory are free. Every image is encoded "
                "whenever it is drawn. Give the store a folder: --data.feature_store FOLDER.",
                announced,
                psutil.virtual_memory().available / 1e6,
            )
            return None
        settings = {
            **backbone.get_extra_state(),
            "pre_processor": pre_processor.checkpoint_config(),
            "precision": str(trainer.precision),
        }
        store = FeatureStore(settings, None if in_memory else datamodule.feature_store)
        rank_zero_info(f"Features of training images are kept in {datamodule.feature_store}: {announced}.")
        datamodule.train_data.cached_size = backbone.image_size
        return cls(datamodule, store, backbone, pre_processor.transform, trainer)

    def fill(self, sampler: object, steps: int, title: str) -> None:
        """Encode the images of coming batches that are not in the store yet.

        Args:
            sampler: Draws them; images of any other than a :class:`BalancedSampler` are encoded when they are drawn.
            steps: Number of batches.
            title: What this is for, beside the progress bar.
        """
        if not isinstance(sampler, BalancedSampler):
            return
        draws = islice(iter(sampler), steps * sampler.draws_per_step)
        rows = sorted({row for draw in draws for row in (draw.query, *draw.prompts)})
        paths = {self._key(self._paths[row]): self._paths[row] for row in rows}
        missing = {key: path for key, path in paths.items() if key not in self._store}
        if missing:
            self._encode(missing, title)

    def attach(self, batch: CachedBatch) -> CachedBatch:
        """Put features into a batch, in half precision.

        Args:
            batch: The batch.

        Returns:
            The same batch.
        """
        rows = torch.cat([batch.rows, batch.prompt_rows.flatten()]).tolist()
        keys = {row: self._key(self._paths[row]) for row in sorted(set(rows))}
        wanted = dict(zip(keys.values(), map(self._paths.__getitem__, keys), strict=True))
        found = dict(zip(wanted, self._store.get(list(wanted)), strict=True))
        if absent := {key: wanted[key] for key, features in found.items() if features is None}:
            found |= self._encode(absent)
        features: list[Any] = [found[keys[row]] for row in rows]
        # In memory block by block, as they are read.
        batch.patches = torch.stack([one.patches for one in features], dim=1).transpose(0, 1)
        batch.embeddings = torch.stack([one.embedding for one in features])
        return batch

    def _encode(self, paths: dict[str, str], title: str | None = None) -> dict[str, ImageFeatures]:
        """Encode and keep images; with a title they are many, which are read by workers, shown and not returned."""
        files = _ImageFiles(list(paths.values()), self._transform)
        workers = self._datamodule.num_workers if title else 0
        loader: DataLoader[Tensor] = DataLoader(files, batch_size=_ENCODE_BATCH, num_workers=workers)
        keys, kept = iter(paths), {}
        hidden = title is None or not self._trainer.is_global_zero
        precision = self._trainer.precision_plugin
        with tqdm(total=len(paths), desc=title, unit="image", leave=False, disable=hidden) as progress:
            for images in loader:
                with torch.no_grad(), precision.forward_context():
                    images = precision.convert_input(images.to(self._trainer.strategy.root_device))  # noqa: PLW2901
                    features = self._backbone.encode_image(images)
                for index, key in zip(range(len(images)), keys, strict=False):
                    one = self._store.put(key, ImageFeatures(features.patches[index], features.embedding[index]))
                    if title is None:
                        kept[key] = one
                progress.update(len(images))
        return kept


class _ImageFiles(Dataset[Tensor]):
    """Preprocessed images of files, so that workers can read them."""

    def __init__(self, paths: Sequence[str], transform: Callable[[Tensor], Tensor]) -> None:
        self._paths = paths
        self._transform = transform

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor:
        # Plain tensors: torchvision's image type would spread to everything computed from them.
        return self._transform(read_image(Path(self._paths[index])).unsqueeze(0)).squeeze(0).as_subclass(Tensor)


def _obstacle(datamodule: GeneralistDataModule, pre_processor: Any) -> str | None:
    """Why features may not be taken from a store; None if they may."""
    if datamodule.train_augmentations is not None:
        return "augmentations are set, so an image looks different each time"
    if type(pre_processor) is not BackbonePreProcessor:
        return f"the effect of the pre-processor {type(pre_processor).__name__} on an image is not known"
    if datamodule.external_collate_fn is not None:
        return "external_collate_fn needs pixels"
    return None
