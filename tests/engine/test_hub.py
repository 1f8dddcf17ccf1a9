# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Heads shared as a folder: written, read and pushed without a connection."""

import inspect
import json
import shutil

import huggingface_hub
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from anomalib_inctrl import InCTRL, InCTRLv2, hub
from anomalib_inctrl.errors import CheckpointError, PretrainedWeightsError
from anomalib_inctrl.io.weights import tensors_sha256


@pytest.fixture(scope="module")
def model(kind, trained):
    return kind(weights=trained, visualizer=False).eval()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("hub") / "heads"
    model.save_pretrained(path, model_card_kwargs={"license": "cc-by-nc-sa-4.0", "trained_on": "demo | gear, tile"})
    return path


def scores(model):
    generator = torch.Generator().manual_seed(0)
    images, prompts = torch.rand(3, 3, 96, 96, generator=generator), torch.rand(2, 3, 96, 96, generator=generator)
    model.model.set_prompts(prompts, "gear")
    with torch.no_grad():
        return model.model(images, "gear").pred_score


def test_what_was_saved_scores_the_same(kind, model, folder):
    loaded = kind.from_pretrained(folder, k_shot=3)
    assert torch.equal(scores(loaded), scores(model))
    assert loaded.hparams["k_shot"] == 3
    assert not loaded.training
    assert loaded.learning_type == kind(weights=str(folder)).learning_type
    assert torch.equal(scores(kind(weights=str(folder)).eval()), scores(model))


def test_heads_alone_are_in_it_and_the_backbone_by_name_and_hash(model, folder):
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    tensors = load_file(folder / "model.safetensors")
    assert not [name for name in tensors if "clip" in name or "bank" in name]
    tower = json.loads((folder / "config.json").read_text())["tower"]
    assert tower["backbone"] == "test-vit-16-96"
    assert tower["sha256"] == model.model.backbone.sha256
    # Keys called like an argument would be passed on to the model by ModelHubMixin.
    assert (
        not json.loads((folder / "config.json").read_text()).keys() & inspect.signature(type(model)).parameters.keys()
    )


def test_card(kind, folder):
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["license"] == "cc-by-nc-sa-4.0"
    assert front["library_name"] == "anomalib"
    assert "anomaly-detection" in front["tags"]
    assert f"{kind.__name__}.from_pretrained" in text
    assert ("reconstruction" in text) == (kind is InCTRLv2)
    assert "Not stated." in text  # no scores were measured, none are claimed


def test_push_sends_the_same_files(kind, model, folder, monkeypatch):
    sent = {}

    class Api:
        def __init__(self, **kwargs):
            pass

        def create_repo(self, repo_id, **kwargs):
            return type("Url", (), {"repo_id": repo_id})

        def upload_folder(self, folder_path, repo_id, **kwargs):
            sent.update({path.name: path.read_bytes() for path in folder_path.iterdir()})
            return f"https://example.org/{repo_id}"

    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Api)
    assert model.push_to_hub("someone/heads") == "https://example.org/someone/heads"
    for name in ("config.json", "model.safetensors"):
        assert sent[name] == (folder / name).read_bytes()


def test_a_name_on_the_hub_is_downloaded(kind, model, folder, monkeypatch):
    asked = []

    def snapshot(name, **options):
        asked.append((name, options["allow_patterns"]))
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    assert torch.equal(scores(kind(weights="hf-hub:someone/heads").eval()), scores(model))
    assert asked == [("someone/heads", ["config.json", "model.safetensors"])]


def test_no_connection_is_told_with_the_remedy(kind, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(PretrainedWeightsError, match=r"someone/heads.*no route to host.*give their folder"):
        kind(weights="hf-hub:someone/heads")


def test_another_backbone_is_refused(kind, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "heads")
    config = json.loads((folder / "config.json").read_text())
    config["tower"]["sha256"] = "0" * 64
    (tmp_path / "heads/config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="sha256 0000"):
        _ = kind.from_pretrained(tmp_path / "heads").model


def test_damaged_folders_are_refused_by_name(kind, model, folder, tmp_path):
    other = InCTRL if kind is InCTRLv2 else InCTRLv2
    with pytest.raises(CheckpointError, match=rf"holds {kind.__name__} .*Load it with {kind.__name__}"):
        other.from_pretrained(folder)
    broken = tmp_path / "heads"
    shutil.copytree(folder, broken)
    tensors = load_file(folder / "model.safetensors")
    name = sorted(tensors)[0]
    for changed, message in (
        ({key: value for key, value in tensors.items() if key != name}, rf"missing keys: \['{name}'\]"),
        (tensors | {"surplus": torch.zeros(1)}, r"unexpected keys: \['surplus'\]"),
        (tensors | {name: torch.zeros(7, 7, 7)}, rf"another shape: \['{name}'\]"),
    ):
        save_file(changed, broken / "model.safetensors")
        (broken / "config.json").write_bytes((folder / "config.json").read_bytes())
        with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged .* its SHA-256 differs"):
            kind.from_pretrained(broken)
        config = json.loads((folder / "config.json").read_text()) | {"tensors_sha256": tensors_sha256(changed)}
        (broken / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=message):
            _ = kind.from_pretrained(broken).model
    (broken / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        kind.from_pretrained(broken)
    (broken / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json.*damaged"):
        kind(weights=str(broken))
    (broken / "config.json").unlink()
    with pytest.raises(PretrainedWeightsError, match=r"holds no config\.json"):
        kind(weights=str(broken))


def test_untrained_heads_are_not_shared(make_model, tmp_path):
    with pytest.raises(CheckpointError, match="untrained"):
        make_model().save_pretrained(tmp_path / "heads")


def test_the_constructors_arguments_still_show(kind):
    shown = list(inspect.signature(kind).parameters)
    assert ["self", *shown] == list(inspect.signature(kind.__init__).parameters)
