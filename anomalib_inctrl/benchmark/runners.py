# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Where jobs run: one after the other, over processes of this machine, or over machines by Ray.

Each is an anomalib runner that hands over what a job gave as soon as it is there. The scheduling is that of
``concurrent.futures`` and of Ray.
"""

from __future__ import annotations

import multiprocessing
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from threading import Thread
from typing import Any

import torch
from anomalib.pipelines.components.base import Runner

from anomalib_inctrl.benchmark.config import RayConfig
from anomalib_inctrl.benchmark.jobs import WORKER_INDEX, CategoryJob, JobPlanner
from anomalib_inctrl.benchmark.outcome import Outcome
from anomalib_inctrl.errors import BenchmarkError

Result = Outcome | BaseException
Receiver = Callable[[CategoryJob, Result], None]


class StreamingRunner(Runner):
    """Runs jobs and hands over what each gave, or why it failed, at once; a job that fails does not stop the others.

    Args:
        generator: Says what jobs there are.
        receive: Called in this process, one job at a time.
    """

    def __init__(self, generator: JobPlanner, receive: Receiver) -> None:
        super().__init__(generator)
        self.receive = receive

    def run(self, args: dict[str, Any] | None = None, prev_stage_results: Any = None) -> None:
        """Run all jobs.

        Args:
            args: Handed to the generator.
            prev_stage_results: Handed to the generator.
        """
        self.run_jobs(list(self.generator(args, prev_stage_results)))  # type: ignore[arg-type]

    def run_jobs(self, jobs: Sequence[CategoryJob]) -> None:
        """Run given jobs.

        Args:
            jobs: What to run.
        """
        for job, result in self.stream(jobs):
            self.receive(job, result)

    @abstractmethod
    def stream(self, jobs: Sequence[CategoryJob]) -> Iterator[tuple[CategoryJob, Result]]:
        """Run jobs and yield each as it ends."""


class SerialRunner(StreamingRunner):
    """One job after the other, in this process.

    Args:
        generator: Says what jobs there are.
        receive: Called after each job.
        progress: Told how many images of the present job are done.
    """

    def __init__(
        self, generator: JobPlanner, receive: Receiver, progress: Callable[[CategoryJob, int], None] | None = None
    ) -> None:
        super().__init__(generator, receive)
        self.progress = progress

    def stream(self, jobs: Sequence[CategoryJob]) -> Iterator[tuple[CategoryJob, Result]]:
        """Run jobs and yield each as it ends."""
        for job in jobs:
            told = job if self.progress is None else replace(job, progress=partial(self.progress, job))
            try:
                result: Result = told.run()
            except Exception as error:  # whatever it is, the other categories can be measured
                result = error
            yield job, result


class ProcessRunner(StreamingRunner):
    """Jobs spread over processes of this machine; each process takes the next GPU, if there are any.

    Args:
        generator: Says what jobs there are.
        receive: Called in this process, one job at a time.
        workers: Number of processes.
    """

    def __init__(self, generator: JobPlanner, receive: Receiver, workers: int) -> None:
        super().__init__(generator, receive)
        self.workers = workers

    def stream(self, jobs: Sequence[CategoryJob]) -> Iterator[tuple[CategoryJob, Result]]:
        """Run jobs and yield each as it ends.

        Raises:
            BenchmarkError: If a process dies.
        """
        if not jobs:
            return
        # A server that has imported everything makes a worker in no time; never a fork of this process, which may
        # have threads and a GPU in use.
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        context: Any = multiprocessing.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload([__name__])
        workers = min(self.workers, len(jobs))
        numbers = context.Queue()
        for number in range(workers):
            numbers.put(number)
        threads = max(1, torch.get_num_threads() // workers)
        with ProcessPoolExecutor(workers, context, _start_worker, (numbers, threads)) as pool:
            waiting: dict[Future[Outcome], CategoryJob] = {pool.submit(job.run): job for job in jobs}
            try:
                while waiting:
                    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                        error = future.exception()
                        if isinstance(error, BrokenProcessPool):
                            msg = (
                                "A worker process ended of a sudden, perhaps for want of memory. What is finished is "
                                "kept: start again, with fewer workers if it was memory."
                            )
                            raise BenchmarkError(msg) from error
                        yield waiting.pop(future), future.result() if error is None else error
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def _start_worker(numbers: Any, threads: int) -> None:
    os.environ[WORKER_INDEX] = str(numbers.get())
    torch.set_num_threads(threads)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A worker would wait for work for ever if its parent was killed.
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


class RayRunner(StreamingRunner):
    """Jobs spread over machines by Ray, which tries those again whose worker or machine died.

    Args:
        generator: Says what jobs there are.
        receive: Called in this process, one job at a time.
        options: Address, resources and retries.

    Raises:
        BenchmarkError: If Ray is not installed.
    """

    def __init__(self, generator: JobPlanner, receive: Receiver, options: RayConfig) -> None:
        super().__init__(generator, receive)
        self.options = options
        try:
            import ray
        except ImportError as error:
            msg = "ray: Ray is not installed. Install it with `pip install anomalib-inctrl[ray]`, or leave ray out."
            raise BenchmarkError(msg) from error
        self._ray = ray

    def stream(self, jobs: Sequence[CategoryJob]) -> Iterator[tuple[CategoryJob, Result]]:
        """Run jobs and yield each as it ends."""
        ray, options = self._ray, self.options
        started = not ray.is_initialized()
        if started:
            ray.init(address=options.address, include_dashboard=False, log_to_driver=False)
        # Only a death of the worker is tried again: an error in a job would come again.
        task = ray.remote(num_cpus=options.cpus, num_gpus=options.gpus, max_retries=options.retries)(_run_job)
        try:
            waiting = {task.remote(job): job for job in jobs}
            while waiting:
                (done, *_), _ = ray.wait(list(waiting), num_returns=1)
                job = waiting.pop(done)
                try:
                    yield job, ray.get(done)
                except ray.exceptions.RayTaskError as error:
                    yield job, error.cause if isinstance(error.cause, BaseException) else error
                except ray.exceptions.RayError as error:
                    yield job, error
        finally:
            if started:
                ray.shutdown()


def _run_job(job: CategoryJob) -> Outcome:
    return job.run()
