# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Which normal images serve as prompts."""

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
