# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Text prompts: which sentences stand for a normal and for an abnormal thing."""

from __future__ import annotations

from itertools import chain

# Compositional ensemble of WinCLIP (Jeong et al., CVPR 2023, table 8) in the wording of the InCTRL code. anomalib's
# WinCLIP words seven sentences differently, which would move the scores of released InCTRL weights.
_NORMAL_STATES = (
    "{}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
)
_ABNORMAL_STATES = ("damaged {}", "{} with flaw", "{} with defect", "{} with damage")
_VIEWS = (
    "cropped photo of {article} {state}",
    "close-up photo of {article} {state}",
    "bright photo of {article} {state}",
    "dark photo of {article} {state}",
    "jpeg corrupted photo of {article} {state}",
    "blurry photo of {article} {state}",
    "photo of {article} {state}",
    "photo of {article} small {state}",
    "photo of {article} large {state}",
    "photo of {article} {state} for visual inspection",
    "photo of {article} {state} for anomaly detection",
)

# The classes of natural-image sets (CIFAR-10 and its multi-class setting), for which "damaged" means nothing.
NATURAL_CLASS_NAMES = frozenset(
    {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck", "animal"},
)


def text_prompts(class_name: str) -> tuple[list[str], list[str]]:
    """Compose the normal and abnormal sentences of a class name.

    Industrial and medical classes get WinCLIP's compositional ensemble (7 normal and 4 abnormal states in 22 templates,
    154 and 88 sentences), natural-image classes a single pair, as in the InCTRL code.

    Args:
        class_name: Name of the object in the image; underscores read as spaces, and the part before a slash (a
            dataset's name) is left out.

    Returns:
        Normal and abnormal sentences.

    Example:
        >>> normal, abnormal = text_prompts("metal_nut")
        >>> len(normal), len(abnormal), normal[0]
        (154, 88, 'a cropped photo of the metal nut.')
    """
    normal, abnormal = state_prompts(class_name)
    return [*chain.from_iterable(normal)], [*chain.from_iterable(abnormal)]


def state_prompts(class_name: str) -> tuple[list[list[str]], list[list[str]]]:
    """The sentences of :func:`text_prompts`, those of one state (``"flawless {}"``) in one list."""
    name = spoken_name(class_name)
    if name in NATURAL_CLASS_NAMES:
        return [[f"a photo of {name} for anomaly detection."]], [[f"a photo without {name} for anomaly detection."]]
    return [_views(name, state) for state in _NORMAL_STATES], [_views(name, state) for state in _ABNORMAL_STATES]


def spoken_name(class_name: str) -> str:
    """A class name as it stands in the sentences."""
    return class_name.rpartition("/")[2].strip().replace("_", " ")


def _views(name: str, state: str) -> list[str]:
    # The name is put in by replace, not by format: a class name may hold braces.
    sentences = [f"a {view.format(article=article, state=state)}." for view in _VIEWS for article in ("the", "a")]
    return [sentence.replace("{}", name) for sentence in sentences]
