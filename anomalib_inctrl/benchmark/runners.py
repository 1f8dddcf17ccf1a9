# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Runs jobs one after the other, over processes of this machine, or over machines by Ray.

Each runner yields a job with its result as soon as that is there. A job that fails yields its error and does not stop
the others.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from threading import Thread
from typing import Any

import torch

from anomalib_inctrl.benchmark.config import RayConfig
from anomalib_inctrl.benchmark.jobs import WORKER_INDEX, CategoryJob
from anomalib_inctrl.benchmark.measurement import CategoryResult
from anomalib_inctrl.errors import BenchmarkError

JobResults = Iterator[tuple[CategoryJob, CategoryResult | Exception]]


def run_serially(jobs: Sequence[CategoryJob]) -> JobResults:
    """Run jobs one after the other, in this process.

    Args:
        jobs: Jobs to run.

    Yields:
        Each job with its result or error.
    """
    for job in jobs:
        try:
            result: CategoryResult | Exception = job.run()
        except Exception as error:  # a category that fails does not stop the others
            result = error
        yield job, result


def run_in_processes(jobs: Sequence[CategoryJob], workers: int) -> JobResults:
    """Run jobs in processes of this machine, which share its cores and GPUs.

    Args:
        jobs: Jobs to run.
        workers: Number of processes.

    Yields:
        Each job with its result or error.

    Raises:
        BenchmarkError: If a process dies.
    """
    # A server that has imported everything starts workers fast. A plain fork would copy threads and a GPU in use.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([__name__])
    workers = max(1, min(workers, len(jobs)))
    indices = context.Queue()
    for index in range(workers):
        indices.put(index)
    threads = max(1, torch.get_num_threads() // workers)
    with ProcessPoolExecutor(workers, context, _start_worker, (indices, threads)) as pool:
        futures = {pool.submit(job.run): job for job in jobs}
        try:
            for future in as_completed(futures):
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    msg = (
                        "A worker process died, perhaps for lack of memory. Finished results are kept: start again, "
                        "with fewer workers if it was memory."
                    )
                    raise BenchmarkError(msg) from error
                yield futures.pop(future), error if isinstance(error, Exception) else future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start_worker(indices: Any, threads: int) -> None:
    os.environ[WORKER_INDEX] = str(indices.get())
    torch.set_num_threads(threads)
    Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    # A worker would wait for work forever if its parent was killed.
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def run_on_ray(jobs: Sequence[CategoryJob], options: RayConfig) -> JobResults:
    """Run jobs on machines by Ray, which retries those whose worker or machine died.

    Args:
        jobs: Jobs to run.
        options: Address, resources and retries.

    Yields:
        Each job with its result or error.

    Raises:
        BenchmarkError: If Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        msg = "ray: Ray is not installed. Install it with `pip install anomalib-inctrl[ray]`, or leave ray out."
        raise BenchmarkError(msg) from error
    started = not ray.is_initialized()
    if started:
        ray.init(address=options.address, include_dashboard=False, log_to_driver=False)
    # Ray retries only after the death of a worker: an error in a job would occur again.
    task = ray.remote(num_cpus=options.cpus, num_gpus=options.gpus, max_retries=options.retries)(_run_job)
    try:
        waiting = {task.remote(job): job for job in jobs}
        while waiting:
            (done, *_), _ = ray.wait(list(waiting), num_returns=1)
            job = waiting.pop(done)
            try:
                yield job, ray.get(done)
            except ray.exceptions.RayTaskError as error:
                yield job, error.cause if isinstance(error.cause, Exception) else error
            except ray.exceptions.RayError as error:
                yield job, error
    finally:
        if started:
            ray.shutdown()


def _run_job(job: CategoryJob) -> CategoryResult:
    return job.run()
