# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The Lightning side of both models: what anomalib asks of a model, training and scoring."""

from __future__ import annotations

import logging
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from anomalib import LearningType
from anomalib.data import AnomalibDataModule
from anomalib.metrics import Evaluator
from anomalib.post_processing import PostProcessor
from anomalib.utils.path import create_versioned_dir
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import AdamW

from anomalib_inctrl.backbone import ImageFeatures, preprocessing_of
from anomalib_inctrl.data import GeneralistDataModule
from anomalib_inctrl.data.frames import as_images
from anomalib_inctrl.data.items import StoredBatch
from anomalib_inctrl.errors import PictureError, PromptError
from anomalib_inctrl.hub import HubMixin
from anomalib_inctrl.metrics import generalist_evaluator
from anomalib_inctrl.models.components.checkpoint_io import NamingCheckpointIO
from anomalib_inctrl.models.components.export import ExportMixin
from anomalib_inctrl.models.components.stored_features import StoredFeatures
from anomalib_inctrl.preprocessing import CLIPPreProcessor
from anomalib_inctrl.visualization import ExplanationVisualizer, ScoreTable

if TYPE_CHECKING:
    from anomalib.models import AnomalibModule as _Base
    from lightning.pytorch import Callback

    from anomalib_inctrl.prompts.bank import PromptContext
else:
    _Base = object

logger = logging.getLogger(__name__)

# Lightning says at every run that this hook of the model is used, as it is meant to be.
warnings.filterwarnings("ignore", message="You have overridden `on_before_batch_transfer`")

DEFAULT_MAX_EPOCHS = 10
_LIGHTNING_MAX_EPOCHS = 1000


