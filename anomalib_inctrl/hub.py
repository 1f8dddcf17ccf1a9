# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Trained heads as a folder that can be shared on the Hugging Face Hub: tensors, settings, card.

The backbone is named, not copied: OpenCLIP model, pretrained tag, and the SHA-256 of its tensors, which is checked when
the heads are loaded. Prompts stay out: they are the user's pictures.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin, snapshot_download
from safetensors.torch import save

from anomalib_inctrl.errors import CheckpointError, PretrainedWeightsError
from anomalib_inctrl.io import write_whole, write_whole_bytes
from anomalib_inctrl.preprocessing import CHECKPOINT_KEY
from anomalib_inctrl.weights import read_checkpoint, tensors_sha256

if TYPE_CHECKING:
    from anomalib.models import AnomalibModule as _Base

    from anomalib_inctrl.models.components.few_shot import FewShotModel
else:
    _Base = object

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
HUB_PREFIX = "hf-hub:"
_FORMAT = 1


class HubMixin(ModelHubMixin, _Base):  # type: ignore[misc]  # anomalib's to_onnx differs from Lightning's
    """``save_pretrained``, ``push_to_hub`` and ``from_pretrained`` of both Lightning modules."""

    model: FewShotModel
    architecture: tuple[str, ...]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # ModelHubMixin's __new__(*args, **kwargs) would hide the constructor's arguments from help() and editors.
        _self, *arguments = inspect.signature(cls.__init__).parameters.values()
        cls.__signature__ = inspect.Signature(arguments)  # type: ignore[attr-defined]

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write tensors, then settings: a folder without settings is one whose writing was interrupted."""
        if not self.model.heads_trained:
            msg = "The heads are untrained: there is nothing to share. Train them, or load a checkpoint with weights=."
            raise CheckpointError(msg)
        tensors = {name: tensor.cpu().contiguous() for name, tensor in self.model.head_tensors().items()}
        write_whole_bytes(save_directory / WEIGHTS_FILE, save(tensors))
        write_whole(save_directory / CONFIG_FILE, json.dumps(self._hub_config(), indent=2) + "\n")

    def _hub_config(self) -> dict[str, Any]:
        from anomalib_inctrl import __version__

        backbone = self.model.backbone
        settings = {name: self.hparams[name] for name in self.architecture}
        is_file = settings["pretrained"] is not None and Path(settings["pretrained"]).is_file()
        settings["pretrained"] = Path(settings["pretrained"]).name if is_file else settings["pretrained"]
        reference = backbone.get_extra_state() | {"sha256": backbone.sha256, "pretrained": settings["pretrained"]}
        config = {
            "format": _FORMAT,
            "library": f"anomalib-inctrl {__version__}",
            "model": type(self).__name__,
            "hyper_parameters": settings,
            "tensors_sha256": tensors_sha256(self.model.head_tensors()),
            "tower": reference,  # no key may be called like an argument: ModelHubMixin would pass it on
        }
        pre_processor: Any = self.pre_processor
        if hasattr(pre_processor, "checkpoint_config"):
            config["preprocessing"] = pre_processor.checkpoint_config()
        return config

    def generate_model_card(
        self,
        license: str | None = None,  # noqa: A002  # the Hub's name for it
        trained_on: str | None = None,
        scores: str | None = None,
        **kwargs: Any,
    ) -> ModelCard:
        """Write the card of the folder; from ``save_pretrained`` its arguments go through ``model_card_kwargs``.

        Args:
            license: The Hub's identifier of the heads' licence. The data they were trained on may bind it.
            trained_on: What the heads were trained on.
            scores: What was measured with them, and how, in Markdown.
            kwargs: Further metadata of the card.

        Returns:
            The card.
        """
        config = self._hub_config()
        backbone, name = config["tower"], config["model"]
        data = ModelCardData(
            library_name="anomalib",
            license=license,
            tags=["anomaly-detection", "anomalib", "few-shot", "inctrl"],
            **kwargs,
        )
        reconstruction = "" if name == "InCTRL" else " A reconstruction: its authors have published no code."
        settings = "\n".join(f"| `{key}` | `{value!r}` |" for key, value in config["hyper_parameters"].items())
        count = sum(tensor.numel() for tensor in self.model.head_tensors().values())
        text = f"""# {name}, trained heads

Few-shot generalist anomaly detection with [anomalib](https://github.com/open-edge-platform/anomalib) and the package
`anomalib-inctrl`.{reconstruction} Show it a few normal images of a thing, and it scores others of that thing.

```python
from anomalib_inctrl import {name}

model = {name}.from_pretrained("REPOSITORY")
```

or `--model {name} --model.weights {HUB_PREFIX}REPOSITORY` on anomalib's command line.

| | |
|---|---|
| Tensors | heads only, {count} values; no prompts, no thresholds |
| Backbone, not included | OpenCLIP `{backbone["backbone"]}`, pretrained `{backbone["pretrained"]}` |
| Its blocks in use | {", ".join(map(str, backbone["layers"]))} |
| Backbone's tensors, SHA-256 | `{backbone["sha256"]}` |
| Trained on | {trained_on or "not stated"} |
| Licence | {license or "not stated"} |

## Settings

| argument | value |
|---|---|
{settings}

## Scores

{scores or "Not stated."}
"""
        return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        **model_kwargs: Any,
    ) -> Any:
        folder = Path(model_id)
        if not folder.is_dir():
            folder = _download(
                model_id,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
        return cls(**model_kwargs, weights=str(folder)).eval()


def read_heads(source: str, model: str) -> dict[str, Any]:
    """Read trained heads from wherever a user keeps them.

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
        return _read_folder(_download(source.removeprefix(HUB_PREFIX)), model)
    return _read_folder(Path(source), model) if Path(source).is_dir() else read_checkpoint(source)


def _download(repository: str, **options: Any) -> Path:
    try:
        return Path(snapshot_download(repository, allow_patterns=[CONFIG_FILE, WEIGHTS_FILE], **options))
    except Exception as error:
        msg = (
            f"{repository!r} is no folder here and could not be downloaded from the Hub ({type(error).__name__}: "
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
