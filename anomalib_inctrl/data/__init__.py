# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Data for the generalist protocol: train on auxiliary datasets, test on others."""

from anomalib_inctrl.data.batch import PromptedBatch, PromptedItem, TrainingDraw
from anomalib_inctrl.data.datamodule import GeneralistDataModule
from anomalib_inctrl.data.dataset import GeneralistDataset
from anomalib_inctrl.data.datasets import (
    AITEX,
    BENCHMARK_DATAMODULES,
    CIFAR10,
    DATASETS,
    ELPV,
    MNIST,
    BrainMRI,
    HeadCT,
    KolektorSDD,
)
from anomalib_inctrl.data.sampler import BalancedSampler
from anomalib_inctrl.data.sources import DataSource

__all__ = [
    "AITEX",
    "BENCHMARK_DATAMODULES",
    "CIFAR10",
    "DATASETS",
    "ELPV",
    "MNIST",
    "BalancedSampler",
    "BrainMRI",
    "DataSource",
    "GeneralistDataModule",
    "GeneralistDataset",
    "HeadCT",
    "KolektorSDD",
    "PromptedBatch",
    "PromptedItem",
    "TrainingDraw",
]
