# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The Lightning side of both models: prompts, training, scoring, checkpoints and exports."""

from __future__ import annotations

import inspect
import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

import lightning
import torch
from anomalib import LearningType
from anomalib.data import AnomalibDataModule, InferenceBatch
from anomalib.data.transforms.utils import extract_transforms_by_type
from anomalib.metrics import Evaluator
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.utils.path import create_versioned_dir
from anomalib.visualization import Visualizer
from huggingface_hub import ModelCard, ModelHubMixin
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from lightning_utilities.core.imports import module_available
from torch import Tensor, nn
from torch.optim import AdamW
from torchvision.transforms.v2 import Resize

from anomalib_inctrl.arguments import check_arguments
from anomalib_inctrl.backbones import ImageFeatures, backbone_preprocessing, resolve_pretrained
from anomalib_inctrl.backbones.preprocessing import CHECKPOINT_KEY, BackbonePreProcessor
from anomalib_inctrl.console import quiet
from anomalib_inctrl.data import GeneralistDataModule
from anomalib_inctrl.data.batch import CachedBatch
from anomalib_inctrl.data.reading import name_unreadable_files
from anomalib_inctrl.data.video import as_images
from anomalib_inctrl.errors import ArgumentError, BackboneError, CheckpointError, ImageDataError, PromptError
from anomalib_inctrl.io.weights import check_keys, find_weights_file, read_checkpoint
from anomalib_inctrl.models.components.checkpoint import (
    SafeCheckpointIO,
    check_preprocessing,
    check_settings,
    check_state,
    load_heads,
)
from anomalib_inctrl.models.components.evaluator import generalist_evaluator
from anomalib_inctrl.models.components.export import (
    ExportedGraph,
    atomic_export,
    export_onnx,
    write_prompt_inputs,
)
from anomalib_inctrl.models.components.few_shot_model import FewShotModel
from anomalib_inctrl.models.components.hub import CONFIG_KEYS, download, hub_config, model_card, read_heads, save_heads
from anomalib_inctrl.models.components.losses import BinaryFocalLoss
from anomalib_inctrl.models.components.post_processor import FewShotPostProcessor
from anomalib_inctrl.models.components.prompt_collector import PromptCollector
from anomalib_inctrl.models.components.score_components import ScoreComponents
from anomalib_inctrl.models.components.threshold import GivenThreshold
from anomalib_inctrl.models.components.training_features import TrainingFeatures
from anomalib_inctrl.prompts.selection import write_prompt_list
from anomalib_inctrl.visualization import ExplanationVisualizer, ScoreTable

if TYPE_CHECKING:
    from anomalib.models import AnomalibModule as _Base
    from lightning.pytorch import Callback
    from torch.nn import Parameter

    from anomalib_inctrl.models.components.prompt_bank import PromptContext
else:
    _Base = object

logger = logging.getLogger(__name__)

DEFAULT_MAX_EPOCHS = 10
_LEAST = {"image_size": 1, "prompt_shifts": 1, "patch_pooling": 1, "learning_rate": 0, "weight_decay": 0, "seed": 0}
_LIGHTNING_MAX_EPOCHS = 1000


