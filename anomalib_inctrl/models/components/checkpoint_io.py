# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Reading the trainer's checkpoints with errors that name the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import CheckpointIO

from anomalib_inctrl.weights import read_checkpoint


class NamingCheckpointIO(CheckpointIO):
    """Looks at a checkpoint before the trainer's own reader does, which would not say which file is damaged or hostile.

    Args:
        reader: The trainer's own.
    """

    def __init__(self, reader: CheckpointIO) -> None:
        self.reader = reader

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint.

        Args:
            path: File or address.
            args: Passed on.
            kwargs: Passed on.

        Returns:
            Its content.

        Raises:
            CheckpointError: If the file is damaged or holds code.
        """
        if Path(path).is_file():
            read_checkpoint(path)
        return self.reader.load_checkpoint(path, *args, **kwargs)

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Write a checkpoint."""
        self.reader.save_checkpoint(*args, **kwargs)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint."""
        self.reader.remove_checkpoint(path)

    def teardown(self) -> None:
        """Let the trainer's own reader finish."""
        self.reader.teardown()
