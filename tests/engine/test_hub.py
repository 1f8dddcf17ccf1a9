# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Heads shared as a folder: written, read and uploaded without a connection."""

import json
import shutil
from unittest import mock

import huggingface_hub
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from anomalib_inctrl import InCTRL, InCTRLv2
from anomalib_inctrl.errors import CheckpointError, PretrainedWeightsError
from anomalib_inctrl.io.weights import tensors_sha256
from anomalib_inctrl.models.components import hub
from tests.shared import BACKBONE

IMAGES = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model(kind, trained):
    return kind(weights=trained, visualizer=False).eval()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("hub") / "heads"
    model.save_pretrained(path, model_card_kwargs={"license": "cc-by-nc-sa-4.0", "trained_on": "demo | gear, tile"})
    return path


@pytest.fixture
def copied(folder, tmp_path):
    """A copy of the folder, to be damaged."""
    return shutil.copytree(folder, tmp_path / "heads")


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@torch.no_grad()
def scores(model):
    model.model.set_prompts(IMAGES[:2], "gear")
    return model.model(IMAGES[2:], "gear").pred_score


def test_a_saved_folder_scores_the_same(kind, model, folder):
    loaded, named = kind.from_pretrained(folder, k_shot=3), kind(weights=str(folder)).eval()
    assert loaded.hparams["k_shot"] == 3
    assert not loaded.training
    assert loaded.learning_type == named.learning_type
    assert torch.equal(scores(loaded), scores(model))
    assert torch.equal(scores(named), scores(model))


def test_the_folder_holds_heads_and_a_card_with_licence_and_usage(kind, model, folder):
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert not [name for name in load_file(folder / "model.safetensors") if "network" in name or "bank" in name]
    tower = json.loads((folder / "config.json").read_text())["tower"]
    assert (tower["backbone"], tower["fingerprint"]) == (BACKBONE, model.model.backbone.fingerprint)
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    front = yaml.safe_load(front)
    assert (front["license"], front["library_name"]) == ("cc-by-nc-sa-4.0", "anomalib")
    assert f"{kind.__name__}.from_pretrained" in text


def test_push_uploads_the_same_files(model, folder, monkeypatch):
    sent = {}

    def upload(folder_path, repo_id, **_):
        sent.update({path.name: path.read_bytes() for path in folder_path.iterdir()})
        return f"https://example.org/{repo_id}"

    api = mock.Mock()
    api.return_value.create_repo.side_effect = lambda repo_id, **_: mock.Mock(repo_id=repo_id)
    api.return_value.upload_folder.side_effect = upload
    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", api)
    assert model.push_to_hub("someone/heads") == "https://example.org/someone/heads"
    for name in ("config.json", "model.safetensors"):
        assert sent[name] == (folder / name).read_bytes()


def test_a_name_on_the_hub_is_downloaded_or_the_error_names_the_remedy(kind, model, folder, monkeypatch):
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **options: str(folder))
    assert torch.equal(scores(kind(weights="hf-hub:someone/heads").eval()), scores(model))
    monkeypatch.setattr(hub, "snapshot_download", mock.Mock(side_effect=OSError("no route to host")))
    with pytest.raises(PretrainedWeightsError, match=r"someone/heads.*no route to host.*give their folder"):
        kind(weights="hf-hub:someone/heads")


def test_what_does_not_fit_is_refused(kind, folder, copied, make_model, tmp_path):
    other = InCTRL if kind is InCTRLv2 else InCTRLv2
    with pytest.raises(CheckpointError, match=rf"holds {kind.__name__} .*Load it with {kind.__name__}"):
        other.from_pretrained(folder)
    tower = json.loads((folder / "config.json").read_text())["tower"]
    change_config(copied, tower=tower | {"fingerprint": "0" * 64})
    with pytest.raises(CheckpointError, match="fingerprint 0000"):
        _ = kind.from_pretrained(copied).model
    (copied / "config.json").unlink()
    with pytest.raises(PretrainedWeightsError, match=r"holds no config\.json"):
        kind(weights=str(copied))
    with pytest.raises(CheckpointError, match="untrained"):
        make_model().save_pretrained(tmp_path / "untrained")


def test_tensors_that_do_not_fit_are_named(kind, folder, copied):
    tensors = load_file(folder / "model.safetensors")
    name = sorted(tensors)[0]
    for changed, message in (
        ({key: value for key, value in tensors.items() if key != name}, rf"missing keys: \['{name}'\]"),
        (tensors | {"surplus": torch.zeros(1)}, r"unexpected keys: \['surplus'\]"),
        (tensors | {name: torch.zeros(7, 7, 7)}, rf"another shape: \['{name}'\]"),
    ):
        save_file(changed, copied / "model.safetensors")
        with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged .* its SHA-256 differs"):
            kind.from_pretrained(copied)
        change_config(copied, tensors_sha256=tensors_sha256(changed))
        with pytest.raises(CheckpointError, match=message):
            _ = kind.from_pretrained(copied).model
