# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Parts of the export to torch, ONNX and OpenVINO: prompts inside the file, or as inputs of the graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn

from anomalib_inctrl.io.files import atomic_path
from anomalib_inctrl.models.components.few_shot_model import FewShotModel
from anomalib_inctrl.models.components.prompt_bank import PromptContext

PROMPT_INPUTS = ("prompt_patches", "prompt_embeddings", "text_prototypes")
"""Inputs of a graph for the prompts; a backbone without text encoder has no text prototypes."""

# The first opset with everything the graph uses; anomalib asks for 14, to which the exporter then fails to convert.
_OPSET = 18
# One file holds at most 2 GiB of protobuf; larger weights go to a second file beside it.
_SINGLE_FILE_BYTES = 1_800_000_000


class ExportedGraph(nn.Module):
    """Images to scores and maps, as an exported graph computes them.

    Args:
        model: The model.
        pre_processor: Its preprocessing, or None.
        post_processor: Its normalisation and thresholds, or None.
        class_name: Class whose prompts in the bank the graph holds, unless they are inputs.
    """

    def __init__(self, model: FewShotModel, pre_processor: Any, post_processor: Any, class_name: str | None) -> None:
        super().__init__()
        self.model, self.pre_processor, self.post_processor = model, pre_processor, post_processor
        self.class_name = class_name

    def forward(
        self,
        image: Tensor,
        patches: Tensor | None = None,
        embeddings: Tensor | None = None,
        prototypes: Tensor | None = None,
    ) -> InferenceBatch:
        """Score images; see :func:`write_prompt_inputs` for the shapes of prompts that are inputs."""
        if patches is None or embeddings is None:
            context = self.model.bank.select(self.class_name)
        else:
            context = PromptContext(patches, embeddings, embeddings[:0] if prototypes is None else prototypes)
        query = self.model.backbone.encode_image(self.pre_processor(image) if self.pre_processor else image)
        result = self.model.to_inference_batch(self.model.score_query(query, context))
        return self.post_processor(result) if self.post_processor else result


def export_onnx(
    graph: ExportedGraph,
    path: Path,
    input_size: tuple[int, int] | None,
    prompts_as_input: bool,
    options: dict[str, Any],
) -> None:
    """Export a graph from images, and with ``prompts_as_input`` from :data:`PROMPT_INPUTS`, to scores and maps.

    Args:
        graph: The model with its preprocessing and post-processing.
        path: File to write; its folder is created.
        input_size: Height and width of the images; any if None.
        prompts_as_input: Whether prompts are inputs.
        options: Of ``torch.onnx.export``.
    """
    path.parent.mkdir(parents=True)
    backbone = graph.eval().model.backbone
    # Two of everything that is to stay open: the exporter takes a one for a constant.
    example = [torch.zeros(2, 3, *(input_size or backbone.image_size))]
    shapes: list[Any] = [{0: torch.export.Dim("batch_size")}]
    if input_size is None:
        shapes[0] |= {2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    if prompts_as_input:
        # The patches of each prompt may be there at several offsets.
        example.append(torch.zeros(4, len(backbone.blocks), backbone.num_patches, backbone.patch_width))
        example.append(torch.zeros(2, backbone.embed_dim))
        shapes += [{0: torch.export.Dim("prompt_views")}, {0: torch.export.Dim("k_shot")}]
        if backbone.has_text:
            example.append(torch.zeros(2, backbone.embed_dim))
            shapes.append(None)
    inputs = tuple(tensor.to(backbone.device) for tensor in example)
    size = sum(tensor.numel() * tensor.element_size() for tensor in backbone.parameters())
    defaults: dict[str, Any] = {
        "opset_version": _OPSET,
        "external_data": size > _SINGLE_FILE_BYTES,
        "input_names": ["input", *PROMPT_INPUTS[: len(inputs) - 1]],
        "output_names": [name for name, value in graph(*inputs)._asdict().items() if value is not None],
        "dynamic_shapes": tuple(shapes),
        "dynamo": True,
    }
    torch.onnx.export(graph, inputs, str(path), **defaults | options)


def write_prompt_inputs(path: Path | str, context: PromptContext) -> Path:
    """Write prompts as the arrays that a graph with prompt inputs takes.

    Args:
        path: An ``.npz`` file, written atomically. It holds ``prompt_patches (K, L, P, D_v)`` (with ``prompt_shifts``
            several times as many), ``prompt_embeddings (K, D)`` and, with a text encoder, ``text_prototypes (2, D)``,
            float32.
        context: The prompts.

    Returns:
        The path.
    """
    tensors = (context.patches, context.embeddings, context.prototypes)
    named = zip(PROMPT_INPUTS, tensors, strict=True)
    arrays = {name: tensor.float().cpu().numpy() for name, tensor in named if len(tensor) or name != PROMPT_INPUTS[-1]}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return Path(path)


@contextmanager
def atomic_export(export_root: Path | str) -> Iterator[Path]:
    """Yield a temporary folder whose files are moved to ``export_root`` at the end, or not at all."""
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
