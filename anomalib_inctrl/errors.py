# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Exceptions of the package; each derives from the built-in a caller would expect to catch."""


class PromptError(ValueError):
    """Prompts are missing, too few, or do not fit the model."""


class ImageFileError(ValueError):
    """An image file cannot be read; the message names it."""


class ImageDataError(ValueError):
    """A picture given in memory cannot be used; the message says which one and what it is."""


class DatasetError(ValueError):
    """A dataset does not hold what its use here needs."""


class BackboneError(ValueError):
    """The named OpenCLIP model does not exist or is not a plain vision transformer."""


class PretrainedWeightsError(FileNotFoundError):
    """Weights, of a backbone or of heads, were found neither on disk nor for download."""


class CheckpointError(RuntimeError):
    """A file of weights is damaged, holds code, or does not fit the model; the message names the file or the keys."""


class BenchmarkError(RuntimeError):
    """A benchmark cannot start, or some of it could not be measured."""


class RenderError(RuntimeError):
    """A defect of a drawn category cannot be seen wherever it is put."""
