# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Conversion of the authors' files to checkpoints and back; files that do not fit are refused."""

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
    shots = {case["cls"]: [*pool[case["prompts"]]] for case in golden["cases"][:2]}
    (folder / "shots").mkdir()
    for name, images in shots.items():
        torch.save(images, folder / "shots" / f"{name}.pt")
    output = folder / "inctrl.ckpt"
    assert main([str(pyth), str(output), "--backbone", BACKBONE, "--prompts", str(folder / "shots")]) == 0
    return output


def test_converted_weights_score_as_the_authors_code(converted, golden, pool):
    model = InCTRL.load_from_checkpoint(converted).eval()
    assert model.hparams["resize_mode"] == "center_crop"
    seen = set()
    for case in golden["cases"]:
        name = case["cls"]
        if name not in model.model.bank or name in seen:
            model.model.set_prompts(pool[case["prompts"]], name)
        seen.add(name)  # the first of a class meets the prompts of the converted file
        with torch.no_grad():
            components = model.model.score_components(pool[[case["query"]]], name)
        assert_close(components.score.squeeze(), case["final_score"].squeeze(), **EXACT)
        assert_close(components.image_score.squeeze(), case["img_ref_score"].squeeze(), **EXACT)
        assert_close(components.patch_map.squeeze(), case["patch_ref_map"].squeeze(), **EXACT)


def test_checkpoint_finds_the_backbone_beside_it(converted, pool, tmp_path):
    with torch.no_grad():
        expected = InCTRL(weights=str(converted)).eval().model.backbone.encode_image(pool[:1]).embedding
    backbone_file = converted.with_name("inctrl.backbone.safetensors")
    for path in (converted, backbone_file):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    away = backbone_file.rename(backbone_file.with_suffix(".away"))
    try:
        for model in (
            InCTRL(weights=str(tmp_path / converted.name)),
            InCTRL.load_from_checkpoint(tmp_path / converted.name),
        ):
            assert model.hparams["pretrained"] == str(tmp_path / backbone_file.name)
            assert torch.equal(model.eval().model.backbone.encode_image(pool[:1]).embedding, expected)
        (tmp_path / backbone_file.name).rename(tmp_path / "elsewhere.safetensors")
        named = InCTRL(
            weights=str(tmp_path / converted.name),
            backbone=BACKBONE,
            pretrained=str(tmp_path / "elsewhere.safetensors"),
        )
        assert named.model.heads_trained
    finally:
        away.rename(backbone_file)


def test_backbone_given_as_a_file_is_named_not_written(pyth, converted, tmp_path, capsys):
    backbone_file = converted.with_name("inctrl.backbone.safetensors")
    output = tmp_path / "small.ckpt"
    assert main([str(pyth), str(output), "--backbone", BACKBONE, "--pretrained", str(backbone_file)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.ckpt"]
    assert InCTRL(weights=str(output)).model.heads_trained
    other = tmp_path / "other.pt"
    weights = InCTRL(weights=str(output)).model.backbone.network.state_dict()
    torch.save(weights | {"visual.proj": weights["visual.proj"] + 1}, other)
    assert main([str(pyth), str(output), "--backbone", BACKBONE, "--pretrained", str(other)]) == 1
    assert "Leave --pretrained out" in capsys.readouterr().err


def test_logit_scale_of_the_backbone_does_not_matter(pyth, converted, tmp_path):
    """OpenCLIP's files have one, the authors' have not, and no score depends on it."""
    clip = InCTRL(weights=str(converted)).model.backbone.network.state_dict()
    backbone_file, output = tmp_path / "openclip.pt", tmp_path / "small.ckpt"
    torch.save(clip | {"logit_scale": torch.tensor(4.6052)}, backbone_file)
    assert main([str(pyth), str(output), "--backbone", BACKBONE, "--pretrained", str(backbone_file)]) == 0
    assert InCTRL(weights=str(output)).model.heads_trained
    assert InCTRL.load_from_checkpoint(output).model.heads_trained


def test_errors_are_one_line_and_leave_no_file(pyth, tmp_path, capsys):
    assert main([str(pyth), str(tmp_path / "out.ckpt"), "--backbone", "ViT-X-99"]) == 1
    assert "is not a model of OpenCLIP" in capsys.readouterr().err
    (tmp_path / "file").write_text("not a folder")
    assert main([str(pyth), str(tmp_path / "file" / "out.ckpt"), "--backbone", BACKBONE]) == 1
    assert "file" in capsys.readouterr().err
    torch.save([torch.full((3, 240, 240), torch.nan)], tmp_path / "candle.pt")
    arguments = [str(pyth), str(tmp_path / "out.ckpt"), "--backbone", BACKBONE]
    assert main([*arguments, "--prompts", str(tmp_path / "candle.pt")]) == 1
    assert re.search(r"candle\.pt: .*NaN", capsys.readouterr().err)
    assert not (tmp_path / "out.ckpt").exists()


class Hostile:
    def __reduce__(self):
        return print, ("code was run",)


def _without(weights, name):
    return {key: value for key, value in weights.items() if key != name}


WRONG = {
    "hostile": (lambda weights: {"model_state": weights, "cfg": Hostile()}, "refused"),
    "missing": (lambda weights: _without(weights, "diff_head.bn3.bias"), r"map_head\.layers\.5\.bias"),
    "extra": (lambda weights: weights | {"diff_head.projection4.weight": torch.zeros(1)}, r"projection4"),
    "backbone_file": (lambda weights: _without(weights, "visual.proj"), r"missing keys: \['visual\.proj'\]"),
    "shape": (lambda weights: weights | {"adapter.fc.0.weight": torch.zeros(3, 3)}, r"another shape.*adapter\.fc\.0"),
    "plain": (lambda weights: weights | {"epoch": 3}, "expected the authors' weights"),
    "list": (lambda weights: list(weights.values()), "expected a dictionary"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_files_that_do_not_fit_are_refused_by_name(wrong, official_weights, tmp_path, capsys):
    change, message = WRONG[wrong]
    source = tmp_path / f"{wrong}.pyth"
    torch.save(change(dict(official_weights)), source)
    assert main([str(source), str(tmp_path / "out.ckpt"), "--backbone", BACKBONE]) == 1
    output = capsys.readouterr()
    assert "code was run" not in output.out + output.err
    assert source.name in output.err
    assert re.search(message, output.err), output.err
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


def test_few_shot_files_that_do_not_fit_are_refused_by_name(pyth, tmp_path, capsys):
    contents = {"empty": [], "small": [torch.zeros(3, 100, 100)], "text": ["a.png"], "single": torch.zeros(3, 240, 240)}
    for name, content in contents.items():
        torch.save(content, tmp_path / f"{name}.pt")
    (tmp_path / "nothing").mkdir()
    for name in [*(f"{name}.pt" for name in contents), "absent.pt", "nothing"]:
        arguments = [str(pyth), str(tmp_path / "out.ckpt"), "--backbone", BACKBONE, "--prompts", str(tmp_path / name)]
        assert main(arguments) == 1
        assert name in capsys.readouterr().err
    assert not (tmp_path / "out.ckpt").exists()
