# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Processes of their own, for tests that kill them or let them fork.

They are forks of a server that has imported the package and started no thread. A fork of the tests' own process lacks
the threads that other tests started, and can die of it or wait for ever for what they held.
"""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from unittest import mock

import pytest

# PyTorch forbids a fork to fork again once the driver was asked for GPUs, as anomalib's import does.
WITHOUT_GPU = {"CUDA_VISIBLE_DEVICES": "", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
PRELOADED = ["anomalib.engine", "anomalib_inctrl.models", "anomalib_inctrl.benchmark", "tests.processes"]

needs_fork = pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="importing everything each time takes long"
)


def start_process(function: Callable[..., object], *arguments: object) -> BaseProcess:
    """Start a process that runs a function of a module."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=function, args=arguments)
    with mock.patch.dict(os.environ, WITHOUT_GPU):
        process.start()
    return process


def run_process(function: Callable[..., object], *arguments: object, seconds: float = 200) -> int:
    """Run a function of a module in a process; its exit status, or minus the signal that ended it."""
    process = start_process(function, *arguments)
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        pytest.fail(f"{function.__name__} did not end within {seconds} s")
    return process.exitcode
