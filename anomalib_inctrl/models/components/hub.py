# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Trained heads as a folder that can be shared on the Hugging Face Hub: tensors, settings, card.

The backbone is named, not copied: OpenCLIP model, pretrained tag and fingerprint, which is checked when the heads are
loaded. Prompts are left out: they are the user's images.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData, snapshot_download
from safetensors.torch import save

from anomalib_inctrl.backbones.preprocessing import CHECKPOINT_KEY
from anomalib_inctrl.errors import CheckpointError, PretrainedWeightsError
from anomalib_inctrl.io.files import write_bytes_atomic, write_text_atomic
from anomalib_inctrl.io.weights import read_checkpoint, tensors_sha256
from anomalib_inctrl.models.components.few_shot_model import FewShotModel
from anomalib_inctrl.version import __version__

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
HUB_PREFIX = "hf-hub:"
CONFIG_KEYS = ("format", "library", "model", "hyper_parameters", "tensors_sha256", "tower", "preprocessing")
_FORMAT = 2
_CARD_TEMPLATE = Path(__file__).with_name("model_card.md.jinja")


def save_heads(model: FewShotModel, config: dict[str, Any], folder: Path) -> None:
    """Write tensors, then settings: a folder without settings is one whose writing was interrupted.

    Args:
        model: The model with its trained heads.
        config: See :func:`hub_config`.
        folder: Folder to write to.

    Raises:
        CheckpointError: If the heads are untrained.
    """
    if not model.heads_trained:
        msg = "The heads are untrained: there is nothing to share. Train them, or load a checkpoint with weights=."
        raise CheckpointError(msg)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.head_tensors().items()}
    write_bytes_atomic(folder / WEIGHTS_FILE, save(tensors))
    write_text_atomic(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")


def model_card(
    config: dict[str, Any],
    num_values: int,
    licence: str | None,
    trained_on: str | None,
    scores: str | None,
    **metadata: Any,
) -> ModelCard:
    """Write the card of shared heads, of ``num_values`` values; see :meth:`.FewShotModule.generate_model_card`."""
    backbone: str = config["tower"]["backbone"]
    tags = ["anomaly-detection", "anomalib", "few-shot", "inctrl"]
    card: ModelCard = ModelCard.from_template(
        ModelCardData(library_name="anomalib", license=licence, tags=tags, **metadata),
        template_str=_CARD_TEMPLATE.read_text(encoding="utf-8"),
        model=config["model"],
        num_values=num_values,
        backbone=config["tower"] | {"library": "timm" if backbone.startswith("timm/") else "OpenCLIP"},
        settings={name: repr(value) for name, value in config["hyper_parameters"].items()},
        trained_on=trained_on or "not stated",
        licence=licence or "not stated",
        scores=scores or "Not stated.",
    )
    return card


def hub_config(name: str, model: FewShotModel, settings: dict[str, Any], pre_processor: Any) -> dict[str, Any]:
    """Describe heads: everything that is needed to load them but their tensors, the content of ``config.json``.

    Args:
        name: Name of the Lightning class.
        model: The model.
        settings: Its arguments that shape the model.
        pre_processor: Its preprocessing.

    Returns:
        Plain data.
    """
    if isinstance(settings["pretrained"], str) and Path(settings["pretrained"]).is_file():
        settings = settings | {"pretrained": Path(settings["pretrained"]).name}
    config = {
        "format": _FORMAT,
        "library": f"anomalib-inctrl {__version__}",
        "model": name,
        "hyper_parameters": settings,
        "tensors_sha256": tensors_sha256(model.head_tensors()),
        # Not called "backbone": ModelHubMixin would pass a key named like an argument to the constructor.
        "tower": model.backbone.get_extra_state() | {"pretrained": settings["pretrained"]},
    }
    if hasattr(pre_processor, "checkpoint_config"):
        config["preprocessing"] = pre_processor.checkpoint_config()
    return config


def read_heads(source: str, model: str) -> dict[str, Any]:
    """Read trained heads.

    Args:
        source: A checkpoint, a folder written by ``save_pretrained``, or ``hf-hub:USER/NAME``.
        model: Name of the model class they are for.

    Returns:
        A checkpoint: ``state_dict`` with the Lightning module's names, ``hyper_parameters``, preprocessing.

    Raises:
        PretrainedWeightsError: If there is nothing, or it cannot be downloaded.
        CheckpointError: If it is damaged, holds code, or is of another model.
    """
    if source.startswith(HUB_PREFIX):
        return _read_folder(download(source.removeprefix(HUB_PREFIX)), model)
    return _read_folder(Path(source), model) if Path(source).is_dir() else read_checkpoint(source)


def download(repository: str, **options: Any) -> Path:
    """Download shared heads, unless they are in the cache.

    Args:
        repository: ``USER/NAME``.
        options: Of ``huggingface_hub.snapshot_download``.

    Returns:
        Their folder.

    Raises:
        PretrainedWeightsError: If they cannot be downloaded.
    """
    try:
        return Path(snapshot_download(repository, allow_patterns=[CONFIG_FILE, WEIGHTS_FILE], **options))
    except Exception as error:
        msg = (
            f"{repository!r} is not a folder here and could not be downloaded from the Hub ({type(error).__name__}: "
            f"{error}). Without a connection, fetch {CONFIG_FILE} and {WEIGHTS_FILE} elsewhere and give their folder."
        )
        raise PretrainedWeightsError(msg) from error


def _read_folder(folder: Path, model: str) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        found, number = config["model"], config["format"]
        settings, backbone = dict(config["hyper_parameters"]), dict(config["tower"])
    except FileNotFoundError as error:
        msg = f"{folder}: holds no {CONFIG_FILE}. Give a folder written by save_pretrained, or a checkpoint file."
        raise PretrainedWeightsError(msg) from error
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{path}: not written by save_pretrained of this package, or damaged: {type(error).__name__}: {error}"
        raise CheckpointError(msg) from error
    if found != model or number != _FORMAT:
        msg = f"{path}: holds {found} (format {number}), not {model} (format {_FORMAT}). Load it with {found}."
        raise CheckpointError(msg)
    tensors = read_checkpoint(folder / WEIGHTS_FILE)
    if tensors_sha256(tensors) != config.get("tensors_sha256"):
        msg = (
            f"{folder / WEIGHTS_FILE}: damaged or of another {CONFIG_FILE}, its SHA-256 differs. Get the folder again."
        )
        raise CheckpointError(msg)
    state = {f"model.{name}": tensor for name, tensor in tensors.items()}
    state |= {"model._extra_state": {"heads_trained": True}, "model.backbone._extra_state": backbone}
    checkpoint = {"state_dict": state, "hyper_parameters": settings}
    return checkpoint | ({CHECKPOINT_KEY: config["preprocessing"]} if "preprocessing" in config else {})
