# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Known weights, described by data beside the code: ``weights.yaml``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import yaml

MANIFEST = Path(__file__).with_name("weights.yaml")


@dataclass(frozen=True)
class KnownWeights:
    """Weights that are known to fit, and what is known of them. What was not measured is None.

    Attributes:
        name: What the package calls them.
        kind: ``"backbone"`` or ``"heads"``.
        model: OpenCLIP's name of the backbone, or the model class of the heads.
        source: Where they come from.
        licence: Under which they are published; None if their authors do not say.
        pretrained: Tag of backbone weights.
        file: File in this package, for weights that come with it.
        sha256: SHA-256 of the file.
        fingerprint: ``FrozenCLIP.fingerprint`` of backbone weights.
        scores: Measured here with these weights, by name of the metric.
        scores_of: How the scores were measured.
    """

    name: str
    kind: str
    model: str
    source: str
    licence: str | None = None
    pretrained: str | None = None
    file: str | None = None
    sha256: str | None = None
    fingerprint: str | None = None
    scores: dict[str, float] | None = None
    scores_of: str | None = None


@cache
def known_weights() -> tuple[KnownWeights, ...]:
    """Read the manifest.

    Returns:
        Its entries, in its order.

    Raises:
        ValueError: If an entry has an unknown key, which names a slip in the manifest.
    """
    known = {field.name for field in fields(KnownWeights)}
    entries = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))
    for entry in entries:
        if unknown := sorted(entry.keys() - known):
            msg = f"{MANIFEST.name}: {entry.get('name')}: unknown keys {unknown}; choose among {sorted(known)}."
            raise ValueError(msg)
    return tuple(KnownWeights(**entry) for entry in entries)
