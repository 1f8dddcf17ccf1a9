# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import random

import pytest
import torch
from PIL import Image

from anomalib_inctrl.backbones.text_prompts import text_prompts
from anomalib_inctrl.errors import PromptError
from anomalib_inctrl.prompts import SELECTORS, PromptSelector, create_selector
from anomalib_inctrl.prompts.selection import read_prompt_list, write_prompt_list
from anomalib_inctrl.prompts.source import given_prompts


@pytest.fixture
def candidates(tmp_path):
    paths = [tmp_path / f"{index:02}.png" for index in range(12)]
    for index, path in enumerate(paths):
        Image.new("RGB", (4, 4), (index * 20, 0, 0)).save(path)
    return paths


def encode(paths):
    """Points on a quarter circle by file number."""
    angles = torch.tensor([int(path.stem) for path in paths]) / 8
    return torch.stack([angles.cos(), angles.sin()], dim=1)


@pytest.mark.parametrize("name", sorted(SELECTORS))
def test_choices_are_nested_and_independent_of_the_order_of_candidates(candidates, name):
    selector = create_selector(name, seed=3)
    whole = selector.select(candidates, 12, encode)
    assert sorted(whole) == candidates
    shuffled = random.Random(1).sample(candidates, 12)
    for k_shot in range(12):
        assert selector.select(shuffled, k_shot, encode) == whole[:k_shot]
    for paths, k_shot, message in (
        (candidates, 13, "k_shot=13: only 12 normal images"),
        ([], 1, "k_shot=1: only 0"),
        (candidates, -1, "k_shot=-1"),
    ):
        with pytest.raises(PromptError, match=message):
            selector.select(paths, k_shot, encode)


def test_each_strategy_chooses_as_described(candidates, monkeypatch):
    chosen = {seed: tuple(create_selector("random", seed).select(candidates, 4, encode)) for seed in range(8)}
    assert len(set(chosen.values())) > 5
    # Fixed, so that the prompts of published results can be chosen again from their seed.
    assert [path.stem for path in chosen[0]] == ["10", "04", "00", "06"]
    assert create_selector("first").select(candidates[::-1], 3, encode) == candidates[:3]
    representative = create_selector("representative")
    center, *ends = (int(path.stem) for path in representative.select(candidates, 3, encode))
    assert center in {5, 6}
    assert set(ends) == {0, 11}
    assert sorted(representative.select(candidates, 12, lambda paths: torch.ones(len(paths), 2))) == candidates

    class Last(PromptSelector):
        def order(self, candidates, k_shot, encode):
            return list(range(len(candidates)))[::-1][:k_shot]

    monkeypatch.setitem(SELECTORS, "last", Last)
    assert create_selector("last").select(candidates, 2, encode) == candidates[:-3:-1]
    with pytest.raises(PromptError, match="prompt_selection='best': no such strategy"):
        create_selector("best")


def test_lists_are_read_in_every_form(candidates, tmp_path):
    assert read_prompt_list(tmp_path)[None] == candidates
    assert read_prompt_list(str(candidates[3])) == {None: [candidates[3]]}
    assert read_prompt_list([str(path) for path in candidates[:2]]) == {None: candidates[:2]}
    text = tmp_path / "list.txt"
    text.write_text("07.png\n\n 02.png \n")  # relative to the list, in its order
    assert read_prompt_list(text) == {None: [candidates[7], candidates[2]]}
    written = write_prompt_list({"ギア": [str(candidates[1])], "b": [str(candidates[0])]}, tmp_path / "out")
    assert read_prompt_list(written) == {"ギア": [candidates[1]], "b": [candidates[0]]}
    assert [path.name for path in written.parent.iterdir()] == ["prompts.json"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing", None, "no such folder or file"),
        ("gone.txt", b"nowhere.png\n", r"gone\.txt: names nowhere\.png"),
        ("blank.txt", b"\n\n", r"blank\.txt: holds no images"),
        ("latin.txt", b"\xe9.png\n", r"latin\.txt: not readable"),
        ("none.json", b"{}", r"none\.json: holds no images"),
        *[("prompts.json", text, r"prompts\.json: not readable") for text in (b"{", b"[1]", b'{"a": "7"}', b"\xff")],
        (".", None, "holds no images"),
    ],
)
def test_unusable_lists_are_named(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(PromptError, match=message):
        read_prompt_list(tmp_path / name)
    with pytest.raises(PromptError, match=r"prompts=\[\]: holds no images"):
        read_prompt_list([])


def test_lists_without_class_names_are_for_one_class_only(candidates, tmp_path):
    assert given_prompts(str(candidates[0]), ["gear"]) == {"gear": candidates[:1]}
    assert given_prompts(str(candidates[0]), []) == {"object": candidates[:1]}
    with pytest.raises(PromptError, match=r"several classes.*prompts\.json"):
        given_prompts(str(candidates[0]), ["gear", "cap"])
    written = write_prompt_list({"cap": [str(candidates[0])]}, tmp_path)
    assert given_prompts(str(written), ["gear", "cap"]) == {"cap": candidates[:1]}


def test_text_prompts():
    normal, abnormal = text_prompts("Visa/pipe_fryum")
    assert (len(set(normal)), len(set(abnormal))) == (154, 88)
    assert "a blurry photo of the flawless pipe fryum." in normal
    assert "a photo of a pipe fryum with damage for anomaly detection." in abnormal
    assert text_prompts("cat") == (
        ["a photo of cat for anomaly detection."],
        ["a photo without cat for anomaly detection."],
    )
    assert "a photo of a {x}." in text_prompts("{x}")[0]
