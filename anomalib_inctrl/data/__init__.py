# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Data for the generalist protocol: train on auxiliary datasets, test on others."""

from anomalib_inctrl.data.batch import PromptedBatch as PromptedBatch
from anomalib_inctrl.data.batch import PromptedItem as PromptedItem
from anomalib_inctrl.data.batch import TrainingDraw as TrainingDraw
from anomalib_inctrl.data.datamodule import GeneralistDataModule as GeneralistDataModule
from anomalib_inctrl.data.dataset import GeneralistDataset as GeneralistDataset
from anomalib_inctrl.data.datasets import DATASETS as DATASETS
from anomalib_inctrl.data.datasets.aitex import AITEX as AITEX
from anomalib_inctrl.data.datasets.brain_mri import BrainMRI as BrainMRI
from anomalib_inctrl.data.datasets.cifar10 import CIFAR10 as CIFAR10
from anomalib_inctrl.data.datasets.elpv import ELPV as ELPV
from anomalib_inctrl.data.datasets.head_ct import HeadCT as HeadCT
from anomalib_inctrl.data.datasets.kolektor_sdd import KolektorSDD as KolektorSDD
from anomalib_inctrl.data.datasets.mnist import MNIST as MNIST
from anomalib_inctrl.data.sampler import BalancedSampler as BalancedSampler
from anomalib_inctrl.data.sources import DataSource as DataSource
