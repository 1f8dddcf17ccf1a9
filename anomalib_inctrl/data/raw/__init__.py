# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Datasets as their authors hand them out."""

from anomalib_inctrl.data.raw.base import DatasetCard, RawDataset, Record, Scan
from anomalib_inctrl.data.raw.industrial import RawAITEX, RawELPV, RawKolektorSDD
from anomalib_inctrl.data.raw.medical import RawBrainMRI, RawHeadCT
from anomalib_inctrl.data.raw.semantic import RawCIFAR10, RawMNIST

RAW_DATASETS: dict[str, RawDataset] = {
    dataset.card.name: dataset
    for dataset in (RawAITEX(), RawBrainMRI(), RawCIFAR10(), RawELPV(), RawHeadCT(), RawKolektorSDD(), RawMNIST())
}
"""Every dataset that can be converted, by name."""

__all__ = ["RAW_DATASETS", "DatasetCard", "RawDataset", "Record", "Scan"]
