# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Where the PyTorch model of a Lightning module comes from: its arguments, trained heads, or a checkpoint."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import torch
from lightning.pytorch.trainer.states import TrainerFn

from anomalib_inctrl.errors import CheckpointError
from anomalib_inctrl.hub import read_heads
from anomalib_inctrl.models.components.checkpoint_checks import check_values, naming
from anomalib_inctrl.preprocessing import CHECKPOINT_KEY, CLIPPreProcessor
from anomalib_inctrl.prompts.shifts import check_prompt_shifts
from anomalib_inctrl.weights import check_keys, find_weights_file, read_checkpoint

if TYPE_CHECKING:
    from anomalib.models import AnomalibModule as _Base

    from anomalib_inctrl.models.components.few_shot import FewShotModel
else:
    _Base = object

logger = logging.getLogger(__name__)


class RestoringMixin(_Base):
    """Builds the PyTorch model when first needed, after a checkpoint had its say. A part of :class:`FewShotMixin`.

    A subclass names in ``architecture`` those of its arguments that shape the model: a checkpoint decides them,
    whatever the command line says.
    """

    architecture: tuple[str, ...]
    model: FewShotModel
    # Classes whose prompts are a checkpoint's.
    _restored_prompts: set[str]

    def _init_restoring(self) -> None:
        """Read the trained heads that the arguments name, to be put into the model once there is one."""
        self._restored_prompts = set()
        self._heads: dict[str, Any] | None = None
        if self.hparams["weights"] is not None:
            weights = str(self.hparams["weights"])
            self._heads = read_heads(weights, type(self).__name__)
            with naming(weights):
                self._adopt(self._heads, weights, Path(weights))

    @abstractmethod
    def build_model(self) -> FewShotModel:
        """Create the PyTorch model from ``self.hparams``."""

    def __getattr__(self, name: str) -> Any:
        """Build the PyTorch model on first access."""
        if name == "model" and "model" not in self._modules:
            source = str(self.hparams["weights"])
            with naming(source) if self._heads is not None else nullcontext():
                # Heads start from the model's own seed: anomalib's command line does not pass on --seed_everything.
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(self.hparams["seed"])
                    model = self.build_model().to(self.device).train(self.training)
                if self._heads is not None:
                    _load_heads(model, self._heads, source)
            self.model = model  # not before its heads are in it: whoever asks again is told again
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
        config = checkpoint.get(CHECKPOINT_KEY)
        if config is not None and isinstance(self.pre_processor, CLIPPreProcessor):
            self.pre_processor.load_checkpoint_config(config)

    def _warn_if_untrained(self) -> None:
        if not self.model.heads_trained:
            logger.warning(
                "The heads are untrained: scores are the training-free floor, (text score + patch score) / 2. "
                "Give trained heads with --model.weights or a checkpoint with --ckpt_path."
            )

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
            if self._restored_prompts:
                self._keep_offsets(checkpoint.get("hyper_parameters", {}).get("prompt_shifts", 1), source)

    def _keep_offsets(self, saved: int, source: str) -> None:
        """See new prompts as those of the checkpoint, which stay as they are, were seen."""
        check_prompt_shifts(saved)
        given = self.hparams["prompt_shifts"]
        if given not in {1, saved}:
            logger.warning(
                "prompt_shifts=%d has no say: the prompts of %s stay as they were seen, prompt_shifts=%d. To set "
                "prompts anew, give the checkpoint as --model.weights.",
                given,
                source,
                saved,
            )
        self.hparams["prompt_shifts"] = self.model.prompt_shifts = saved


def _load_heads(model: FewShotModel, checkpoint: Mapping[str, Any], source: str) -> None:
    """Load trained heads, leaving the saved prompts behind."""
    state = {
        key.removeprefix("model."): value
        for key, value in checkpoint["state_dict"].items()
        if key.startswith("model.") and not key.startswith("model.bank.")
    }
    own = model.state_dict()
    state |= {key: value for key, value in own.items() if key.startswith("bank.")}
    check_keys(state, own, source)
    check_values(state, model.backbone, source)
    model.load_state_dict(state)
