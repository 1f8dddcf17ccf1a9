# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``anomalib-inctrl convert-weights``: the InCTRL authors' released weights to a checkpoint."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save

from anomalib_inctrl.backbones import OpenCLIPBackbone
from anomalib_inctrl.backbones.openclip import create_without_weights
from anomalib_inctrl.errors import BackboneError, CheckpointError, PretrainedWeightsError, PromptError
from anomalib_inctrl.io.files import write_bytes_atomic
from anomalib_inctrl.io.weights import file_sha256, write_checkpoint
from anomalib_inctrl.models.inctrl import InCTRL, InCTRLModel
from anomalib_inctrl.models.inctrl.official import (
    from_official,
    load_official_weights,
    read_official_state_dict,
    read_prompt_tensors,
)

_BACKBONE = "ViT-B-16-plus-240"


def main(argv: Sequence[str] | None = None) -> int:
    """Convert a file and print the files written.

    Args:
        argv: Arguments without the program's name; those of the process if None.

    Returns:
        0, or 1 with a line on standard error if a file or the backbone does not fit, or nothing can be written.
    """
    parser = argparse.ArgumentParser(
        prog="anomalib-inctrl convert-weights",
        description="Convert the InCTRL authors' released weights (.pyth) to a checkpoint of InCTRL here. "
        "The files are read as tensors: code in them is refused, not run.",
    )
    parser.add_argument("source", type=Path, help="the authors' .pyth file")
    parser.add_argument("output", type=Path, help="the checkpoint to write")
    parser.add_argument("--backbone", default=_BACKBONE, help="OpenCLIP model of the image backbone_file (%(default)s)")
    parser.add_argument(
        "--pretrained",
        help="OpenCLIP tag or file whose weights equal the backbone in the source; by default the backbone is written "
        "beside the checkpoint, and found there wherever both are moved",
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        nargs="+",
        default=[],
        help="the authors' few-shot .pt files, or a folder of them, to put into the checkpoint; class names are the "
        "files' names",
    )
    args = parser.parse_args(argv)
    try:
        written = from_official_file(args.source, args.output, args.backbone, args.pretrained, args.prompts)
    except (BackboneError, CheckpointError, OSError) as error:  # OSError: no such file, or no writing there
        print(f"convert-weights: {error}", file=sys.stderr)
        return 1
    print(f"read   {args.source}  sha256 {file_sha256(args.source)}")
    for path in written:
        print(f"wrote  {path}  {path.stat().st_size / 1e6:.1f} MB")
    return 0


def from_official_file(
    source: Path, output: Path, backbone: str = _BACKBONE, pretrained: str | None = None, prompts: Sequence[Path] = ()
) -> list[Path]:
    """Convert the authors' weights to a checkpoint of :class:`anomalib_inctrl.InCTRL`.

    Args:
        source: The authors' ``.pyth`` file.
        output: Checkpoint to write, atomically. It holds the heads and, if given, prompts, and names the
            backbone.
        backbone: OpenCLIP model of the image backbone_file.
        pretrained: OpenCLIP tag or file of weights equal to the backbone in the source; None writes these beside the
            checkpoint, as ``<output's name>.backbone.safetensors``.
        prompts: The authors' few-shot files, or folders of them. A file's name is its class name.

    Returns:
        The files written, the checkpoint last.

    Raises:
        BackboneError: If OpenCLIP has no such backbone, or it is no plain vision transformer.
        PretrainedWeightsError: If a file does not exist.
        CheckpointError: If a file is damaged, holds code, does not fit, or is of other weights than ``pretrained``.
    """
    official = read_official_state_dict(source)
    clip, _ = from_official(official)
    options: dict[str, Any] = {
        "backbone": backbone,
        "pretrained": None,
        "resize_mode": "center_crop",
        "fusion": "paper",
    }
    model = InCTRL(**options, visualizer=False).eval()
    network = InCTRLModel(backbone=create_without_weights(backbone), resize_mode="center_crop")
    network.backbone.name = backbone
    try:
        load_official_weights(network, official)
    except CheckpointError as error:
        msg = f"{source}: {error}"
        raise CheckpointError(msg) from error
    for file in _prompt_files(prompts):
        images = read_prompt_tensors(file, network.backbone.image_size)
        try:
            network.set_prompts(images, file.stem, [str(file)])
        except PromptError as error:
            msg = f"{file}: {error}"
            raise CheckpointError(msg) from error
    written = []
    if pretrained is None:
        backbone_file = output.with_name(f"{output.stem}.backbone.safetensors")
        content = {name: official[name].contiguous() for name in clip if name in official}
        written.append(write_bytes_atomic(backbone_file, save(content)))
        pretrained = str(backbone_file.resolve())
    elif Path(pretrained).is_file():
        pretrained = str(Path(pretrained).resolve())
    if not written:
        named = OpenCLIPBackbone(backbone, pretrained)
        if named.fingerprint != network.backbone.fingerprint:
            msg = (
                f"{source}: its backbone is not pretrained={pretrained!r} of {backbone} (fingerprint "
                f"{network.backbone.fingerprint[:16]}..., there {named.fingerprint[:16]}...). Leave --pretrained out: "
                f"the backbone is then written beside the checkpoint."
            )
            raise CheckpointError(msg)
    model.hparams["pretrained"] = network.backbone.pretrained = pretrained
    model.model = network
    return [*written, write_checkpoint(output, model.checkpoint_content())]


def _prompt_files(sources: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for source in sources:
        found = sorted(source.glob("*.pt")) if source.is_dir() else [source]
        if not found:
            msg = f"{source}: holds no .pt files. Give the authors' few-shot files or their folder."
            raise PretrainedWeightsError(msg)
        files += found
    names = [file.stem for file in files]
    if double := sorted({name for name in names if names.count(name) > 1}):
        msg = f"Several few-shot files for the same class name: {double}. Give one number of shots at a time."
        raise CheckpointError(msg)
    return files
