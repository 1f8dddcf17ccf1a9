# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Exceptions of the package; each derives from the built-in a caller would expect to catch."""


class InCTRLError(Exception):
    """Any error of this package; its message names what was found and what to do."""


class ArgumentError(InCTRLError, ValueError):
    """An argument has a value that it cannot have, or that would have no effect; the message names it."""


class PromptError(InCTRLError, ValueError):
    """Prompts are missing, too few, or do not fit the model."""


class ImageFileError(InCTRLError, ValueError):
    """An image file cannot be read; the message names it."""


class ImageDataError(InCTRLError, ValueError):
    """An image given in memory cannot be used; the message names it and what was found."""


class DatasetError(InCTRLError, ValueError):
    """A dataset lacks images, labels or masks that its use needs."""


class BackboneError(InCTRLError, ValueError):
    """The named OpenCLIP model does not exist or is not a vision transformer."""


class PretrainedWeightsError(InCTRLError, FileNotFoundError):
    """Weights, of a backbone or of heads, were found neither on disk nor for download."""


class CheckpointError(InCTRLError, RuntimeError):
    """A file of weights is damaged, holds code, or does not fit the model; the message names the file or the keys."""


class BenchmarkError(InCTRLError, RuntimeError):
    """A benchmark cannot start, or some of its results are missing."""


class RenderError(InCTRLError, RuntimeError):
    """A defect of a rendered category is invisible wherever it is placed."""
