# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Conversion of the authors' files to checkpoints; files that do not fit are refused."""

import json
import re

import open_clip
import pytest
import torch
from torch.testing import assert_close

from anomalib_inctrl import InCTRL
from anomalib_inctrl.models.inctrl.convert import main

EXACT = {"atol": 1e-5, "rtol": 0}
BACKBONE = "golden-vit-16-240"


@pytest.fixture(scope="module", autouse=True)
def backbone(golden, tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / f"{BACKBONE}.json"
    path.write_text(json.dumps(golden["clip"]))
    open_clip.add_model_config(path)


@pytest.fixture(scope="module")
def pyth(official_weights, tmp_path_factory):
    """A checkpoint as the authors' training writes it."""
    path = tmp_path_factory.mktemp("authors") / "4shot.pyth"
    torch.save({"epoch": 9, "model_state": official_weights, "cfg": "NUM_GPUS: 1"}, path)
    return path


@pytest.fixture(scope="module")
def converted(pyth, golden, pool, tmp_path_factory):
    """The checkpoint made of it, with the few-shot files of two classes."""
    folder = tmp_path_factory.mktemp("converted")
    (folder / "shots").mkdir()
    for case in golden["cases"][:2]:
        torch.save([*pool[case["prompts"]]], folder / "shots" / f"{case['cls']}.pt")
    output = folder / "inctrl.ckpt"
    assert main([str(pyth), str(output), "--backbone", BACKBONE, "--prompts", str(folder / "shots")]) == 0
    return output


def test_converted_weights_score_as_the_authors_code(converted, golden, pool):
    module = InCTRL.load_from_checkpoint(converted).eval()
    assert module.hparams["resize_mode"] == "center_crop"
    model, seen = module.model, set()
    for case in golden["cases"]:
        name = case["cls"]
        if name not in model.bank or name in seen:
            model.set_prompts(pool[case["prompts"]], name)
        seen.add(name)  # the first of a class meets the prompts of the converted file
        components = model.score_components(pool[[case["query"]]], name)
        assert_close(components.score.squeeze(), case["final_score"].squeeze(), **EXACT)
        assert_close(components.image_score.squeeze(), case["img_ref_score"].squeeze(), **EXACT)
        assert_close(components.patch_map.squeeze(), case["patch_ref_map"].squeeze(), **EXACT)


def test_checkpoint_finds_the_backbone_beside_it(pyth, pool, tmp_path):
    def encode(module):
        return module.eval().model.backbone.encode_image(pool[:1]).embedding

    written, moved = tmp_path / "written", tmp_path / "moved"
    assert main([str(pyth), str(written / "inctrl.ckpt"), "--backbone", BACKBONE]) == 0
    expected = encode(InCTRL(weights=str(written / "inctrl.ckpt")))
    written.rename(moved)
    checkpoint, backbone_file = moved / "inctrl.ckpt", moved / "inctrl.backbone.safetensors"
    for module in (InCTRL(weights=str(checkpoint)), InCTRL.load_from_checkpoint(checkpoint)):
        assert module.hparams["pretrained"] == str(backbone_file)
        assert torch.equal(encode(module), expected)
    elsewhere = backbone_file.rename(tmp_path / "elsewhere.safetensors")
    assert InCTRL(weights=str(checkpoint), backbone=BACKBONE, pretrained=str(elsewhere)).model.heads_trained


def test_backbone_given_as_a_file_is_named_not_written(pyth, converted, tmp_path, capsys):
    weights = InCTRL(weights=str(converted)).model.backbone.network.state_dict()
    same, other, output = (tmp_path / name for name in ("same.pt", "other.pt", "small.ckpt"))
    # OpenCLIP's files have a logit scale, the authors' have not, and no score depends on it.
    torch.save(weights | {"logit_scale": torch.tensor(4.6052)}, same)
    arguments = [str(pyth), str(output), "--backbone", BACKBONE, "--pretrained"]
    assert main([*arguments, str(same)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["same.pt", "small.ckpt"]
    assert InCTRL(weights=str(output)).model.heads_trained
    assert InCTRL.load_from_checkpoint(output).model.heads_trained
    torch.save(weights | {"visual.proj": weights["visual.proj"] + 1}, other)
    assert main([*arguments, str(other)]) == 1
    assert "Leave --pretrained out" in capsys.readouterr().err


class Hostile:
    def __reduce__(self):
        return pytest.fail, ("code was run",)


def without(weights, name):
    return {key: value for key, value in weights.items() if key != name}


# What is changed of the authors' weights, or the content of a few-shot file.
WRONG = {
    "hostile.pyth": (lambda weights: {"model_state": weights, "cfg": Hostile()}, "refused"),
    "missing.pyth": (lambda weights: without(weights, "diff_head.bn3.bias"), r"map_head\.layers\.5\.bias"),
    "extra.pyth": (lambda weights: weights | {"diff_head.projection4.weight": torch.zeros(1)}, r"projection4"),
    "backbone.pyth": (lambda weights: without(weights, "visual.proj"), r"missing keys: \['visual\.proj'\]"),
    "shape.pyth": (lambda weights: weights | {"adapter.fc.0.weight": torch.zeros(3, 3)}, r"shape.*adapter\.fc\.0"),
    "plain.pyth": (lambda weights: weights | {"epoch": 3}, "expected the authors' weights"),
    "list.pyth": (lambda weights: list(weights.values()), "expected a dictionary"),
    "empty.pt": (lambda _: [], "expected a list of preprocessed images"),
    "small.pt": (lambda _: [torch.zeros(3, 100, 100)], r"the first \[\(3, 100, 100\)\]"),
    "text.pt": (lambda _: ["a.png"], r"the first \['str'\]"),
    "nan.pt": (lambda _: [torch.full((3, 240, 240), torch.nan)], "NaN"),
}


@pytest.mark.parametrize("name", WRONG)
def test_files_that_do_not_fit_are_refused_by_name(name, pyth, official_weights, tmp_path, capsys):
    content, message = WRONG[name]
    path = tmp_path / name
    torch.save(content(dict(official_weights)), path)
    source, options = (path, []) if path.suffix == ".pyth" else (pyth, ["--prompts", str(path)])
    assert main([str(source), str(tmp_path / "out.ckpt"), "--backbone", BACKBONE, *options]) == 1
    assert re.search(rf"{re.escape(name)}: .*{message}", capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out.ckpt", "--backbone", "ViT-X-99"], "ViT-X-99.*is not a model of OpenCLIP"),
        (["file/out.ckpt"], "file"),
        (["out.ckpt", "--prompts", "absent.pt"], r"absent\.pt: no such"),
        (["out.ckpt", "--prompts", "folder"], r"folder: holds no \.pt files"),
    ],
)
def test_other_errors_are_one_line_and_leave_no_file(arguments, message, pyth, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder").mkdir()
    assert main([str(pyth), "--backbone", BACKBONE, *arguments]) == 1
    assert re.search(f"^convert-weights: .*{message}.*\n$", capsys.readouterr().err)
    assert not (tmp_path / "out.ckpt").exists()