class FewShotMixin(ExportMixin, HubMixin, _Base):
    """Everything that both Lightning modules do alike; to be put before ``AnomalibModule`` in the bases.

    anomalib finds models by *direct* subclass of ``AnomalibModule`` only, hence a mixin. Its parts are
    :class:`RestoringMixin` (where the PyTorch model comes from), :class:`PromptingMixin` (which prompts a run uses),
    :class:`ExportMixin` and :class:`HubMixin`.
    """

    # Loss terms of the training step under way, with their graph, for callbacks; empty from its backward pass on.
    loss_terms: dict[str, Tensor]

    def _init_few_shot(self) -> None:
        """Finish ``__init__`` of a subclass, once its arguments are in ``self.hparams``."""
        self.loss_terms = {}
        self._stored: StoredFeatures | None = None
        self._init_prompting()
        self._init_restoring()

    # ------------------------------------------------------------------ what anomalib asks of a model

    @property
    def learning_type(self) -> LearningType:
        """Few-shot with given weights, which only need prompts and thresholds; otherwise trained like one-class."""
        return LearningType.ONE_CLASS if self.hparams["weights"] is None else LearningType.FEW_SHOT

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Trainer settings that anomalib puts over the user's."""
        return {"num_sanity_val_steps": 0}

    def configure_pre_processor(self, image_size: tuple[int, int] | None = None) -> CLIPPreProcessor:  # type: ignore[override]
        """Preprocessing of the backbone in use.

        Args:
            image_size: Another input size; must be square.

        Returns:
            The pre-processor.

        Raises:
            ValueError: If the size is not square.
        """
        size, mean, std = preprocessing_of(self.hparams["backbone"], self.hparams["pretrained"])
        height, width = image_size or (size, size)
        if height != width:
            msg = f"image_size={image_size}: the backbone takes square images; give both sides the same length."
            raise ValueError(msg)
        return CLIPPreProcessor(height, self.hparams["resize_mode"], mean, std)

    def configure_post_processor(self) -> PostProcessor:
        """Anomalib's normalisation and thresholds."""
        return PostProcessor()

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """The metrics of the generalist protocol on raw scores."""
        return generalist_evaluator()

    @classmethod
    def configure_visualizer(cls) -> ExplanationVisualizer:
        """Anomalib's pictures and one explaining sheet per image."""
        return ExplanationVisualizer()

    def configure_callbacks(self) -> list[Callback]:
        """Add the score table; make the results folder a versioned one."""
        self._make_results_folder_versioned()
        callbacks = super().configure_callbacks()
        return [*(callbacks if isinstance(callbacks, Sequence) else [callbacks]), ScoreTable()]

    def _make_results_folder_versioned(self) -> None:
        # anomalib test, run before any train, makes a plain folder "latest", over which the next train would stumble.
        root = Path(self.trainer.default_root_dir)
        if root.name == "latest" and not root.exists() and self.trainer.is_global_zero:
            create_versioned_dir(root.parent)

    def val_dataloader(self) -> list[Any]:
        """No validation data where none is given.

        anomalib validates few-shot models before it predicts, and in its benchmark without passing the data.
        """
        return []

    # ------------------------------------------------------------------ training

    @abstractmethod
    def training_losses(self, batch: Any) -> dict[str, Tensor]:
        """Loss terms of a training batch by name: weighted scalars, whose sum is minimised."""

    @property
    def _trains_heads(self) -> bool:
        # A stock datamodule has no abnormal images and no prompts per query; dataloaders may have.
        datamodule = self._datamodule
        return isinstance(datamodule, GeneralistDataModule) or not isinstance(datamodule, AnomalibDataModule)

    @property
    def _datamodule(self) -> Any:
        return getattr(getattr(self, "_trainer", None), "datamodule", None)

    def setup(self, stage: str) -> None:
        """Give training a finite length; with a stock datamodule there is nothing to train."""
        strategy = self.trainer.strategy
        if not isinstance(strategy.checkpoint_io, NamingCheckpointIO):
            strategy.checkpoint_io = NamingCheckpointIO(strategy.checkpoint_io)
        if stage != TrainerFn.FITTING:
            return
        if not self._trains_heads:
            logger.warning(
                "%s holds normal images of one category: prompts and thresholds are adapted to it, the heads stay as "
                "they are. Train them with GeneralistDataModule.",
                type(self._datamodule).__name__,
            )
            self.trainer.fit_loop.max_epochs = 1
            self.trainer.limit_train_batches = 1
        elif self.trainer.max_epochs == _LIGHTNING_MAX_EPOCHS and self.trainer.max_steps == -1:
            logger.info("No max_epochs given: training for %d epochs.", DEFAULT_MAX_EPOCHS)
            self.trainer.fit_loop.max_epochs = DEFAULT_MAX_EPOCHS

    def on_train_epoch_start(self) -> None:
        """Encode what the epoch needs and the store has not."""
        if self._stored is not None:
            self._stored.fill()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Take videos frame by frame and depth data by its pictures; put stored features in the place of rows."""
        transform: Any = getattr(self.pre_processor, "transform", None)
        batch = super().on_before_batch_transfer(batch, dataloader_idx)
        batch = as_images(batch, transform.transforms[0] if transform is not None else None)
        return self._stored.attach(batch) if self._stored and isinstance(batch, StoredBatch) else batch

    def encode_batch(self, batch: Any) -> tuple[ImageFeatures, PromptContext]:
        """Features of a training batch's queries, and a context for each of them, encoded or from the store."""
        if isinstance(batch, StoredBatch):
            assert batch.patches is not None
            assert batch.image is not None
            return self.model.pair_features(ImageFeatures(batch.patches.float(), batch.image.float()), batch.class_name)
        return self.model.encode_pairs(batch.image, batch.prompt_image, batch.class_name)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One step of the heads."""
        del batch_idx
        if not self._trains_heads:
            return torch.zeros((), device=self.device, requires_grad=True)
        if not isinstance(batch, StoredBatch) and getattr(batch, "prompt_image", None) is None:
            msg = (
                "The training batch has no prompts (prompt_image). Train with GeneralistDataModule, which draws them "
                "for every query."
            )
            raise PromptError(msg)
        losses = self.loss_terms = self.training_losses(batch)
        loss = torch.stack(list(losses.values())).sum()
        terms = {f"train_{name}": value for name, value in losses.items()}
        self.log_dict(terms, batch_size=len(batch), on_epoch=True, on_step=False)
        self.log("train_loss", loss, batch_size=len(batch), prog_bar=True, on_epoch=True)
        return loss

    def on_before_backward(self, loss: Tensor) -> None:
        """Let go of the terms; callbacks have seen them before the model does."""
        del loss
        self.loss_terms = {}

    def configure_optimizers(self) -> AdamW | None:
        """AdamW over the heads, as in the authors' code; nothing where they are not trained."""
        if not self._trains_heads:
            return None
        return AdamW(
            [parameter for parameter in self.model.parameters() if parameter.requires_grad],
            lr=self.hparams["learning_rate"],
            weight_decay=self.hparams["weight_decay"],
        )

    # ------------------------------------------------------------------ runs

    def on_fit_start(self) -> None:
        """Collect prompts; open the store of training images' features."""
        self._collect_prompts(self._datamodule)
        self._stored = StoredFeatures.open(self.trainer, self.model.backbone, self.pre_processor)

    def on_fit_end(self) -> None:
        """Leave the store, which is the datamodule's."""
        self._stored = None

    def on_validation_start(self) -> None:
        """Collect prompts."""
        self._collect_prompts(self._datamodule)

    def on_test_start(self) -> None:
        """Collect prompts; say so if untrained heads leave the training-free floor."""
        self._collect_prompts(self._datamodule)
        self._warn_if_untrained()

    def on_predict_start(self) -> None:
        """Collect prompts; say so if untrained heads leave the training-free floor, or if nothing gives a threshold."""
        self._collect_prompts(self._datamodule)
        self._warn_if_untrained()
        threshold = getattr(self.post_processor, "image_threshold", None)
        if threshold is not None and bool(threshold.isnan()):
            logger.warning(
                "No threshold is known: pictures are scored, but not labelled. There is one in a checkpoint "
                "(--ckpt_path) of a training with labelled targets, or of Detector(..., threshold=0.4).save(path)."
            )

    # ------------------------------------------------------------------ scoring

    def _class_names(self, batch: Any) -> list[str] | str | None:
        return getattr(batch, "class_name", None) or self._class_name

    def _score(self, batch: Any) -> Any:
        """Score a batch; keep raw scores, maps and terms in it for metrics and pictures."""
        class_names = self._class_names(batch)
        terms = self.model.score_terms(batch.image, class_names)
        self._require_finite(terms.score, batch)
        batch.update(**self.model.inference_batch(terms)._asdict())
        batch.raw_score, batch.raw_map, batch.terms = batch.pred_score, batch.anomaly_map, terms
        if not isinstance(class_names, list):
            batch.class_name = [class_names or self.model.bank.class_names[0]] * len(batch)
        return batch

    @staticmethod
    def _require_finite(score: Tensor, batch: Any) -> None:
        """A score that is no number is above no threshold: it would pass for a normal one."""
        if bool(score.isfinite().all()):
            return
        row = int((~score.isfinite()).nonzero()[0])
        name = batch.image_path[row] if getattr(batch, "image_path", None) else f"image {row} of the batch"
        holds = "it holds" if not bool(batch.image[row].isfinite().all()) else "the model or its prompts hold"
        msg = f"{name}: its score is not finite, because {holds} NaN or infinite values."
        raise PictureError(msg)

    def validation_step(self, batch: Any, batch_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Score a validation batch."""
        del batch_idx, args, kwargs
        return self._score(batch)

    def test_step(self, batch: Any, batch_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Score a test batch."""
        del batch_idx, args, kwargs
        return self._score(batch)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Score a predict batch."""
        del batch_idx, dataloader_idx
        return self._score(batch)

    # ------------------------------------------------------------------ checkpoints

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the checkpoint's model, and give its preprocessing to the datasets."""
        super().on_load_checkpoint(checkpoint)
        if isinstance(self._datamodule, AnomalibDataModule):
            # The datasets took over the resize of a model that was not yet the checkpoint's.
            self._datamodule.setup(self.trainer.state.fn)
