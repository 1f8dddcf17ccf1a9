# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Export to torch, ONNX and OpenVINO: the prompts travel inside the file, or enter the graph as inputs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from anomalib.data import InferenceBatch
from lightning_utilities.core.imports import module_available
from torch import Tensor, nn

from anomalib_inctrl.errors import PromptError
from anomalib_inctrl.io import replaced_whole
from anomalib_inctrl.models.components.prompting import PromptingMixin
from anomalib_inctrl.models.components.restoring import RestoringMixin
from anomalib_inctrl.prompts.bank import PromptContext

logger = logging.getLogger(__name__)

PROMPT_INPUTS = ("prompt_patches", "prompt_image", "text_prototypes")

# The first opset with everything the graph uses; anomalib asks for 14, to which the exporter then fails to convert.
_OPSET = 18
# One file holds at most 2 GiB of protobuf; larger weights go to a second file beside it.
_SINGLE_FILE_BYTES = 1_800_000_000


class ExportMixin(PromptingMixin, RestoringMixin):
    """Exports of both Lightning modules. A part of :class:`FewShotMixin`."""

    # Class that `forward` scores where none is said, while a graph is traced.
    _exported_class: str | None = None

    def forward(self, batch: Tensor, class_name: str | None = None) -> InferenceBatch:
        """Preprocess, score and post-process images; what exports compute.

        Args:
            batch: Images of any size ``(B, 3, H, W)`` in [0, 1].
            class_name: Class whose prompts they meet. May be left out if the model holds one class, or was given
                a ``class_name`` that it holds.

        Returns:
            ``pred_score (B,)`` and ``anomaly_map (B, 1, H', W')`` of the backbone's size, normalised where the model
            has been validated, and by its thresholds ``pred_label`` and ``pred_mask``.

        Raises:
            PromptError: If no prompts are set for the class, or several classes have some and none is named.
        """
        images = self.pre_processor(batch) if self.pre_processor else batch
        result = self.model(images, class_name or self._class_to_score())
        return self.post_processor(result) if self.post_processor else result  # type: ignore[no-any-return]

    def _class_to_score(self) -> str | None:
        if self._exported_class is not None:
            return self._exported_class
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
        with _written_whole(export_root) as folder:
            path = super().to_torch(folder, model_file_name).relative_to(folder)
        return Path(export_root) / path

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
        exported = class_name or self._class_to_score()
        self.model.bank.select(exported)
        kwargs = {"opset_version": _OPSET, "external_data": self._bytes > _SINGLE_FILE_BYTES} | kwargs
        with _written_whole(export_root) as folder:
            if prompts_as_input:
                path = self._to_onnx_with_prompts(folder, model_file_name, input_size, kwargs)
                self.save_prompt_inputs(path.with_name(f"{model_file_name}.prompts.npz"), exported)
            else:
                self._exported_class = exported
                try:
                    path = super().to_onnx(folder, model_file_name, input_size, **kwargs)
                finally:
                    self._exported_class = None
            path = path.relative_to(folder)
        return Path(export_root) / path

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
        with _written_whole(export_root) as folder:
            path = super().to_openvino(folder, model_file_name, input_size, onnx_kwargs=options, **kwargs)
            if options.get("prompts_as_input"):
                target = path.with_name(f"{model_file_name}.prompts.npz")
                self.save_prompt_inputs(target, options.get("class_name") or self._class_to_score())
            path = path.relative_to(folder)
        return Path(export_root) / path

    def save_prompt_inputs(self, path: Path | str, class_name: str | None = None) -> Path:
        """Write the prompts of a class as the arrays that a graph exported with ``prompts_as_input`` takes.

        Args:
            path: An ``.npz`` file, written whole. It holds ``prompt_patches (K, L, P, D_v)`` (with ``prompt_shifts``
                several times as many), ``prompt_image (K, D)`` and ``text_prototypes (2, D)``, float32.
            class_name: Class; may be left out if the model holds one.

        Returns:
            The path.

        Raises:
            PromptError: If no prompts are set for the class, or several classes have some and none is named.
        """
        context = self.model.bank.select(class_name or self._class_to_score())
        tensors = (context.patches, context.image, context.prototypes)
        arrays = {name: tensor.float().cpu().numpy() for name, tensor in zip(PROMPT_INPUTS, tensors, strict=True)}
        with replaced_whole(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        return Path(path)

    def _prepare_export(self) -> None:
        """Gather the prompts the user named; refuse to export without any, say what else the file will lack."""
        self._put_named_prompts([name for name in [self.hparams["class_name"]] if name])
        self._put_text_prompts(self.hparams["class_name"])
        if not len(self.model.bank):
            msg = (
                "Nothing to export: the file would hold the prompts, and the model has none. Give normal images, "
                "--model.prompts FOLDER --model.class_name NAME, or a checkpoint that holds prompts, --ckpt_path "
                "CHECKPOINT; in Python model.model.set_prompts(images, class_name)."
            )
            raise PromptError(msg)
        self._warn_if_untrained()
        threshold: Any = getattr(self.post_processor, "image_threshold", None)
        if threshold is not None and bool(threshold.isnan()):
            logger.warning(
                "The model has never been validated: scores stay raw, and no threshold decides about labels. Run "
                "`anomalib train` with --model.weights on labelled images first, to export thresholds too."
            )

    @property
    def _bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.model.parameters())

    def _to_onnx_with_prompts(
        self, export_root: Path, model_file_name: str, input_size: tuple[int, int] | None, kwargs: dict[str, Any]
    ) -> Path:
        path = export_root / "weights" / "onnx" / f"{model_file_name}.onnx"
        path.parent.mkdir(parents=True)
        backbone = self.model.backbone
        # Two of everything that is to stay open: the exporter takes a one for a constant.
        images = torch.zeros(2, 3, *(input_size or backbone.image_size), device=self.device)
        patches = torch.zeros(4, len(backbone.layers), backbone.num_patches, backbone.patch_width, device=self.device)
        prompts = torch.zeros(2, backbone.embed_dim, device=self.device)
        prototypes = torch.zeros(2, backbone.embed_dim, device=self.device)
        # Each prompt's patches may be there at several offsets.
        batch, k_shot, views = (torch.export.Dim(name) for name in ("batch_size", "k_shot", "prompt_views"))
        sides = {} if input_size else {2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
        graph = _PromptedGraph(self).eval()
        example = (images, patches, prompts, prototypes)
        torch.onnx.export(
            graph,
            example,
            str(path),
            input_names=["input", *PROMPT_INPUTS],
            output_names=[name for name, value in graph(*example)._asdict().items() if value is not None],
            dynamic_shapes=({0: batch} | sides, {0: views}, {0: k_shot}, None),
            dynamo=True,
            **kwargs,
        )
        return path


class _PromptedGraph(nn.Module):
    """Images and a class's prompts to scores and maps."""

    def __init__(self, module: ExportMixin) -> None:
        super().__init__()
        self.module = module

    def forward(self, image: Tensor, patches: Tensor, prompts: Tensor, prototypes: Tensor) -> InferenceBatch:
        pre_processor, model, post_processor = self.module.pre_processor, self.module.model, self.module.post_processor
        query = model.backbone.encode_image(pre_processor(image) if pre_processor else image)
        result = model.inference_batch(model.score_features(query, PromptContext(patches, prompts, prototypes)))
        return post_processor(result) if post_processor else result


@contextmanager
def _written_whole(export_root: Path | str) -> Iterator[Path]:
    """Give a temporary folder, whose files are put in place under ``export_root`` at the end, or not at all."""
    root = Path(export_root)
    root.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".export-", dir=root) as folder:
        yield Path(folder)
        files = [file for file in Path(folder).rglob("*") if file.is_file()]
        # The file that is opened comes last, when the weights and prompts that belong to it are in place.
        files.sort(key=lambda file: (file.suffix in {".pt", ".onnx", ".xml"}, file))
        for file in files:
            target = root / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
