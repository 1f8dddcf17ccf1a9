# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What the speed benchmarks share: interleaved timing, the machine's description, JSON and tables.

Ratios are taken within a run: in each round every candidate is called once, in turn, so that whatever else the machine
does meets all of them. Reported are medians over the rounds, and of the ratios within a round.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import anomalib
import torch
from rich.console import Console
from rich.table import Table

from anomalib_inctrl import InCTRLModel, InCTRLv2Model, __version__
from anomalib_inctrl.backbones.openclip import create_openclip_model
from anomalib_inctrl.io.files import write_text_atomic
from anomalib_inctrl.models.components.few_shot_model import FewShotModel
from anomalib_inctrl.models.components.prompt_bank import PromptContext
from anomalib_inctrl.models.components.residuals import unit

FULL_SIZE, MINIATURE = "ViT-B-16-plus-240", "mini-clip-16-240"
MODELS: dict[str, type[FewShotModel]] = {"InCTRL": InCTRLModel, "InCTRLv2": InCTRLv2Model}
CLASS_NAME = "object"
NOT_RUN = "not run"


def parser_of(doc: str | None, rounds: int) -> argparse.ArgumentParser:
    """Arguments that all benchmarks have.

    Args:
        doc: Docstring of the script.
        rounds: Default number of rounds.

    Returns:
        The parser.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--backbone", default=FULL_SIZE, help="OpenCLIP model, with random weights")
    parser.add_argument("--rounds", type=int, default=rounds, help="rounds after a first one that does not count")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of PyTorch")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu counts the processor time of all threads of this process, which other processes do not add to; "
        "with one thread its ratios are those of an idle machine, but for shared caches and memory",
    )
    return parser


def prepare(args: argparse.Namespace) -> None:
    """Set threads, and silence notices that would bury the table."""
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)


def time_interleaved(
    candidates: Mapping[str, Callable[[], Any]], rounds: int, clock: str = "wall", device: str = "cpu"
) -> dict[str, list[float]]:
    """Time candidates in turn.

    Args:
        candidates: What to call, by name.
        rounds: How often each is timed; one more call before warms up.
        clock: ``wall`` or ``cpu``.
        device: Device that is waited for.

    Returns:
        Seconds of each round, by name.
    """
    now = time.process_time if clock == "cpu" else time.perf_counter

    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    for call in candidates.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            wait()
            start = now()
            call()
            wait()
            seconds[name].append(now() - start)
    return seconds


def over(seconds: Mapping[str, Sequence[float]], name: str, reference: str) -> float:
    """Median over the rounds of a candidate's time over the reference's."""
    return median(one / other for one, other in zip(seconds[name], seconds[reference], strict=True))


def make_model(name: str, clip: Any, k_shot: int, heads_trained: bool = True, prompt_shifts: int = 1) -> FewShotModel:
    """A model on a shared backbone that takes all its parts into account, with random heads and prompts.

    Args:
        name: In :data:`MODELS`.
        clip: The OpenCLIP module.
        k_shot: Number of prompts.
        heads_trained: Whether the heads score.
        prompt_shifts: Offsets along each axis at which prompts are seen.

    Returns:
        The model, its prompts set without encoding any sentence.
    """
    torch.manual_seed(0)
    model, device = MODELS[name](clip), next(clip.parameters()).device
    if device.type != "cpu":
        model = model.to(device)
    model.heads_trained = heads_trained
    backbone = model.backbone
    shape = k_shot * prompt_shifts**2, len(backbone.blocks), backbone.num_patches, backbone.patch_width
    context = PromptContext(
        unit(torch.randn(shape, device=device)),
        torch.randn(k_shot, backbone.embed_dim, device=device),
        unit(torch.randn(2, backbone.embed_dim, device=device)),
    )
    model.bank.put(CLASS_NAME, context)
    return model


def random_clip(name: str, device: str = "cpu") -> Any:
    """An OpenCLIP model with random weights, in evaluation mode."""
    return create_openclip_model(name, None).eval().requires_grad_(requires_grad=False).to(device)


def machine(args: argparse.Namespace) -> dict[str, Any]:
    """Describe hardware, software and settings of a run."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "accelerator": accelerator,
        "load_at_start": load,
        "python": platform.python_version(),
        "versions": {
            "anomalib_inctrl": __version__,
            "anomalib": anomalib.__version__,
            "torch": torch.__version__,
            "open_clip_torch": version("open_clip_torch"),
        },
        "settings": settings,
    }


def report(args: argparse.Namespace, title: str, rows: Sequence[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    """Print the table and write the JSON file.

    Args:
        args: The run's arguments.
        title: Title of the table.
        rows: Lines; numbers are shown with three digits.
        more: What else goes into the file.

    Returns:
        What was written.
    """
    content = {"title": title, "machine": machine(args), "rows": list(rows), **more}
    write_text_atomic(args.output, json.dumps(content, indent=2) + "\n")
    about = content["machine"]
    place = about["accelerator"] if args.device.startswith("cuda") else about["processor"]
    caption = f"{place}, {args.threads} CPU thread(s), {args.clock} clock, load {about['load_at_start']:.1f}"
    table = Table(title=title, caption=caption)
    for column in rows[0]:
        table.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right", no_wrap=True)
    for row in rows:
        table.add_row(*[f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()])
    Console().print(table)
    return content
