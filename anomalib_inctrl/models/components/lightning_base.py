# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The Lightning side of both models: prompts, checkpoints, weights and results around a plain PyTorch model."""

from __future__ import annotations

import logging
import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
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
from tqdm.auto import tqdm

from anomalib_inctrl.backbone import ImageFeatures, preprocessing_of
from anomalib_inctrl.data import GeneralistDataModule
from anomalib_inctrl.data.frames import as_images
from anomalib_inctrl.data.items import StoredBatch
from anomalib_inctrl.errors import CheckpointError, PictureError, PromptError
from anomalib_inctrl.hub import HubMixin, read_heads
from anomalib_inctrl.images import read_image
from anomalib_inctrl.metrics import generalist_evaluator
from anomalib_inctrl.models.components.checkpoint_checks import check_values, naming
from anomalib_inctrl.models.components.checkpoint_io import NamingCheckpointIO
from anomalib_inctrl.models.components.export import ExportMixin
from anomalib_inctrl.models.components.stored_features import StoredFeatures
from anomalib_inctrl.preprocessing import CLIPPreProcessor
from anomalib_inctrl.prompts.selection import check_k_shot, create_selector, write_prompt_list
from anomalib_inctrl.prompts.source import class_name_of, given_prompts, prompt_candidates
from anomalib_inctrl.visualization import ExplanationVisualizer, ScoreTable
from anomalib_inctrl.weights import check_keys, find_weights_file, read_checkpoint

if TYPE_CHECKING:
    from anomalib.models import AnomalibModule
    from lightning.pytorch import Callback

    from anomalib_inctrl.models.components.few_shot import FewShotModel
    from anomalib_inctrl.prompts.bank import PromptContext

    _Base = AnomalibModule
else:
    _Base = object

logger = logging.getLogger(__name__)

# Lightning says at every run that this hook of the model is used, as it is meant to be.
warnings.filterwarnings("ignore", message="You have overridden `on_before_batch_transfer`")

DEFAULT_MAX_EPOCHS = 10
_LIGHTNING_MAX_EPOCHS = 1000
_ENCODE_BATCH = 32


