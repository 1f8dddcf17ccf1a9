# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Prompts: text ensembles, the choice of normal images, and the bank a model holds."""

from anomalib_inctrl.prompts.bank import PromptBank, PromptContext
from anomalib_inctrl.prompts.selection import (
    SELECTORS,
    FirstSelector,
    PromptSelector,
    RandomSelector,
    RepresentativeSelector,
    create_selector,
)
from anomalib_inctrl.prompts.sentences import text_prompts

__all__ = [
    "SELECTORS",
    "FirstSelector",
    "PromptBank",
    "PromptContext",
    "PromptSelector",
    "RandomSelector",
    "RepresentativeSelector",
    "create_selector",
    "text_prompts",
]
