# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Memory that is not there, and memory that does not come back."""

import gc
import os

import pytest
import torch
from torch.testing import assert_close

from anomalib_inctrl import residuals

psutil = pytest.importorskip("psutil")


def test_smaller_blocks_give_the_same_result(make_detector, pixels, monkeypatch):
    """A machine on which no more than 2 rows of similarities fit; tests/models/test_one_pass.py has the parts."""
    detector = make_detector()
    pictures = [pixels, pixels * 0.5, pixels.flip(1)]
    expected = detector.predict(pictures)
    whole, sizes = residuals._running_maximum, []

    def scarce(rows, pool, columns):
        sizes.append(len(rows))
        if len(rows) > 2:
            msg = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"
            raise RuntimeError(msg)
        return whole(rows, pool, columns)

    monkeypatch.setattr(residuals, "_running_maximum", scarce)
    found = detector.predict(pictures)
    assert max(sizes) > 2
    assert min(sizes) <= 2
    for one, other in zip(found, expected, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-6)
        assert_close(one.anomaly_map, other.anomaly_map)


def soak(detector, pictures, rounds):
    """Growth of this process's memory, bytes a round, from the second half of so many rounds."""
    process, used = psutil.Process(os.getpid()), []
    gc.freeze()  # what was there before need not be gone through every time
    for _ in range(rounds):
        results = detector.predict(pictures)
        results[0].heat_map()
        detector.set_prompts(pictures, class_name="washer")
        del results
        gc.collect()
        used.append(process.memory_info().rss)
    gc.unfreeze()
    late = torch.tensor(used[rounds // 2 :], dtype=torch.float64)
    places = torch.arange(len(late), dtype=torch.float64)
    places -= places.mean()
    return float((places * (late - late.mean())).sum() / places.square().sum())


def require_flat(make_detector, rounds):
    generator = torch.Generator().manual_seed(0)
    pictures = [torch.rand(3, 256, 256, generator=generator) for _ in range(2)]
    one_picture = pictures[0].numel() * pictures[0].element_size()
    # A picture, a map or a prompt kept by mistake would show as hundreds of kilobytes a round.
    growth = soak(make_detector(), pictures, rounds)
    print(f"{growth:.0f} bytes a round over {rounds} rounds")
    assert growth < one_picture / 4


def test_memory_is_flat(make_detector):
    require_flat(make_detector, 30)


@pytest.mark.slow
def test_memory_is_flat_for_long(make_detector):
    require_flat(make_detector, int(os.environ.get("ANOMALIB_INCTRL_SOAK", "100")))