class FewShotMixin(ExportMixin, HubMixin, _Base):
    """Everything that both Lightning modules do alike; to be put before ``AnomalibModule`` in the bases.

    anomalib finds models by *direct* subclass of ``AnomalibModule`` only, hence a mixin. A subclass names in
    ``architecture`` those of its arguments that shape the model: a checkpoint decides them, whatever the command line
    says. The PyTorch model is built when first needed, after a checkpoint had its say.
    """

    architecture: tuple[str, ...]
    model: FewShotModel
    # Loss terms of the training step under way, with their graph, for callbacks; empty from its backward pass on.
    loss_terms: dict[str, Tensor]

    def _init_few_shot(self) -> None:
        """Finish ``__init__`` of a subclass, once its arguments are in ``self.hparams``."""
        self._heads: dict[str, Any] | None = None
        self._restored_prompts: set[str] = set()
        self._collected: dict[str, tuple[Any, ...]] = {}
        self.loss_terms = {}
        self._stored: StoredFeatures | None = None
        self._class_name: str | None = self.hparams["class_name"]
        # What is wrong is told now, not after training.
        create_selector(self.hparams["prompt_selection"])
        check_k_shot(self.hparams["k_shot"])
        if self.hparams["weights"] is not None:
            weights = str(self.hparams["weights"])
            self._heads = read_heads(weights, type(self).__name__)
            with naming(weights):
                self._adopt(self._heads, weights, Path(weights))

    # ------------------------------------------------------------------ building

    @abstractmethod
    def build_model(self) -> FewShotModel:
        """Create the PyTorch model from ``self.hparams``."""

    def __getattr__(self, name: str) -> Any:
        """Build the PyTorch model on first access."""
        if name == "model" and "model" not in self._modules:
            source = self.hparams["weights"]
            with naming(source) if self._heads is not None else nullcontext():
                # Heads start from the model's own seed: anomalib's command line does not pass on --seed_everything.
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(self.hparams["seed"])
                    self.model = self.build_model().to(self.device).train(self.training)
                if self._heads is not None:
                    self._load_heads(self._heads, str(source))
        return super().__getattr__(name)

    def configure_model(self) -> None:
        """Build the model before training sets up its optimizer; otherwise a checkpoint is waited for."""
        trainer = getattr(self, "_trainer", None)
        if trainer is not None and trainer.state.fn == TrainerFn.FITTING:
            _ = self.model

    def _adopt(self, checkpoint: Mapping[str, Any], source: str, path: Path | None = None) -> None:
        """Take over what a checkpoint says about the model's shape and its preprocessing."""
        saved = dict(checkpoint.get("hyper_parameters", {}))
        if absent := [key for key in self.architecture if key not in saved]:
            msg = (
                f"{source}: no checkpoint of {type(self).__name__}; its settings lack {absent} (they are "
                f"{sorted(saved)[:20]}). Give a checkpoint written by this model."
            )
            raise CheckpointError(msg)
        own = self.hparams["pretrained"] if self.hparams["backbone"] == saved["backbone"] else None
        folder = path if path is None or path.is_dir() else path.parent
        saved["pretrained"] = find_weights_file(saved["pretrained"], folder, own)
        for key in self.architecture:
            if self.hparams[key] != saved[key]:
                logger.info("%s=%r is taken from %s, in place of %r.", key, saved[key], source, self.hparams[key])
                self.hparams[key] = saved[key]
        config = checkpoint.get("anomalib_pre_processor_config")
        if config is not None and isinstance(self.pre_processor, CLIPPreProcessor):
            self.pre_processor.load_checkpoint_config(config)

    def _load_heads(self, checkpoint: Mapping[str, Any], source: str) -> None:
        """Load trained heads, leaving the saved prompts behind."""
        state = {
            key.removeprefix("model."): value
            for key, value in checkpoint["state_dict"].items()
            if key.startswith("model.") and not key.startswith("model.bank.")
        }
        own = {key: value for key, value in self.model.state_dict().items() if key.startswith("bank.")}
        check_keys(state | own, self.model.state_dict(), source)
        check_values(state, self.model.backbone, source)
        self.model.load_state_dict(state | own)

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
        """Weighted loss terms of a training batch by name."""

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

    # ------------------------------------------------------------------ prompts

    @property
    def prompt_files(self) -> dict[str, list[str]]:
        """Files the prompts in use came from, by class name."""
        return self.model.bank.files

    def on_fit_start(self) -> None:
        """Collect prompts; open the store of training images' features."""
        self._collect_prompts()
        self._stored = StoredFeatures.open(self.trainer, self.model.backbone, self.pre_processor)

    def on_fit_end(self) -> None:
        """Leave the store, which is the datamodule's."""
        self._stored = None

    def on_validation_start(self) -> None:
        """Collect prompts."""
        self._collect_prompts()

    def on_test_start(self) -> None:
        """Collect prompts; say so if untrained heads leave the training-free floor."""
        self._collect_prompts()
        self._warn_if_untrained()

    def on_predict_start(self) -> None:
        """Collect prompts; say so if untrained heads leave the training-free floor, or if nothing gives a threshold."""
        self._collect_prompts()
        self._warn_if_untrained()
        threshold = getattr(self.post_processor, "image_threshold", None)
        if threshold is not None and bool(threshold.isnan()):
            logger.warning(
                "No threshold is known: pictures are scored, but not labelled. There is one in a checkpoint "
                "(--ckpt_path) of a training with labelled targets, or of Detector(..., threshold=0.4).save(path)."
            )

    def _warn_if_untrained(self) -> None:
        if not self.model.heads_trained:
            logger.warning(
                "The heads are untrained: scores are the training-free floor, (text score + patch score) / 2. "
                "Give trained heads with --model.weights or a checkpoint with --ckpt_path."
            )

    def _collect_prompts(self) -> None:
        """Fill the bank for the classes of this run.

        Prompts the user names go first. Prompts from a checkpoint, or set by hand, stay. All others are chosen among
        the train split's normal images.
        """
        datamodule = self._datamodule
        candidates = prompt_candidates(datamodule, self.hparams["class_name"])
        self._class_name = class_name_of(datamodule, self.hparams["class_name"])
        for name in self._put_named_prompts(list(candidates) or [name for name in [self._class_name] if name]):
            candidates.pop(name, None)
        for name, paths in candidates.items():
            by_hand = name in self.model.bank and name not in self._collected
            if not (by_hand or name in self._restored_prompts):
                self._choose_prompts(name, paths)
        self._put_text_prompts(self._class_name)
        self._write_prompt_list()

    def _put_named_prompts(self, class_names: Sequence[str]) -> list[str]:
        """Put the prompts the user named into the bank.

        Args:
            class_names: Classes of this run.

        Returns:
            The classes whose images the user named.
        """
        named = given_prompts(self.hparams["prompts"], list(class_names)) if self.hparams["prompts"] is not None else {}
        for name, paths in named.items():
            self._put_prompts(name, paths, key=("given", *paths))
        return list(named)

    def _put_text_prompts(self, class_name: str | None) -> None:
        """With ``k_shot=0`` there are only text prompts, which need no images to choose among."""
        if self.hparams["k_shot"] == 0 and class_name and class_name not in self.model.bank:
            self._put_prompts(class_name, [], key=("zero-shot",))

    def _choose_prompts(self, class_name: str, candidates: Sequence[Path]) -> None:
        settings = (self.hparams["k_shot"], self.hparams["prompt_selection"], self.hparams["seed"])
        if self._collected.get(class_name) == (settings, *candidates):
            return
        selector = create_selector(self.hparams["prompt_selection"], self.hparams["seed"])
        try:
            chosen = selector.select(candidates, self.hparams["k_shot"], self._encode_candidates)
        except PromptError as error:
            msg = f"class_name={class_name!r}: {error}"
            raise PromptError(msg) from error
        self._put_prompts(class_name, chosen, key=(settings, *candidates))

    def _put_prompts(self, class_name: str, paths: Sequence[Path], key: tuple[Any, ...]) -> None:
        if self._collected.get(class_name) == key:
            return
        height, width = self.model.backbone.image_size
        images = self._read_prompts(paths) if paths else torch.empty(0, 3, height, width)
        self.model.set_prompts(images, class_name, [str(path) for path in paths])
        self._collected[class_name] = key

    def _read_prompts(self, paths: Sequence[Path]) -> Tensor:
        """Read images and bring them through the same preprocessing as queries ``(N, 3, H, W)``."""
        transform: Any = self.pre_processor.transform if self.pre_processor is not None else None
        images = [read_image(path).unsqueeze(0) for path in paths]
        return torch.cat([transform(image) if transform else image for image in images])

    def _encode_candidates(self, paths: Sequence[Path]) -> Tensor:
        batches = [paths[start : start + _ENCODE_BATCH] for start in range(0, len(paths), _ENCODE_BATCH)]
        progress = tqdm(batches, desc="Looking at prompt candidates", unit="batch", leave=False)
        backbone = self.model.backbone
        features = [backbone.encode_image(self._read_prompts(batch).to(self.device)).image for batch in progress]
        return torch.cat(features).cpu()

    def _write_prompt_list(self) -> None:
        folder = Path(self.trainer.default_root_dir)
        writes = self.trainer.is_global_zero and not (self.trainer.fast_dev_run or self.trainer.barebones)  # type: ignore[attr-defined]
        if writes and any(self.prompt_files.values()):
            write_prompt_list(self.prompt_files, folder)

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

    @property
    def _checkpoint_path(self) -> Path | None:
        """File that the trainer restores the model from."""
        path = getattr(getattr(self, "_trainer", None), "ckpt_path", None)
        return Path(path) if path is not None and Path(path).is_file() else None

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a model; see anomalib's method for the arguments.

        Backbone weights that the checkpoint names by a path that leads nowhere are looked for beside the checkpoint, or
        given as ``pretrained``.

        Raises:
            CheckpointError: If the file is damaged, holds code, or does not fit the model.
        """
        if not isinstance(checkpoint_path, (str, Path)) or not Path(checkpoint_path).is_file():
            return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)
        content = read_checkpoint(checkpoint_path)
        with naming(checkpoint_path):
            saved = content.get("hyper_parameters", {}).get("pretrained")
            found = find_weights_file(saved, Path(checkpoint_path).parent)
            if found != saved:
                kwargs.setdefault("pretrained", found)
            return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out paths that the checkpoint makes unnecessary: weights and prompts are inside."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["hyper_parameters"] = dict(checkpoint["hyper_parameters"]) | {"weights": None, "prompts": None}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the model that the checkpoint describes and check that the rest fits."""
        source = str(self._checkpoint_path or "The checkpoint")
        with naming(source):
            if "model" not in self._modules:
                self._heads = None  # the checkpoint has its own
                self._adopt(checkpoint, source, self._checkpoint_path)
            super().on_load_checkpoint(checkpoint)
            state, bank = checkpoint["state_dict"], "model.bank."
            expected = self.state_dict() | self.model.state_dict(prefix="model.")
            check_keys(
                {key: value for key, value in state.items() if not key.startswith(bank)},
                {key: value for key, value in expected.items() if not key.startswith(bank)},
                source,
            )
            inside = {key: value for key, value in state.items() if key.startswith("model.")}
            check_values(
                {key.removeprefix("model."): value for key, value in inside.items()}, self.model.backbone, source
            )
            extra = state.get(f"{bank}_extra_state", {"class_names": []})
            self._restored_prompts = set(extra["class_names"])
        if isinstance(self._datamodule, AnomalibDataModule):
            # The datasets took over the resize of a model that was not yet the checkpoint's.
            self._datamodule.setup(self.trainer.state.fn)
