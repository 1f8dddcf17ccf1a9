# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Predict images in a browser: drop normal references and images to inspect, see heat maps and scores.

Nothing is downloaded with the default backbone, the package's demonstration encoder. Real use names OpenCLIP's:

  anomalib-inctrl app --backbone ViT-B-16-plus-240 --pretrained laion400m_e32 --weights trained.ckpt
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from anomalib_inctrl.backbones.packaged import DEMO_BACKBONE, DEMO_PRETRAINED
from anomalib_inctrl.errors import BackboneError, CheckpointError, PretrainedWeightsError

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Serve the page until interrupted.

    Args:
        argv: Arguments of the command.

    Returns:
        Exit status; 1 where the app cannot start.
    """
    parser = argparse.ArgumentParser(
        prog="anomalib-inctrl app", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--backbone", default=DEMO_BACKBONE, help="OpenCLIP model for the training-free baseline")
    add("--pretrained", default=DEMO_PRETRAINED, help="its pretrained tag, or a weights file")
    offered = "checkpoints to offer: files or folders"
    add("--weights", type=Path, nargs="+", default=[], metavar="CKPT", help=offered)
    shifts = "offsets along each axis at which normal references are encoded"
    add("--prompt_shifts", type=int, metavar="S", help=shifts)
    add("--device", help="where to compute, such as cuda:1; an accelerator by default, if there is one")
    address = "address to listen on; the default can be reached from this machine only"
    add("--host", default="127.0.0.1", help=address)
    add("--port", type=int, default=7860, help="port to listen on")
    add("--open", action="store_true", help="open the page in this machine's browser")
    args = parser.parse_args(argv)
    if importlib.util.find_spec("gradio") is None:
        print("The app needs Gradio: pip install 'anomalib-inctrl[app]'", file=sys.stderr)
        return 1
    # Set before Gradio is imported: no usage statistics are sent, and uploads are removed with the app.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # A plain kill ends the process by an exception too, so that the folder is removed.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="anomalib-inctrl-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder) / "uploads")
        try:
            _serve(args, Path(folder))
        except (BackboneError, CheckpointError, PretrainedWeightsError, ValueError, OSError) as error:
            print(error, file=sys.stderr)
            return 1
    return 0


def _serve(args: argparse.Namespace, folder: Path) -> None:
    from anomalib_inctrl.app.service import MOST_MEGABYTES, UNTRAINED, PredictionService

    service = PredictionService(args.weights, args.backbone, args.pretrained, args.device, args.prompt_shifts)
    service.detector(service.models[0], UNTRAINED)  # reports a wrong backbone here, not in the browser
    from anomalib_inctrl.app.page import CSS, THEME, build_page

    options = {"share": False, "quiet": True, "footer_links": [], "ssr_mode": False, "mcp_server": False}
    page = build_page(service, folder).queue(max_size=32)
    if args.host not in ("127.0.0.1", "::1", "localhost"):
        print(f"Listening on {args.host}: whoever reaches this machine can use the app, there is no password.")
    print(f"http://{args.host}:{args.port}  (end with Ctrl+C)", flush=True)
    options |= {"theme": THEME, "css": CSS, "max_file_size": MOST_MEGABYTES * 2**20, "inbrowser": args.open}
    try:
        page.launch(server_name=args.host, server_port=args.port, **options)
    except OSError as error:
        msg = f"Cannot listen on {args.host}, port {args.port}: {error} Choose another with --host and --port."
        raise OSError(msg) from error
