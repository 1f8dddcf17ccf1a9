# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The models in a browser: ``anomalib-inctrl app``."""
