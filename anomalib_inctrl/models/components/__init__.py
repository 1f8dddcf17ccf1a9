# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What the models share: heads, losses, the few-shot base, and the parts of the Lightning base."""
