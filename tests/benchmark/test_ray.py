# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""A benchmark on a local Ray cluster of two workers, one of which dies."""

import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest

from anomalib_inctrl.benchmark.config import RayConfig, read_config
from anomalib_inctrl.benchmark.jobs import CategoryJob, plan_jobs, run_jobs, target_categories

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class DyingJob(CategoryJob):
    """Kills its worker in mid-run, the first time."""

    marker: str = ""

    def run(self):
        marker = Path(self.marker)
        outcome = super().run()
        if not marker.exists():
            marker.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return outcome


def test_a_worker_that_dies_costs_a_retry_and_no_result(make_config, packaged_model, tmp_path):
    config = read_config(make_config(k_shots=[1], models={"baseline": packaged_model}))
    jobs = plan_jobs(config, target_categories(config), ())
    dying = [DyingJob(**vars(jobs[0]), marker=str(tmp_path / "marker")), *jobs[1:]]
    tests = str(Path(__file__).parents[2])
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        _system_config={"worker_register_timeout_seconds": 300},  # on a machine with much else to do
        runtime_env={"env_vars": {"PYTHONPATH": tests, "OMP_NUM_THREADS": "1"}},
    )
    try:
        received = {job.where: result for job, result in run_jobs(dying, ray=RayConfig())}
        assert (tmp_path / "marker").exists()
        wrong = replace(jobs[0], source=replace(jobs[0].source, categories=["nothing"]))
        ((_, error),) = run_jobs([wrong], ray=RayConfig())
        assert "nothing" in error.failures[0]  # an error in a job is reported, not retried
    finally:
        ray.shutdown()
    assert all(result.rows for result in received.values()), received
    expected = {job.where: result for job, result in run_jobs(jobs)}
    # The commit may change while the test runs.
    differing = ["pass_seconds", "setting_seconds", "commit"]
    for where, outcome in expected.items():
        found, wanted = (pd.DataFrame(rows).drop(columns=differing) for rows in (received[where].rows, outcome.rows))
        pd.testing.assert_frame_equal(found, wanted)