class FewShotModule(ModelHubMixin, _Base):
    """Everything that both Lightning modules have in common; stands before ``AnomalibModule`` in their bases.

    anomalib finds models by *direct* subclass of ``AnomalibModule`` only, hence a mixin.

    Attributes:
        model_class: Class of the PyTorch model.
        loss: Focal loss of image scores.
        loss_terms: Loss terms of the training step under way, with their graph, for callbacks; empty from its backward
            pass on.
    """

    model_class: type[FewShotModel]
    loss_terms: dict[str, Tensor]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # ModelHubMixin's __new__(*args, **kwargs) would hide the constructor's arguments from help() and editors.
        cls.__signature__ = inspect.Signature(list(cls._arguments().values()))  # type: ignore[attr-defined]

    @classmethod
    def _arguments(cls) -> dict[str, inspect.Parameter]:
        """The constructor's arguments, those that both models take in place of ``**shared``."""
        own = inspect.signature(cls.__init__).parameters
        parameters = {**inspect.signature(FewShotModule.__init__).parameters, **own}
        kept = (item for item in parameters.values() if item.name != "self" and item.kind != item.VAR_KEYWORD)
        return {parameter.name: parameter for parameter in kept}

    def __init__(
        self,
        backbone: str = "ViT-B-16-plus-240",
        pretrained: bool | str | None = True,
        blocks: list[int] | None = None,
        image_size: int | None = None,
        resize_mode: Literal["squash", "center_crop"] = "squash",
        k_shot: int = 4,
        class_name: str | None = None,
        prompts: str | list[str] | None = None,
        prompt_selection: str = "random",
        prompt_shifts: int = 1,
        weights: str | None = None,
        threshold: float | Literal["auto"] | None = None,
        false_alarm_rate: float | None = None,
        calibration: str | None = None,
        use_text: bool = True,
        use_patch: bool = True,
        use_image: bool = True,
        residual: Literal["residual", "concat", "average"] = "residual",
        residual_scale: Literal["half", "full"] = "half",
        patch_pooling: int | Literal["max"] = "max",
        patch_metric: Literal["cosine", "learned"] = "cosine",
        fusion: Literal["paper", "standardized", "logistic"] = "logistic",
        text_prompts: Literal["ensemble", "automatic"] = "ensemble",
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        seed: int = 0,
        pre_processor: nn.Module | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        """Take the arguments of both models. The command line's help is made of this text.

        Args:
            backbone: Name of an OpenCLIP vision transformer, or ``timm/`` and the name of a timm one. A checkpoint's
                own is used where one is given.
            pretrained: Pretrained tag or path of a weights file; ``True`` for the backbone's default weights, ``None``
                for random ones.
            blocks: Blocks whose patch tokens are used, counted from 1; by default 7/12, 9/12 and 11/12 of the depth.
            image_size: Side of the square input in pixels, a multiple of the patch size; None for the backbone's
                default.
            resize_mode: ``"squash"`` sees the whole image, ``"center_crop"`` is the authors' protocol.
            k_shot: Number of prompts per class; 0 leaves the text prompts, and in InCTRLv2 the discriminative branch,
                alone.
            class_name: Name of the object in the images, for the text prompts; by default the datamodule's category.
            prompts: Normal images to use as prompts: a folder, one or several files, a text file with one path a line,
                or a written ``prompts.json``.
            prompt_selection: How prompts are chosen among the train split's normal images: ``"random"``, ``"first"`` or
                ``"representative"``.
            prompt_shifts: *Ours*: offsets along each axis at which the patches of every prompt in use are seen, not
                those of a training batch; 1 sees prompts as they are. More help where objects do not lie as in the
                prompts.
            weights: Checkpoint whose trained heads are used.
            threshold: Raw score above which an image is labelled anomalous, in [0, 1]; ``"auto"`` computes it, and that
                of the map, from normal images. None leaves it to labelled validation images, or to the checkpoint.
            false_alarm_rate: With ``threshold="auto"``, the share of normal images that may be labelled anomalous;
                ``n`` normal images can guarantee ``1 / (n + 1)`` at best, which is the default.
            calibration: With ``threshold="auto"``, folder of further normal images; without it each prompt is scored
                against the others.
            use_text: Whether the text score takes part.
            use_patch: Whether the patch residual takes part.
            use_image: Whether the image residual takes part.
            residual: ``"residual"``, or the paper's comparisons ``"concat"`` and ``"average"``.
            residual_scale: ``"half"`` as in the authors' code, ``"full"`` as in the paper's equation.
            patch_pooling: ``"max"``, the largest value of the scored map, or, *ours*, the mean of this many largest
                ones.
            patch_metric: What the patch residual is taken in: ``"cosine"`` of the backbone's tokens, or, *ours*,
                ``"learned"``, the cosine behind a linear map that is trained with the heads.
            fusion: How the components give the score: ``"paper"``, fixed weights, or, *ours*, ``"standardized"`` or
                ``"logistic"`` weights, fitted at the end of training on a quarter of the auxiliary categories that the
                heads are kept from. It needs six categories; with fewer, and until it is fitted, the paper's weights
                count.
            text_prompts: ``"ensemble"``, the mean of all text prompts, or, *ours*, ``"automatic"``, those weighted by
                how little they move on a class's normal images, and none where they do not fit these.
            learning_rate: Of AdamW.
            weight_decay: Of AdamW.
            seed: Decides the heads' first weights and the choice of prompts.
            pre_processor: anomalib pre-processor, or whether to use the model's own.
            post_processor: anomalib post-processor, or whether to use the default.
            evaluator: anomalib evaluator, or whether to use the default metrics.
            visualizer: anomalib visualizer, or whether to use the model's own.

        Raises:
            ValueError: If an argument has an invalid value, or one that has no effect.
            PromptError: If ``k_shot`` is negative, or ``prompts`` or ``prompt_selection`` do not exist.
            CheckpointError: If ``weights`` are damaged or of another model.
        """
        quiet()  # before the first message, which is anomalib's
        check_arguments(FewShotModule.__init__, locals(), _LEAST)
        if blocks and min(blocks) < 1:
            msg = f"blocks={blocks}: blocks are counted from 1."
            raise ArgumentError(msg)
        super().__init__(pre_processor, post_processor, evaluator, visualizer)
        self.loss = BinaryFocalLoss()
        self.loss_terms = {}
        self._training_features: TrainingFeatures | None = None
        self._fused_at: int | None = None  # step of the training
        self._threshold = GivenThreshold(self.hparams)
        self._prompts = PromptCollector(self.hparams)
        self._heads: dict[str, Any] | None = None
        self._settings_source: str | None = None
        self.hparams["pretrained"] = resolve_pretrained(backbone, pretrained)
        if weights is not None:
            self._heads = read_heads(str(weights), type(self).__name__)
            self._adopt_settings(self._heads, Path(weights))

    # ------------------------------------------------------------------ the PyTorch model

    @classmethod
    def model_arguments(cls) -> tuple[str, ...]:
        """Arguments that shape the PyTorch model; a checkpoint decides them, whatever the command line states."""
        own = cls._arguments()
        return tuple(name for name in cls.model_class.argument_names() if name in own and name != "prompt_shifts")

    @property  # type: ignore[override]  # an attribute in anomalib
    def model(self) -> FewShotModel:
        """The PyTorch model, created when first needed: a checkpoint, if there is one, decides its backbone."""
        if "model" not in self._modules:
            # Heads start from the model's own seed: anomalib's command line does not pass on --seed_everything.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.hparams["seed"])
                try:
                    model = self.build_model()
                except BackboneError as error:  # of settings from a file, which is named
                    if self._settings_source is None:
                        raise
                    msg = f"{self._settings_source}: {error}"
                    raise BackboneError(msg) from error
            model.to(self.device).train(self.training)
            if self._heads is not None:
                load_heads(model, self._heads, str(self.hparams["weights"]))
            self.model = model
        return self._modules["model"]  # type: ignore[return-value]

    @model.setter
    def model(self, model: FewShotModel) -> None:
        self._modules["model"] = model

    @classmethod
    def _saved_settings(cls, checkpoint: Mapping[str, Any], source: str) -> dict[str, Any]:
        hints = get_type_hints(FewShotModule.__init__) | get_type_hints(cls.__init__)
        types = {name: hints[name] for name in cls.model_arguments()}
        return check_settings(cls.__name__, types, checkpoint, source)

    def build_model(self) -> FewShotModel:
        """Create the PyTorch model from the arguments."""
        arguments = {name: self.hparams[name] for name in self.model_arguments()}
        return self.model_class(**arguments, prompt_shifts=self.hparams["prompt_shifts"])

    def configure_model(self) -> None:
        """Create the model before training sets up its optimizer; otherwise a checkpoint comes first."""
        if self.trainer.state.fn == TrainerFn.FITTING:
            _ = self.model

    # ------------------------------------------------------------------ what anomalib asks of a model

    @property
    def learning_type(self) -> LearningType:
        """Few-shot with given weights, which only need prompts and thresholds; otherwise trained like one-class."""
        return LearningType.ONE_CLASS if self.hparams["weights"] is None else LearningType.FEW_SHOT

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Trainer settings that anomalib puts over the user's."""
        return {"num_sanity_val_steps": 0}

    def configure_pre_processor(self, image_size: tuple[int, int] | None = None) -> BackbonePreProcessor:  # type: ignore[override]
        """Preprocessing of the backbone in use.

        Args:
            image_size: Another input size; must be square.

        Returns:
            The pre-processor.

        Raises:
            ValueError: If the size is not square.
        """
        if image_size is not None and image_size[0] != image_size[1]:
            msg = f"image_size={image_size}: the backbone takes square images; give both sides the same length."
            raise ValueError(msg)
        side = image_size[0] if image_size is not None else self.hparams["image_size"]
        preprocessing = backbone_preprocessing(self.hparams["backbone"], self.hparams["pretrained"], side)
        return BackbonePreProcessor(
            preprocessing.image_size, self.hparams["resize_mode"], preprocessing.mean, preprocessing.std
        )

    def configure_post_processor(self) -> PostProcessor:
        """Anomalib's normalisation and thresholds, each where it is known."""
        return FewShotPostProcessor()

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """The metrics of the generalist protocol on raw scores."""
        return generalist_evaluator()

    @classmethod
    def configure_visualizer(cls) -> ExplanationVisualizer:
        """Anomalib's images and one explanation figure per image."""
        return ExplanationVisualizer()

    def configure_callbacks(self) -> list[Callback]:
        """Add the score table; make the results folder a versioned one."""
        # anomalib test, run before any train, creates a plain folder "latest", on which the next train would fail.
        root = Path(self.trainer.default_root_dir)
        if root.name == "latest" and not root.exists() and self.trainer.is_global_zero:
            create_versioned_dir(root.parent)
        callbacks = super().configure_callbacks()
        return [*(callbacks if isinstance(callbacks, Sequence) else [callbacks]), ScoreTable()]

    def val_dataloader(self) -> list[Any]:
        """No validation data where none is given.

        anomalib validates few-shot models before it predicts, and in its benchmark without passing the data.
        """
        return []

    # ------------------------------------------------------------------ prompts

    @property
    def prompt_files(self) -> dict[str, list[str]]:
        """Files of the prompts in use, by class name."""
        return self.model.bank.files

    @property
    def image_transform(self) -> Any:
        """What images ``(B, 3, H, W)`` go through before the backbone; None leaves them as they are."""
        # anomalib also takes a plain module, which it calls in exports alone.
        plain = None if isinstance(self.pre_processor, PreProcessor) else self.pre_processor
        return getattr(self.pre_processor, "transform", plain)

    def _collect_prompts(self) -> None:
        self._prompts.collect(self.model, self._datamodule, self.image_transform)
        writes = self.trainer.is_global_zero and not (self.trainer.fast_dev_run or self.trainer.barebones)  # type: ignore[attr-defined]
        if writes and any(self.prompt_files.values()):
            write_prompt_list(self.prompt_files, Path(self.trainer.default_root_dir))

    def _set_threshold(self) -> None:
        self._threshold.set(self.model, self.global_step, self.image_transform, self.post_processor)

    @property
    def normal_components(self) -> ScoreComponents | None:
        """Scores and maps ``(n, P)`` of the normal images that ``threshold="auto"`` is computed from; else None."""
        return self._threshold.normal_components

    # ------------------------------------------------------------------ training

    @abstractmethod
    def training_losses(self, batch: Any) -> dict[str, Tensor]:
        """Loss terms of a training batch by name: weighted scalars, whose sum is minimised."""

    def trainable_groups(self) -> dict[str, list[Parameter]]:
        """Parameters of each trainable part of the model, by its name.

        Returns:
            Those of ``image_scorer``, ``map_head``, ``dasl_branch`` and ``oasl_branch`` that the model has.
        """
        groups = {name: list(child.parameters()) for name, child in self.model.named_children() if name != "backbone"}
        return {name: parameters for name, parameters in groups.items() if parameters}

    @property
    def _datamodule(self) -> Any:
        return getattr(getattr(self, "_trainer", None), "datamodule", None)

    @property
    def _trains_heads(self) -> bool:
        # A stock datamodule has no abnormal images and no prompts per query; dataloaders may have.
        datamodule = self._datamodule
        return isinstance(datamodule, GeneralistDataModule) or not isinstance(datamodule, AnomalibDataModule)

    def setup(self, stage: str) -> None:
        """Let errors of damaged checkpoints and images name the file; give training a finite length."""
        strategy: Any = self.trainer.strategy
        if not isinstance(strategy.checkpoint_io, SafeCheckpointIO):
            strategy.checkpoint_io = SafeCheckpointIO(strategy.checkpoint_io)
        loop = getattr(self.trainer, f"{TrainerFn(stage).value}_loop")
        name_unreadable_files([loop._data_source.instance, *vars(self._datamodule or object).values()])
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

    def configure_optimizers(self) -> AdamW | None:
        """AdamW over the heads, as in the authors' code; none where they are not trained."""
        if not self._trains_heads:
            return None
        return AdamW(
            [parameter for parameter in self.model.parameters() if parameter.requires_grad],
            lr=self.hparams["learning_rate"],
            weight_decay=self.hparams["weight_decay"],
        )

    def on_fit_start(self) -> None:
        """Collect prompts; open the store of training images' features."""
        self._collect_prompts()
        self._training_features = TrainingFeatures.open(self.trainer, self.model.backbone, self.pre_processor)

    def on_train_epoch_start(self) -> None:
        """Encode the epoch's images that the store lacks."""
        if self._training_features is not None:
            loader: Any = self.trainer.train_dataloader
            steps = int(self.trainer.num_training_batches)
            self._training_features.fill(getattr(loader, "sampler", None), steps, "Encoding training images")

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Take videos frame by frame and depth data by its images; add cached features to a batch without pixels."""
        resizes = extract_transforms_by_type(self.image_transform, Resize)
        batch = as_images(super().on_before_batch_transfer(batch, dataloader_idx), resizes[0] if resizes else None)
        if self._training_features is not None and isinstance(batch, CachedBatch):
            return self._training_features.attach(batch)
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Preprocess what a user's own pre-processor leaves: a batch's prompts, by a plain module its images too."""
        batch = super().on_after_batch_transfer(batch, dataloader_idx)
        transform: Any = self.image_transform
        if transform is None or isinstance(self.pre_processor, BackbonePreProcessor) or not hasattr(batch, "image"):
            return batch
        if not isinstance(self.pre_processor, PreProcessor):
            batch.image = transform(batch.image)
        if (prompts := getattr(batch, "prompt_image", None)) is not None:
            batch.prompt_image = transform(prompts.flatten(0, 1)).unflatten(0, prompts.shape[:2])
        return batch

    def encode_batch(self, batch: Any) -> tuple[ImageFeatures, PromptContext]:
        """Features of a training batch's queries, and a context for each of them, encoded or cached."""
        if isinstance(batch, CachedBatch):
            assert batch.patches is not None
            assert batch.embeddings is not None
            features = ImageFeatures(batch.patches.float(), batch.embeddings.float())
            return self.model.split_pairs(features, batch.class_name)
        return self.model.encode_pairs(batch.image, batch.prompt_image, batch.class_name)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One step of the heads.

        Raises:
            PromptError: If the batch has no prompts.
        """
        del batch_idx
        if not self._trains_heads:
            return torch.zeros((), device=self.device, requires_grad=True)
        if not isinstance(batch, CachedBatch) and getattr(batch, "prompt_image", None) is None:
            msg = (
                "The training batch has no prompts (prompt_image). Train with GeneralistDataModule, which draws them "
                "for every query."
            )
            raise PromptError(msg)
        self.model.heads_trained = True
        losses = self.loss_terms = self.training_losses(batch)
        loss = torch.stack(list(losses.values())).sum()
        self.log_dict(
            {f"train_{name}": value for name, value in losses.items()},
            batch_size=len(batch),
            on_epoch=True,
            on_step=False,
        )
        self.log("train_loss", loss, batch_size=len(batch), prog_bar=True, on_epoch=True)
        return loss

    def on_before_backward(self, loss: Tensor) -> None:
        """Release the loss terms; callbacks have seen them before the model does."""
        del loss
        self.loss_terms = {}

    @property
    def needs_held_out_classes(self) -> bool:
        """Whether the datamodule is to keep auxiliary categories from the heads, to fit the fusion on."""
        return bool(self.hparams["fusion"] != "paper")

    def on_train_epoch_end(self) -> None:
        """Fit the fusion, unless validation in this epoch did."""
        self._fit_fusion()

    def _fit_fusion(self) -> None:
        """Fit the fusion to the heads as they are, on auxiliary categories that they are not trained on."""
        datamodule, fusion = self._datamodule, self.model.fusion
        if fusion is None or not isinstance(datamodule, GeneralistDataModule) or self._fused_at == self.global_step:
            return
        loader = datamodule.fusion_dataloader()
        if loader is None:
            if self._fused_at is None:  # once a training, not once an epoch
                logger.warning(
                    "fusion=%r is fitted on auxiliary categories that the heads are not trained on, and there are "
                    "fewer than six with normal and abnormal images: the score keeps the paper's weights.",
                    self.hparams["fusion"],
                )
            self._fused_at = self.global_step
            return
        if self._training_features is not None:
            self._training_features.fill(loader.sampler, len(loader), "Encoding images for the fusion")
        trains = self.model.training
        self.model.eval()
        components, labels = [], []
        # Outside inference mode, in which a validation may run: the store keeps what is encoded here.
        with torch.inference_mode(mode=False), torch.no_grad(), self.trainer.precision_plugin.forward_context():
            for index, batch in enumerate(loader):
                batch = self.trainer.strategy.batch_to_device(self.on_before_batch_transfer(batch, 0))  # noqa: PLW2901
                if isinstance(self.pre_processor, PreProcessor):
                    self.pre_processor.on_train_batch_start(self.trainer, self, batch, index)
                components.append(self.model.score_features(*self.encode_batch(batch)).stack(fusion.names).cpu())
                labels.append(batch.gt_label.cpu())
            fusion.fit(torch.cat(components), torch.cat(labels))
        self.model.train(trains)
        self._fused_at = self.global_step
        weights = ", ".join(f"{name} {weight:.2f}" for name, weight in zip(fusion.names, fusion.weight, strict=True))
        rank_zero_info(f"Fusion of the score, fitted on {', '.join(datamodule.held_out_classes())}: {weights}.")

    def on_fit_end(self) -> None:
        """Release the store of features, which is the datamodule's."""
        self._training_features = None

    # ------------------------------------------------------------------ scoring

    def on_validation_start(self) -> None:
        """Collect prompts; in training, fit the fusion that thresholds will be computed with."""
        if self.trainer.state.fn == TrainerFn.FITTING and self._trains_heads:
            self._fit_fusion()
        self._collect_prompts()

    def on_validation_epoch_end(self) -> None:
        """Put the threshold that the user asked for over that of the validation images."""
        self._set_threshold()

    def on_test_start(self) -> None:
        """Collect prompts; warn if untrained heads leave the training-free baseline, or if there is no threshold."""
        self._collect_prompts()
        self._set_threshold()
        self._warn_if_untrained()
        if self._has_no_threshold:
            logger.warning(
                "No threshold is known: images are scored, but not labelled. Give --model.threshold auto, which "
                "computes one from the prompts, or a number; or a checkpoint (--ckpt_path) that holds one."
            )

    on_predict_start = on_test_start

    @property
    def _has_no_threshold(self) -> bool:
        threshold: Any = getattr(self.post_processor, "image_threshold", None)
        return threshold is not None and bool(threshold.isnan())

    def _warn_if_untrained(self) -> None:
        if not self.model.heads_trained:
            logger.warning(
                "The heads are untrained: scores are those of the training-free baseline. Give trained heads with "
                "--model.weights or a checkpoint with --ckpt_path."
            )

    def validation_step(self, batch: Any, batch_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Score a batch; keep raw scores, maps and components in it for metrics and figures.

        Raises:
            ImageDataError: If a score is not finite, which no threshold would find; names the image.
        """
        del batch_idx, args, kwargs
        class_names = getattr(batch, "class_name", None) or self._prompts.class_name
        components = self.model.score_components(batch.image, class_names)
        wrong = (~components.score.isfinite()).nonzero().flatten().tolist()
        if wrong:
            name = batch.image_path[wrong[0]] if batch.image_path else f"image {wrong[0]} of the batch"
            finite = bool(batch.image[wrong[0]].isfinite().all())
            msg = (
                f"{name}: its score is not finite, because {'the model or its prompts hold' if finite else 'it holds'} "
                "NaN or infinite values."
            )
            raise ImageDataError(msg)
        batch.update(**self.model.to_inference_batch(components)._asdict())
        batch.raw_score, batch.raw_map, batch.components = batch.pred_score, batch.anomaly_map, components
        batch.p_value = self._threshold.p_values(components.score)
        if not isinstance(class_names, list):
            batch.class_name = [class_names or self.model.bank.class_names[0]] * len(batch)
        return batch

    test_step = validation_step
    predict_step = validation_step

    # ------------------------------------------------------------------ checkpoints

    def _adopt_settings(self, checkpoint: Mapping[str, Any], path: Path | None) -> None:
        """Take the settings that shape the model, and the preprocessing, from a checkpoint or a folder of heads."""
        source = self._settings_source = _name(path)
        saved = self._saved_settings(checkpoint, source)
        own = self.hparams["pretrained"] if self.hparams["backbone"] == saved["backbone"] else None
        folder = path if path is None or path.is_dir() else path.parent
        saved["pretrained"] = find_weights_file(saved["pretrained"], folder, own)
        for key in self.model_arguments():
            given = self.hparams[key]
            if given != saved[key]:
                level = logging.WARNING if key == "image_size" and given is not None else logging.INFO
                logger.log(level, "%s=%r is taken from %s, in place of %r.", key, saved[key], source, given)
                self.hparams[key] = saved[key]
        config = checkpoint.get(CHECKPOINT_KEY)
        if config is not None and isinstance(self.pre_processor, BackbonePreProcessor):
            if isinstance(config, Mapping) and "transform" in config:  # written with a user's own
                own_processor, self.pre_processor = self.pre_processor, PreProcessor()
                callbacks = getattr(getattr(self, "_trainer", None), "callbacks", [])
                if own_processor in callbacks:
                    callbacks[callbacks.index(own_processor)] = self.pre_processor
            else:
                check_preprocessing(config, source)
            self.pre_processor.load_checkpoint_config(config)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # the settings lie in the checkpoint; loading is strict and safe
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool = True,
        content: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Load a model; the file is read once, and code in it is never run.

        Backbone weights that the checkpoint names by a path that does not exist are looked for beside the checkpoint,
        or given as ``pretrained``.

        Args:
            checkpoint_path: The checkpoint.
            map_location: Device to put the model on; by default the CPU.
            hparams_file: Not used: a checkpoint holds its settings.
            strict: Not used: keys must match.
            weights_only: Not used: never anything but tensors and plain data.
            content: Content of the checkpoint, if it has been read already.
            kwargs: Arguments of the constructor to replace those in the checkpoint.

        Returns:
            The model, in eval mode.

        Raises:
            PretrainedWeightsError: If there is no such file.
            CheckpointError: If the file is damaged, holds code, or does not fit the model.
        """
        del hparams_file, strict, weights_only
        path = Path(checkpoint_path)
        checkpoint = read_checkpoint(path) if content is None else content
        saved = cls._saved_settings(checkpoint, str(path))
        saved["pretrained"] = find_weights_file(saved["pretrained"], path.parent)
        known = cls._arguments()
        module: Any = cls(**({name: value for name, value in saved.items() if name in known} | kwargs))
        module.restore(checkpoint | {"hyper_parameters": saved | kwargs}, path)
        module.load_state_dict(checkpoint["state_dict"])
        return module.to(map_location if isinstance(map_location, (str, torch.device)) else "cpu").eval()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Create the model that the checkpoint describes, and give its preprocessing to the datasets."""
        path = getattr(getattr(self, "_trainer", None), "ckpt_path", None)
        self.restore(checkpoint, Path(path) if path is not None and Path(path).is_file() else None)
        if isinstance(self._datamodule, AnomalibDataModule):
            # The datasets took over the resize of a model that was not yet the checkpoint's.
            self._datamodule.setup(self.trainer.state.fn)

    def restore(self, checkpoint: dict[str, Any], path: Path | None) -> None:
        """Create the model that a checkpoint describes and check that the rest fits; the state is loaded after it.

        Args:
            checkpoint: Content of the checkpoint.
            path: Its file, if it has one; weights that it names are looked for beside it.

        Raises:
            CheckpointError: If it does not fit.
        """
        source = _name(path)
        if "model" not in self._modules:
            self._heads = None  # the checkpoint has its own
            self._adopt_settings(checkpoint, path)
        config = checkpoint.get(CHECKPOINT_KEY)
        if (
            isinstance(config, Mapping)
            and "resize_mode" in config
            and not isinstance(self.pre_processor, BackbonePreProcessor | None)
        ):
            logger.warning("The pre_processor given is used, not that of %s, which was trained with another.", source)
            super().on_load_checkpoint({key: value for key, value in checkpoint.items() if key != CHECKPOINT_KEY})
        else:
            super().on_load_checkpoint(checkpoint)
        state = checkpoint.get("state_dict")
        if not isinstance(state, Mapping):
            msg = f"{source}: holds no state_dict. Give a checkpoint written by {type(self).__name__}."
            raise CheckpointError(msg)
        expected = self.state_dict() | self.model.state_dict(prefix="model.")
        found, wanted = (
            {key: value for key, value in entries.items() if not key.startswith("model.bank.")}
            for entries in (state, expected)
        )
        check_keys(found, wanted, source)
        inside = {key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")}
        self._prompts.restored = set(check_state(inside, self.model.backbone, source))
        if self._prompts.restored:
            self._keep_prompt_shifts(checkpoint["hyper_parameters"].get("prompt_shifts"), source)

    def _keep_prompt_shifts(self, saved: Any, source: str) -> None:
        """Encode new prompts like those of the checkpoint, which stay as they are."""
        try:
            check_arguments(FewShotModule.__init__, {"prompt_shifts": saved}, _LEAST)
        except ArgumentError as error:
            msg = f"{source}: damaged, {error}"
            raise CheckpointError(msg) from error
        if self.hparams["prompt_shifts"] not in {1, saved}:
            logger.warning(
                "prompt_shifts=%d is ignored: the prompts of %s were encoded with prompt_shifts=%d and stay as they "
                "are. To encode prompts again, give the checkpoint as --model.weights.",
                self.hparams["prompt_shifts"],
                source,
                saved,
            )
        self.hparams["prompt_shifts"] = self.model.prompt_shifts = saved

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out paths that the checkpoint makes unnecessary: weights and prompts are inside."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["hyper_parameters"] = dict(checkpoint["hyper_parameters"]) | {"weights": None, "prompts": None}

    def checkpoint_content(self) -> dict[str, Any]:
        """A checkpoint as Lightning's trainer writes it, without the state of a training."""
        checkpoint: dict[str, Any] = {
            "epoch": 0,
            "global_step": 0,
            "pytorch-lightning_version": lightning.__version__,
            "state_dict": self.state_dict(),
            "hparams_name": "kwargs",
            "hyper_parameters": dict(self.hparams),
        }
        self.on_save_checkpoint(checkpoint)
        return checkpoint

    # ------------------------------------------------------------------ Hugging Face Hub

    def _save_pretrained(self, save_directory: Path) -> None:
        save_heads(self.model, self._hub_config(), save_directory)

    def _hub_config(self) -> dict[str, Any]:
        settings = {name: self.hparams[name] for name in self.model_arguments()}
        return hub_config(type(self).__name__, self.model, settings, self.pre_processor)

    def generate_model_card(
        self,
        license: str | None = None,  # noqa: A002  # the Hub's name for it
        trained_on: str | None = None,
        scores: str | None = None,
        **kwargs: Any,
    ) -> ModelCard:
        """Write the card of shared heads; from ``save_pretrained`` its arguments go through ``model_card_kwargs``.

        Args:
            license: The Hub's identifier of the heads' licence. The data they were trained on may bind it.
            trained_on: The datasets that the heads were trained on.
            scores: Measured scores, and how they were measured, in Markdown.
            kwargs: Further metadata of the card.

        Returns:
            The card.
        """
        num_values = sum(tensor.numel() for tensor in self.model.head_tensors().values())
        return model_card(self._hub_config(), num_values, license, trained_on, scores, **kwargs)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> Any:
        for key in CONFIG_KEYS:  # which ModelHubMixin takes for arguments
            options.pop(key, None)
        names = ("revision", "cache_dir", "force_download", "local_files_only", "token")
        download_options = {name: options.pop(name) for name in names if name in options}
        folder = Path(model_id)
        if not folder.is_dir():
            folder = download(model_id, **download_options)
        return cls(**options, weights=str(folder)).eval()

    # ------------------------------------------------------------------ export

    def forward(self, batch: Tensor, class_name: str | None = None) -> InferenceBatch:
        """Preprocess, score and post-process images; the function that exports compute.

        Args:
            batch: Images of any size ``(B, 3, H, W)`` in [0, 1].
            class_name: Class whose prompts they are compared with. May be left out if the model holds one class, or
                was given a ``class_name`` that it holds.

        Returns:
            ``pred_score (B,)`` and ``anomaly_map (B, 1, H', W')`` of the backbone's size, normalised where the model
            has been validated, and by its thresholds ``pred_label`` and ``pred_mask``.

        Raises:
            PromptError: If no prompts are set for the class, or several classes have some and none is named.
        """
        images = self.pre_processor(batch) if self.pre_processor else batch
        result = self.model(images, class_name or self._default_class())
        return self.post_processor(result) if self.post_processor else result  # type: ignore[no-any-return]

    def _default_class(self) -> str | None:
        given: str | None = self.hparams["class_name"]
        return given if given in self.model.bank else None

    def to_torch(self, export_root: Path | str, model_file_name: str = "model") -> Path:
        """Export the whole model, backbone included. Its prompts can be changed after loading, by ``set_prompts``.

        Args:
            export_root: Folder; the file goes to ``weights/torch`` in it.
            model_file_name: Name of the file without ending.

        Returns:
            The file.

        Raises:
            PromptError: If the model has no prompts.
        """
        self._prepare_export()
        with atomic_export(export_root) as folder:
            path = super().to_torch(folder, model_file_name)
        return Path(export_root) / path.relative_to(folder)

    def to_onnx(  # type: ignore[override]  # anomalib's to_onnx differs from Lightning's
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        class_name: str | None = None,
        prompts_as_input: bool = False,
        **kwargs: Any,
    ) -> Path:
        """Export a graph from images to scores and maps, for one class.

        From the command line the arguments beyond anomalib's go through ``--onnx_kwargs``, as in
        ``--onnx_kwargs.class_name gear --onnx_kwargs.prompts_as_input true``.

        Args:
            export_root: Folder; the file goes to ``weights/onnx`` in it.
            model_file_name: Name of the file without ending.
            input_size: Height and width of the images; any if None. The batch may be of any length either way.
            class_name: Class to export, where the model holds prompts of several.
            prompts_as_input: Whether the graph takes the prompts as further inputs, in place of holding them. Those of
                the class are then written beside it, to ``<model_file_name>.prompts.npz``; see
                :meth:`save_prompt_inputs`.
            kwargs: Passed on to ``torch.onnx.export``.

        Returns:
            The file.

        Raises:
            PromptError: If the model has no prompts of the class, or several classes have some and none is named.
        """
        self._prepare_export()
        exported = class_name or self._default_class()
        self.model.bank.select(exported)
        resizes = extract_transforms_by_type(self.image_transform, Resize)
        plain = self.pre_processor is not None and self.image_transform is self.pre_processor
        if input_size is None and not (resizes or plain):
            input_size = self.model.backbone.image_size  # nothing in the graph resizes
        graph = ExportedGraph(self.model, self.pre_processor, self.post_processor, exported)
        with atomic_export(export_root) as folder:
            path = folder / "weights" / "onnx" / f"{model_file_name}.onnx"
            export_onnx(graph, path, input_size, prompts_as_input, kwargs)
            if prompts_as_input:
                self.save_prompt_inputs(path.with_name(f"{model_file_name}.prompts.npz"), exported)
        return Path(export_root) / path.relative_to(folder)

    def to_openvino(  # type: ignore[override]  # the rest by name
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        *,
        onnx_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Path:
        """Export to OpenVINO's format; see anomalib's ``to_openvino`` for the arguments not listed.

        Args:
            export_root: Folder; the files go to ``weights/openvino`` in it.
            model_file_name: Name of the files without ending.
            input_size: Height and width of the images; any if None.
            onnx_kwargs: Arguments of :meth:`to_onnx`, among them ``class_name`` and ``prompts_as_input``.
            kwargs: Passed on.

        Returns:
            The ``.xml`` file.

        Raises:
            PromptError: See :meth:`to_onnx`.
            ModuleNotFoundError: If OpenVINO is not installed.
        """
        if not module_available("openvino"):
            msg = "Export to OpenVINO needs the package openvino: pip install 'anomalib-inctrl[openvino]'."
            raise ModuleNotFoundError(msg, name="openvino")
        options = {"optimize": False} | (onnx_kwargs or {})  # OpenVINO simplifies the graph itself
        with atomic_export(export_root) as folder:
            path = super().to_openvino(folder, model_file_name, input_size, onnx_kwargs=options, **kwargs)
            if options.get("prompts_as_input"):
                self.save_prompt_inputs(path.with_name(f"{model_file_name}.prompts.npz"), options.get("class_name"))
        return Path(export_root) / path.relative_to(folder)

    def save_prompt_inputs(self, path: Path | str, class_name: str | None = None) -> Path:
        """Write the prompts of a class as the arrays that a graph exported with ``prompts_as_input`` takes.

        Args:
            path: An ``.npz`` file, written atomically; see
                :func:`anomalib_inctrl.models.components.export.write_prompt_inputs` for its content.
            class_name: Class; may be left out if the model holds one.

        Returns:
            The path.

        Raises:
            PromptError: If no prompts are set for the class, or several classes have some and none is named.
        """
        return write_prompt_inputs(path, self.model.bank.select(class_name or self._default_class()))

    def _prepare_export(self) -> None:
        """Encode the prompts that the user named; refuse to export without any, warn of what the file will lack."""
        class_name = self.hparams["class_name"]
        self._prompts.put_named_prompts(self.model, [name for name in [class_name] if name], self.image_transform)
        self._prompts.put_text_prompts(self.model, class_name)
        if len(self.model.bank):
            self._set_threshold()
        if not len(self.model.bank):
            msg = (
                "Nothing to export: the file would hold the prompts, and the model has none. Give normal images, "
                "--model.prompts FOLDER --model.class_name NAME, or a checkpoint that holds prompts, --ckpt_path "
                "CHECKPOINT; in Python model.model.set_prompts(images, class_name)."
            )
            raise PromptError(msg)
        self._warn_if_untrained()
        if isinstance(self.post_processor, FewShotPostProcessor):
            self.post_processor.known()  # asked here once more, as a graph that is being exported cannot
        if self._has_no_threshold:
            logger.warning(
                "The model has never been validated: scores stay raw, and there are no labels. Run `anomalib train` "
                "with --model.weights on labelled images first, to export thresholds too."
            )


def _name(path: Path | None) -> str:
    return "The checkpoint" if path is None else str(path)
