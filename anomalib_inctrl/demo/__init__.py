# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The embedded default: rendered products and materials with defects, to see everything work without a download.

A demonstration, not a benchmark: results on these images need not hold on real ones.
"""

from anomalib_inctrl.demo.categories import REGISTRY
from anomalib_inctrl.demo.datamodule import InCTRLDemo
from anomalib_inctrl.demo.digits import ScikitDigits
from anomalib_inctrl.demo.render import (
    AUXILIARY_CATEGORIES,
    CATEGORIES,
    CONFIRMATION_CATEGORIES,
    IMAGE_SIZE,
    RANDOM_PRODUCTS,
    UNSEEN_CATEGORIES,
    RenderedBatch,
    Sample,
    render_batch,
)

__all__ = [
    "AUXILIARY_CATEGORIES",
    "CATEGORIES",
    "CONFIRMATION_CATEGORIES",
    "IMAGE_SIZE",
    "RANDOM_PRODUCTS",
    "REGISTRY",
    "UNSEEN_CATEGORIES",
    "InCTRLDemo",
    "RenderedBatch",
    "Sample",
    "ScikitDigits",
    "render_batch",
]
