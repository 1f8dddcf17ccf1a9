# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The generalist protocol: train on auxiliary datasets, test on others."""

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.data.transforms.utils import extract_transforms_by_type
from anomalib.utils.attrs import get_nested_attr
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader, SequentialSampler
from torchvision.transforms.v2 import Resize, Transform

from anomalib_inctrl.arguments import check_arguments
from anomalib_inctrl.data.batch import PromptedBatch, collate_training
from anomalib_inctrl.data.dataset import GeneralistDataset
from anomalib_inctrl.data.sampler import BalancedSampler, MaskwiseBatchSampler
from anomalib_inctrl.data.sources import DataSource, build_datamodules, parse_sources, prepare, read_parts
from anomalib_inctrl.errors import ArgumentError, DatasetError

logger = logging.getLogger(__name__)

MEMORY = "memory"

# The fusion of the score is fitted on a quarter of the auxiliary classes, at least two of at least six.
_HELD_OUT_SHARE, _FEWEST_HELD_OUT, _FEWEST_CLASSES = 4, 2, 6
_FUSION_QUERIES = 512


class GeneralistDataModule(AnomalibDataModule):
    """Trains on all images of auxiliary datasets, validates and tests on target datasets.

    Of an auxiliary source the train, validation and test images of every category are merged, labels and masks kept.
    Training batches are half normal and half abnormal, and every query brings its own prompts. A model with a one-class
    branch gets normal queries for it in the same batch, marked in ``one_class``; see :class:`BalancedSampler`.

    A target source is validated and tested on what its own datamodule defines. Mind that for most of anomalib's
    datamodules validation is the test set (``val_split_mode="same_as_test"``), so that thresholds are set on it, and
    that ``Folder`` takes half of the test images for validation; the source's ``options`` change that. Prompts are
    chosen from the normal images of its train split.

    For a model whose ``needs_held_out_classes`` is true, a quarter of the auxiliary classes is kept from the heads and
    given by :meth:`fusion_dataloader`; see :class:`.ScoreFusion`.

    Files are read only when needed: testing a checkpoint works without the auxiliary datasets.

    Args:
        auxiliary: Datasets to train on. May be left out to validate, test and predict only.
        targets: Datasets to validate and test on. May be left out to train only.
        k_shot: Prompts each training query brings.
        train_batch_size: Balanced queries a training batch and process, half of them normal. 48 is the paper's by
            second-hand notes, the authors' code has 16; the statistics of the heads' batch normalisation depend on it.
        eval_batch_size: Images a validation or test batch.
        steps_per_epoch: Training batches an epoch. 100 is the authors', who train 10 epochs.
        num_workers: Worker processes of each loader.
        train_augmentations: Applied to training queries and their masks, but not to their prompts.
        one_class_batch_size: Normal queries a training batch and process that are drawn beside the balanced ones for a
            one-class branch; 0 for none. By default half of ``train_batch_size`` for a model whose
            ``needs_one_class_queries`` is true, otherwise none. A given number holds for any model; one without
            such a branch trains on them as on any other query.
        feature_store: Cache of the features of training images; the backbone is frozen, so they never change.
            ``"memory"`` keeps them for the lifetime of this datamodule, a folder also for later runs; ``None`` encodes
            every image whenever it is drawn. Not used with augmentations, nor where memory would not suffice, which is
            logged.
        seed: Seed of all draws.

    Raises:
        ArgumentError: If an argument has an invalid value.
        DatasetError: If a source has.

    Example:
        >>> datamodule = GeneralistDataModule(
        ...     auxiliary=[DataSource("MVTecAD", root="./datasets/MVTecAD")],
        ...     targets=[DataSource("Visa", root="./datasets/visa", categories=["candle", "cashew"])],
        ... )
    """

    train_data: GeneralistDataset
    val_data: GeneralistDataset
    test_data: GeneralistDataset

    def __init__(
        self,
        auxiliary: list[DataSource] | None = None,
        targets: list[DataSource] | None = None,
        *,
        k_shot: int = 2,
        train_batch_size: int = 48,
        eval_batch_size: int = 32,
        steps_per_epoch: int = 100,
        num_workers: int = 8,
        train_augmentations: Transform | None = None,
        one_class_batch_size: int | None = None,
        feature_store: str | None = MEMORY,
        seed: int = 0,
    ) -> None:
        check_arguments(
            GeneralistDataModule.__init__,
            {name: value for name, value in locals().items() if name not in {"auxiliary", "targets"}},
            {"k_shot": 1, "steps_per_epoch": 1, "eval_batch_size": 1}
            | {"num_workers": 0, "one_class_batch_size": 0, "seed": 0},
        )
        if train_batch_size < 2 or train_batch_size % 2:
            msg = f"train_batch_size={train_batch_size}: give an even number of at least 2, half normal, half abnormal."
            raise ArgumentError(msg)
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_augmentations=train_augmentations,
            seed=seed,
        )
        self.seed: int = seed
        self.k_shot = k_shot
        self.one_class_batch_size = one_class_batch_size
        self.feature_store = feature_store
        self.steps_per_epoch = steps_per_epoch
        given = {"auxiliary": auxiliary, "targets": targets}
        self.sources = {argument: parse_sources(sources, argument) for argument, sources in given.items()}
        self._datamodules: dict[str, dict[str, AnomalibDataModule]] = {}

    def prepare_data(self) -> None:
        """Let the sources prepare their files; datamodules of anomalib download nothing."""
        for argument in self._needed(self.trainer.state.fn if self.trainer else None):
            for datamodule in self._open(argument).values():
                prepare(datamodule)

    def setup(self, stage: str | None = None) -> None:
        """Read the file lists that the stage needs.

        Args:
            stage: ``fit``, ``validate``, ``test``, ``predict``, or None for all there is.

        Raises:
            DatasetError: If a source cannot be read, or the stage has none.
        """
        self._setup(stage)
        self._update_augmentations()

    def _setup(self, _stage: str | None = None) -> None:
        if _stage == TrainerFn.FITTING:
            self._require("auxiliary", "train on")
        elif _stage is not None and not hasattr(self, "train_data"):
            # After a fit a missing target is no error: `anomalib train` always tests afterwards.
            self._require("targets", f"{TrainerFn(_stage).value} on")
        needed = self._needed(_stage)
        if "auxiliary" in needed and not hasattr(self, "train_data"):
            self.train_data = self._merge("auxiliary", ("train", "val", "test"))
        if "targets" in needed and not hasattr(self, "test_data"):
            self.test_data = self._merge("targets", ("test",))
            if any("val" in parts for parts in self._parts("targets").values()):
                self.val_data = self._merge("targets", ("val",))

    def prompt_candidates(self) -> dict[str, list[Path]]:
        """List the images that prompts of the targets may be chosen from.

        Returns:
            For each target class its normal training images, sorted.
        """
        candidates = {}
        for name, parts in self._parts("targets").items():
            samples = parts["train"].samples if "train" in parts else None
            paths = [] if samples is None else samples.image_path[samples.label_index == 0]
            candidates[name] = sorted(Path(path) for path in paths)
        return candidates

    def train_dataloader(self) -> DataLoader[Any]:
        """Balanced batches of prompted queries, followed by those for the model's one-class branch, if it has one."""
        self._require("auxiliary", "train on")
        one_class = self.one_class_batch_size
        if one_class is None:
            needed = get_nested_attr(self, "trainer.lightning_module.needs_one_class_queries", False)
            one_class = self.train_batch_size // 2 if needed else 0
        trained = set(self.train_data.samples["class_name"]) - set(self.held_out_classes())
        return self._training_loader(self.steps_per_epoch, one_class, trained)

    def fusion_dataloader(self) -> DataLoader[Any] | None:
        """Balanced batches from the classes that the heads are not trained on; None if there are none.

        They are the same whenever they are drawn, and in every process.
        """
        if not (held_out := self.held_out_classes()):
            return None
        steps = -(-_FUSION_QUERIES // self.train_batch_size)
        return self._training_loader(steps, 0, held_out, world_size=1, rank=0)

    def held_out_classes(self) -> list[str]:
        """Auxiliary classes that the heads are not trained on: a quarter, drawn by the seed.

        Returns:
            Sorted names; empty if the model does not ask for any (``needs_held_out_classes``), or if there are fewer
            than six classes with normal and abnormal images.
        """
        if not get_nested_attr(self, "trainer.lightning_module.needs_held_out_classes", False):
            return []
        labels = self.train_data.samples.groupby("class_name")["label_index"].nunique()
        names = sorted(labels[labels == 2].index)
        if len(names) < _FEWEST_CLASSES:
            return []
        count = max(_FEWEST_HELD_OUT, len(names) // _HELD_OUT_SHARE)
        return sorted(np.random.default_rng([self.seed, count]).choice(names, count, replace=False).tolist())

    def _training_loader(self, steps: int, one_class: int, classes: Collection[str], **world: int) -> DataLoader[Any]:
        sampler = BalancedSampler(
            self.train_data,
            batch_size=self.train_batch_size,
            steps_per_epoch=steps,
            k_shot=self.k_shot,
            one_class_batch_size=one_class,
            seed=self.seed,
            classes=classes,
            **world,
        )
        return DataLoader(
            self.train_data,
            batch_size=sampler.draws_per_step,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=self.external_collate_fn or collate_training,
        )

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Validation images of all targets; an empty list if there are none."""
        return self._eval_dataloader(self.val_data) if hasattr(self, "val_data") else []

    def test_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Test images of all targets; after a fit without targets an empty list."""
        if not hasattr(self, "test_data"):
            logger.warning("GeneralistDataModule has no targets: nothing is tested. Give targets to test on.")
            return []
        return self._eval_dataloader(self.test_data)

    def _eval_dataloader(self, dataset: GeneralistDataset) -> DataLoader[Any]:
        collate = self.external_collate_fn or PromptedBatch.collate
        has_mask = dataset.samples["has_mask"].tolist()
        batches = MaskwiseBatchSampler(SequentialSampler(dataset), self.eval_batch_size, False, has_mask)
        return DataLoader(dataset, batch_sampler=batches, num_workers=self.num_workers, collate_fn=collate)

    def _needed(self, stage: str | None) -> list[str]:
        used = ("auxiliary", "targets") if stage in {None, TrainerFn.FITTING} else ("targets",)
        return [argument for argument in used if self.sources[argument]]

    def _require(self, argument: str, use: str) -> None:
        if not self.sources[argument]:
            msg = f"GeneralistDataModule has nothing to {use}: give {argument}, a list of datasets."
            raise DatasetError(msg)

    def _open(self, argument: str) -> dict[str, AnomalibDataModule]:
        if argument not in self._datamodules:
            self._datamodules[argument] = build_datamodules(self.sources[argument], argument)
        return self._datamodules[argument]

    def _parts(self, argument: str) -> dict[str, dict[str, AnomalibDataset]]:
        return {name: read_parts(name, module, argument) for name, module in self._open(argument).items()}

    def _merge(self, argument: str, splits: tuple[str, ...]) -> GeneralistDataset:
        parts = self._parts(argument)
        return GeneralistDataset.merge(
            (name, parts[name][split]) for name in parts for split in splits if split in parts[name]
        )

    def _update_augmentations(self) -> None:
        super()._update_augmentations()
        if hasattr(self, "train_data"):
            # Prompts are resized as queries are: by the model's resize, or else by the user's.
            transform = get_nested_attr(self, "trainer.model.pre_processor.transform", None)
            resizes = extract_transforms_by_type(transform, Resize) or extract_transforms_by_type(
                self.train_augmentations, Resize
            )
            self.train_data.prompt_augmentations = resizes[0] if resizes else None
