# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Training without encoding an image twice: features of queries and prompts come from a store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from anomalib_inctrl.backbone import ImageFeatures
from anomalib_inctrl.data.feature_store import FeatureStore, ImageKeys, MemoryStore, available_memory
from anomalib_inctrl.data.generalist import GeneralistDataModule
from anomalib_inctrl.data.sampler import BalancedSampler
from anomalib_inctrl.images import read_image
from anomalib_inctrl.preprocessing import CLIPPreProcessor

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from anomalib_inctrl.backbone import FrozenCLIP
    from anomalib_inctrl.data.items import StoredBatch

logger = logging.getLogger(__name__)

_ENCODE_BATCH = 32
# Of the memory that is free, at most this part goes to a store.
_MEMORY_SHARE = 0.75


class StoredFeatures:
    """Features of a datamodule's training images: those in its store, and others as soon as they are needed.

    Args:
        datamodule: Whose training images, and whose store.
        store: The store.
        backbone: Encodes what the store has not.
        transform: Preprocessing of the images.
        trainer: Decides device and precision.
    """

    def __init__(
        self,
        datamodule: GeneralistDataModule,
        store: FeatureStore,
        backbone: FrozenCLIP,
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
    def open(cls, trainer: Trainer, backbone: FrozenCLIP, pre_processor: Any) -> StoredFeatures | None:
        """Open the store of a training run, or say why there is none.

        Args:
            trainer: The trainer, its datamodule set up.
            backbone: The backbone.
            pre_processor: The pre-processor of the model.

        Returns:
            The features; None if the run is to encode what it draws.
        """
        datamodule: Any = getattr(trainer, "datamodule", None)
        if not isinstance(datamodule, GeneralistDataModule):
            return None
        datamodule.train_data.stored_size = None
        if datamodule.feature_store is None:
            return None
        if obstacle := _obstacle(datamodule, pre_processor):
            rank_zero_info(f"The feature store is off: {obstacle}. Every image is encoded whenever it is drawn.")
            return None
        size = 2 * (len(backbone.layers) * backbone.num_patches * backbone.patch_width + backbone.embed_dim)
        count = min(len(datamodule.train_data), _draws_in_all(trainer, datamodule))
        # In memory every process has its own.
        copies = trainer.world_size if datamodule.feature_store == "memory" else 1
        whole = count * size * copies
        free = available_memory() if datamodule.feature_store == "memory" else None
        announced = f"up to {count} images, {_bytes(size)} each, {_bytes(whole)} in all"
        if free is not None and whole > _MEMORY_SHARE * free:
            logger.warning(
                "The feature store is off: it would take %s, and %s of memory are free. Every image is encoded "
                "whenever it is drawn. Give the store a folder: --data.feature_store FOLDER.",
                announced,
                _bytes(free),
            )
            return None
        store = datamodule.open_feature_store(_settings(trainer, backbone, pre_processor))
        assert store is not None
        place = "memory" if isinstance(store, MemoryStore) else str(datamodule.feature_store)
        rank_zero_info(f"Features of training images are kept in {place}: {announced}.")
        datamodule.train_data.stored_size = backbone.image_size
        return cls(datamodule, store, backbone, pre_processor.transform, trainer)

    def fill(self) -> None:
        """Encode the images of the epoch to come that are not in the store yet."""
        loader: Any = self._trainer.train_dataloader
        sampler = getattr(loader, "sampler", None)
        if not isinstance(sampler, BalancedSampler):
            return  # what is drawn then is encoded then
        draws = islice(iter(sampler), int(self._trainer.num_training_batches) * sampler.draws_per_step)
        rows = sorted({row for draw in draws for row in (draw.query, *draw.prompts)})
        paths = {self._key(self._paths[row]): self._paths[row] for row in rows}
        missing = {key: path for key, path in paths.items() if key not in self._store}
        if missing:
            self._encode(missing, title="Encoding training images")

    def attach(self, batch: StoredBatch) -> StoredBatch:
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
        ready: list[Any] = [found[keys[row]] for row in rows]
        # In memory block by block, as they are read.
        batch.patches = torch.stack([features.patches for features in ready], dim=1).transpose(0, 1)
        batch.image = torch.stack([features.image for features in ready])
        return batch

    def _encode(self, paths: dict[str, str], title: str | None = None) -> dict[str, ImageFeatures]:
        """Encode and keep images; with a title they are many, which are read by workers, shown and not returned."""
        files = _Files(list(paths.values()), self._transform)
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
                    one = self._store.put(key, ImageFeatures(features.patches[index], features.image[index]))
                    if title is None:
                        kept[key] = one
                progress.update(len(images))
        return kept


class _Files(Dataset[Tensor]):
    """Preprocessed images of files, so that workers can read them."""

    def __init__(self, paths: Sequence[str], transform: Callable[[Tensor], Tensor]) -> None:
        self._paths = paths
        self._transform = transform

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor:
        # Plain tensors: torchvision's image type would spread to all that is computed from them.
        return self._transform(read_image(Path(self._paths[index])).unsqueeze(0)).squeeze(0).as_subclass(Tensor)


def _obstacle(datamodule: GeneralistDataModule, pre_processor: Any) -> str | None:
    """Why features may not be taken from a store; None if they may."""
    if datamodule.train_augmentations is not None:
        return "augmentations are set, so an image looks different each time"
    if type(pre_processor) is not CLIPPreProcessor:
        return f"what the pre-processor {type(pre_processor).__name__} does to an image is not known"
    if datamodule.external_collate_fn is not None:
        return "external_collate_fn wants pixels"
    return None


def _draws_in_all(trainer: Trainer, datamodule: GeneralistDataModule) -> int:
    """Images drawn in a whole training run, one that is drawn twice counted twice."""
    queries = datamodule.train_batch_size + datamodule.count_one_class()
    steps = (trainer.max_epochs or 0) * datamodule.steps_per_epoch
    if trainer.max_steps > 0:
        steps = min(steps or trainer.max_steps, trainer.max_steps)
    return steps * queries * (1 + datamodule.k_shot) if steps > 0 else len(datamodule.train_data)


def _settings(trainer: Trainer, backbone: FrozenCLIP, pre_processor: CLIPPreProcessor) -> dict[str, Any]:
    return {
        "backbone": backbone.name,
        "architecture": backbone.architecture,
        "weights": backbone.sha256,
        "layers": list(backbone.layers),
        "pre_processor": pre_processor.checkpoint_config(),
        "precision": str(trainer.precision),
    }


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
