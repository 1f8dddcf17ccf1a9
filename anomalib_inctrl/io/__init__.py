# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Files: reading images, writing atomically, loading weights without running code from them."""
