# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Choosing the normal images that serve as prompts."""

from anomalib_inctrl.prompts.selection import SELECTORS as SELECTORS
from anomalib_inctrl.prompts.selection import FirstSelector as FirstSelector
from anomalib_inctrl.prompts.selection import PromptSelector as PromptSelector
from anomalib_inctrl.prompts.selection import RandomSelector as RandomSelector
from anomalib_inctrl.prompts.selection import RepresentativeSelector as RepresentativeSelector
from anomalib_inctrl.prompts.selection import create_selector as create_selector
