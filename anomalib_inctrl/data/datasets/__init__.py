# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The papers' datasets that anomalib lacks, one file each: an anomalib datamodule, its card and its scan function."""

from anomalib_inctrl.data.datasets.aitex import AITEX
from anomalib_inctrl.data.datasets.base import BenchmarkDataModule
from anomalib_inctrl.data.datasets.brain_mri import BrainMRI
from anomalib_inctrl.data.datasets.cifar10 import CIFAR10
from anomalib_inctrl.data.datasets.elpv import ELPV
from anomalib_inctrl.data.datasets.head_ct import HeadCT
from anomalib_inctrl.data.datasets.kolektor_sdd import KolektorSDD
from anomalib_inctrl.data.datasets.mnist import MNIST

DATASETS: dict[str, type[BenchmarkDataModule]] = {
    dataset.card.name: dataset for dataset in (AITEX, BrainMRI, CIFAR10, ELPV, HeadCT, KolektorSDD, MNIST)
}
"""Every dataset that can be converted, by name."""
