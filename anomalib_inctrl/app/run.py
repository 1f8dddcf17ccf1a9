# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Predict images in a browser: drop normal references and images to inspect, see heat maps and scores.

Nothing is downloaded with the default backbone, the package's demonstration encoder. Real use names OpenCLIP's:

  anomalib-inctrl app --backbone ViT-B-16-plus-240 --pretrained laion400m_e32 --weights trained.ckpt
"""

from __future__ import annotations

import argparse
import importlib.util
import ipaddress
import os
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from anomalib_inctrl.backbones.packaged import DEMO_BACKBONE, DEMO_PRETRAINED
from anomalib_inctrl.errors import BackboneError, CheckpointError, PretrainedWeightsError

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOOPBACK = "127.0.0.1"


def main(argv: Sequence[str]) -> int:
    """Serve the page until interrupted.

    Args:
        argv: Arguments of the command.

    Returns:
        Exit status; 1 where the app cannot start.
    """
    args = _parse(argv)
    if importlib.util.find_spec("gradio") is None:
        print("The app needs Gradio: pip install 'anomalib-inctrl[app]'", file=sys.stderr)
        return 1
    # Set before Gradio is imported: no usage statistics are sent, and uploads are removed with the app.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # A plain kill ends the process by an exception too, so that the folder is removed.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="anomalib-inctrl-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder) / "uploads")
        return _serve(args, Path(folder))


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="anomalib-inctrl app", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default=DEMO_BACKBONE, help="OpenCLIP model for the training-free baseline")
    parser.add_argument("--pretrained", default=DEMO_PRETRAINED, help="its pretrained tag, or a weights file")
    parser.add_argument(
        "--weights", type=Path, nargs="+", default=[], metavar="CKPT", help="checkpoints to offer: files or folders"
    )
    parser.add_argument(
        "--prompt_shifts", type=int, metavar="S", help="offsets along each axis at which normal references are encoded"
    )
    parser.add_argument("--device", help="where to compute, such as cuda:1; an accelerator by default, if there is one")
    parser.add_argument(
        "--host", default=_LOOPBACK, help="address to listen on; the default can be reached from this machine only"
    )
    parser.add_argument("--port", type=int, default=7860, help="port to listen on")
    parser.add_argument("--open", action="store_true", help="open the page in this machine's browser")
    return parser.parse_args(argv)


def _serve(args: argparse.Namespace, folder: Path) -> int:
    from anomalib_inctrl.app.service import UNTRAINED, PredictionService

    try:
        service = PredictionService(
            args.weights, args.backbone, args.pretrained, args.device, prompt_shifts=args.prompt_shifts
        )
        service.detector(service.models[0], UNTRAINED)  # reports a wrong backbone here, not in the browser
        _check_port(args.host, args.port)
    except (BackboneError, CheckpointError, PretrainedWeightsError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    from anomalib_inctrl.app.page import CSS, THEME, build_page

    page = build_page(service, folder, render_example)
    page.queue(max_size=32)
    if not _is_loopback(args.host):
        print(f"Listening on {args.host}: whoever reaches this machine can use the app, there is no password.")
    print(f"http://{args.host}:{args.port}  (end with Ctrl+C)", flush=True)
    page.launch(
        server_name=args.host,
        server_port=args.port,
        inbrowser=args.open,
        share=False,
        quiet=True,
        max_file_size=service.limits.megabytes * 2**20,
        footer_links=[],
        theme=THEME,
        css=CSS,
        ssr_mode=False,
        mcp_server=False,
    )
    return 0


def render_example(folder: Path) -> tuple[list[str], str, list[str]]:
    """Render the example: paths of normal references, what they show, and paths of images to inspect."""
    from anomalib_inctrl.demo import DemoSettings, render_category

    settings = DemoSettings(train_count=4, test_normal_count=3, test_anomalous_count=5)
    category = render_category(folder / "example", "washer", settings)
    paths = {}
    for split in ("train", "test"):
        (folder / split).mkdir(exist_ok=True)
        # Uploads lose their folder, so the file name takes it over.
        paths[split] = [
            str(shutil.copyfile(path, folder / split / f"{path.parent.name}_{path.name}"))
            for path in sorted((category / split).rglob("*.png"))
        ]
    return paths["train"], "washer", paths["test"]


def _check_port(host: str, port: int) -> None:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        msg = f"Cannot listen on {host}, port {port}: {error}. Choose another with --host and --port."
        raise OSError(msg) from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
