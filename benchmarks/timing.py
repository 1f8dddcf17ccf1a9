# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Shared by the benchmarks: arguments, interleaved timing, towers and models, tables as Markdown and JSON.

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
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
from anomalib.engine import Engine
from torch import Tensor

from anomalib_inctrl import InCTRL, InCTRLv2
from anomalib_inctrl.backbones import Backbone
from anomalib_inctrl.backbones.packaged import DEMO_BACKBONE, DEMO_PRETRAINED
from anomalib_inctrl.io.files import write_text_atomic
from anomalib_inctrl.models.components.few_shot_model import FewShotModel
from anomalib_inctrl.models.components.prompt_bank import PromptContext
from anomalib_inctrl.models.components.residuals import unit

FULL_SIZE, DEMO = "ViT-B-16-plus-240", "demonstration encoder"
# Random weights where none are at hand: the cost is the same.
TOWERS: dict[str, dict[str, Any]] = {
    FULL_SIZE: {"backbone": FULL_SIZE, "pretrained": None},
    "DINOv2 ViT-S/14 at 448": {"backbone": "timm/vit_small_patch14_dinov2", "pretrained": None, "image_size": 448},
    DEMO: {"backbone": DEMO_BACKBONE, "pretrained": DEMO_PRETRAINED},
}
MODELS: dict[str, Any] = {"InCTRL": InCTRL, "InCTRLv2": InCTRLv2}
NOT_RUN = "not run"
Name = TypeVar("Name", bound=Hashable)


def script_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser that shows the script's docstring as it is written."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def parser_of(doc: str | None, rounds: int = 1) -> argparse.ArgumentParser:
    """Arguments that all speed benchmarks have."""
    parser = script_parser(doc)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=rounds, help="timed rounds, after one to warm up")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of PyTorch")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    clock_help = "cpu counts processor time of this process alone; with one thread it ignores the load of others"
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help=clock_help)
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the arguments, set the threads, and silence notices that would hide the table."""
    args = parser.parse_args(argv)
    torch.set_num_threads(vars(args).get("threads", torch.get_num_threads()))
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    return args


def clock_of(args: argparse.Namespace) -> Callable[[], float]:
    """The clock to time with, in seconds."""
    return time.process_time if args.clock == "cpu" else time.perf_counter


def time_interleaved(candidates: Mapping[Name, Callable[[], Any]], args: argparse.Namespace) -> dict[Name, list[float]]:
    """Time candidates in turn."""
    now = clock_of(args)
    wait = torch.cuda.synchronize if args.device.startswith("cuda") else lambda: None
    for call in candidates.values():
        call()
    seconds: dict[Name, list[float]] = {name: [] for name in candidates}
    for _ in range(args.rounds):
        for name, call in candidates.items():
            wait()
            start = now()
            call()
            wait()
            seconds[name].append(now() - start)
    return seconds


def ratio(seconds: Mapping[Name, Sequence[float]], name: Name, reference: Name) -> float:
    """Median over the rounds of a candidate's time relative to the reference's."""
    return median(one / other for one, other in zip(seconds[name], seconds[reference], strict=True))


def bare_tower(backbone: Backbone) -> Callable[[Tensor], Any]:
    """The library's own forward pass, as it is called without this package."""
    return backbone.network.encode_image if backbone.has_text else backbone.network  # type: ignore[no-any-return]


def add_prompts(model: FewShotModel, shots: Sequence[int]) -> FewShotModel:
    """Let random heads score, and put random prompts of classes ``"K = 1"`` and so on into the bank."""
    torch.manual_seed(0)
    model.heads_trained = True
    backbone = model.backbone
    device = backbone.device
    for k_shot in shots:
        shape = k_shot, len(backbone.blocks), backbone.num_patches, backbone.patch_width
        prototypes = torch.randn(2 if backbone.has_text else 0, backbone.embed_dim, device=device)
        embeddings = torch.randn(k_shot, backbone.embed_dim, device=device)
        context = PromptContext(unit(torch.randn(shape, device=device)), embeddings, unit(prototypes))
        model.bank.put(f"K = {k_shot}", context)
    return model


def report(args: argparse.Namespace, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Print tables of rows; if asked to, write them as JSON with hardware and versions, and as Markdown beside it."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    found = re.search(r"model name\s*: (.*)", text)
    sets = [name for name in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8") if name in text]
    machine = {
        "processor": found[1] if found else platform.processor() or platform.machine(),
        "instruction_sets": sets,
        "cores": os.cpu_count(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_at_end": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": {name: version(name) for name in ("anomalib_inctrl", "anomalib", "torch", "open_clip_torch")},
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()},
    }
    where = machine["accelerator"] if args.device.startswith("cuda") else f"{machine['processor']} ({', '.join(sets)})"
    note = f"{where or NOT_RUN}, {args.threads} CPU thread(s), {args.clock} clock, PyTorch {torch.__version__}\n"
    markdown = "\n".join([note, *(f"## {title}\n\n{_table(rows)}" for title, rows in tables.items())])
    print(markdown)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        content = {"machine": machine, "tables": tables}
        write_text_atomic(args.output, json.dumps(content, indent=2, default=str) + "\n")
        write_text_atomic(args.output.with_suffix(".md"), markdown)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return f"{NOT_RUN}\n"
    cells = [[f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows]
    return markdown(list(rows[0]), cells, [name for name, value in rows[0].items() if isinstance(value, str)])


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], words: Collection[str]) -> str:
    """A table in Markdown; columns that are not ``words`` are numbers, at the right."""
    lines = [header, ["---" if name in words else "---:" for name in header], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def train_heads(module: Any, datamodule: Any, folder: Path, **options: Any) -> Path:
    """Train by anomalib's engine, one epoch by default; gives the checkpoint."""
    options = {"max_epochs": 1, "limit_val_batches": 0} | options
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    engine = Engine(default_root_dir=folder, **quiet, **options)
    engine.fit(module, datamodule=datamodule)
    return Path(str(engine.best_model_path))
