# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Shared by the speed benchmarks: interleaved timing, models with random weights, tables and JSON.

Ratios are taken within a run: each round calls every candidate once, in turn, so that other load on the machine affects
all of them. Reported are medians over the rounds, and of the ratios within a round.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from anomalib_inctrl import InCTRLModel, InCTRLv2Model
from anomalib_inctrl.backbones.openclip import create_openclip_model
from anomalib_inctrl.io.files import write_text_atomic
from anomalib_inctrl.models.components.few_shot_model import FewShotModel
from anomalib_inctrl.models.components.prompt_bank import PromptContext
from anomalib_inctrl.models.components.residuals import unit

FULL_SIZE, MINIATURE = "ViT-B-16-plus-240", "mini-clip-16-240"
MODELS: dict[str, type[FewShotModel]] = {"InCTRL": InCTRLModel, "InCTRLv2": InCTRLv2Model}
CLASS_NAME = "object"
NOT_RUN = "not run"


def parser_of(doc: str | None, rounds: int = 1) -> argparse.ArgumentParser:
    """Arguments that all speed benchmarks have.

    Args:
        doc: Docstring of the script.
        rounds: Default number of rounds.

    Returns:
        The parser.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--backbone", default=FULL_SIZE, help="OpenCLIP model, with random weights")
    parser.add_argument("--rounds", type=int, default=rounds, help="timed rounds, after one to warm up")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of PyTorch")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    clock_help = "cpu counts processor time of this process alone; with one thread it ignores the load of others"
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help=clock_help)
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the arguments, set the threads, and silence notices that would hide the table."""
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    return args


def clock_of(args: argparse.Namespace) -> Callable[[], float]:
    """The clock to time with, in seconds."""
    return time.process_time if args.clock == "cpu" else time.perf_counter


def time_interleaved(candidates: Mapping[str, Callable[[], Any]], args: argparse.Namespace) -> dict[str, list[float]]:
    """Time candidates in turn.

    Args:
        candidates: Calls to time, by name.
        args: The run's arguments.

    Returns:
        Seconds of each round, by name.
    """
    now = clock_of(args)
    wait = torch.cuda.synchronize if args.device.startswith("cuda") else lambda: None
    for call in candidates.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(args.rounds):
        for name, call in candidates.items():
            wait()
            start = now()
            call()
            wait()
            seconds[name].append(now() - start)
    return seconds


def ratio(seconds: Mapping[str, Sequence[float]], name: str, reference: str) -> float:
    """Median over the rounds of a candidate's time relative to the reference's."""
    return median(one / other for one, other in zip(seconds[name], seconds[reference], strict=True))


def random_clip(name: str, device: str = "cpu") -> Any:
    """An OpenCLIP model with random weights, in evaluation mode."""
    return create_openclip_model(name, None).eval().requires_grad_(requires_grad=False).to(device)


def make_model(name: str, clip: Any, k_shot: int, prompt_shifts: int = 1) -> FewShotModel:
    """A model on a shared backbone with random heads that score, and random prompts.

    Args:
        name: In :data:`MODELS`.
        clip: The OpenCLIP module.
        k_shot: Number of prompts.
        prompt_shifts: Offsets along each axis at which prompts are seen.

    Returns:
        The model, its prompts set without encoding any sentence.
    """
    torch.manual_seed(0)
    device = next(clip.parameters()).device
    model = MODELS[name](clip)
    if device.type != "cpu":
        model = model.to(device)
    model.heads_trained = True
    backbone = model.backbone
    shape = k_shot * prompt_shifts**2, len(backbone.blocks), backbone.num_patches, backbone.patch_width
    context = PromptContext(
        unit(torch.randn(shape, device=device)),
        torch.randn(k_shot, backbone.embed_dim, device=device),
        unit(torch.randn(2, backbone.embed_dim, device=device)),
    )
    model.bank.put(CLASS_NAME, context)
    return model


def report(args: argparse.Namespace, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the table; write it as JSON with hardware and versions, if asked to.

    Args:
        args: The run's arguments.
        title: Title of the table.
        rows: Lines; numbers are shown with three digits.
    """
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.is_file() else None
    machine = {
        "processor": found[1] if found else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_at_end": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": {name: version(name) for name in ("anomalib_inctrl", "anomalib", "torch", "open_clip_torch")},
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()},
    }
    if args.output:
        write_text_atomic(args.output, json.dumps({"title": title, "machine": machine, "rows": rows}, indent=2) + "\n")
    place = machine["accelerator" if args.device.startswith("cuda") else "processor"]
    table = Table(title=title, caption=f"{place}, {args.threads} CPU thread(s), {args.clock} clock")
    for column, value in rows[0].items():
        table.add_column(column, justify="left" if isinstance(value, str) else "right", no_wrap=True)
    for row in rows:
        table.add_row(*[f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()])
    # Without a terminal rich assumes a narrow one.
    Console(width=None if Console().is_terminal else 160).print(table)
