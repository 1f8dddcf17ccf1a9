# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What is said of known weights is true of those that come with the package, and nothing is said without a measure."""

from pathlib import Path

import open_clip
import pytest

import anomalib_inctrl
from anomalib_inctrl.backbone import FrozenCLIP
from anomalib_inctrl.known_weights import known_weights
from anomalib_inctrl.weights import file_sha256

PACKAGE = Path(anomalib_inctrl.__file__).parent


def test_packaged_weights_are_all_listed_and_as_described():
    listed = {entry.file: entry for entry in known_weights() if entry.file}
    assert set(listed) == {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.safetensors")}
    for file, entry in listed.items():
        # A new file wants its entry in weights.yaml written anew: hashes and scores.
        assert file_sha256(PACKAGE / file) == entry.sha256, f"weights.yaml does not describe {file} as it is"
        assert FrozenCLIP(entry.model, entry.pretrained).fingerprint == entry.fingerprint


def test_backbones_are_those_of_openclip_and_scores_say_how():
    for entry in known_weights():
        assert entry.kind in {"backbone", "heads"}
        if entry.kind == "backbone" and entry.file is None:
            config = open_clip.pretrained.get_pretrained_cfg(entry.model, entry.pretrained)
            assert config["url"] == entry.source
        assert (entry.scores is None) == (entry.scores_of is None)
        assert all(0 <= value <= 1 for value in (entry.scores or {}).values())
    assert len({entry.name for entry in known_weights()}) == len(known_weights())


def test_a_slip_in_the_manifest_is_told(tmp_path, monkeypatch):
    path = tmp_path / "weights.yaml"
    path.write_text("- {name: x, kind: heads, model: InCTRL, source: y, license: MIT}\n")
    monkeypatch.setattr("anomalib_inctrl.known_weights.MANIFEST", path)
    with pytest.raises(ValueError, match=r"x: unknown keys \['license'\]"):
        known_weights.__wrapped__()
