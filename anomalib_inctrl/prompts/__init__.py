# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Choosing the normal images that serve as prompts."""

from anomalib_inctrl.prompts.selection import (
    SELECTORS,
    FirstSelector,
    PromptSelector,
    RandomSelector,
    RepresentativeSelector,
    create_selector,
)

__all__ = [
    "SELECTORS",
    "FirstSelector",
    "PromptSelector",
    "RandomSelector",
    "RepresentativeSelector",
    "create_selector",
]
