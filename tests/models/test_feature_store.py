# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The stores: what goes in comes out, and nothing else ever does."""

import copy
import multiprocessing
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from anomalib_inctrl.backbones import ImageFeatures
from anomalib_inctrl.data import feature_store
from anomalib_inctrl.errors import ImageFileError
from anomalib_inctrl.models.components.feature_store import FolderStore, ImageKeys, MemoryStore, available_memory

SETTINGS = {"backbone": "a", "weights": "b", "blocks": [7, 9], "pre_processor": {"image_size": 240}, "precision": "32"}


def features(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return ImageFeatures(torch.randn(2, 5, 7, generator=generator), torch.randn(3, generator=generator))


@pytest.fixture(params=["memory", "folder"])
def open_store(request, tmp_path):
    def make(**changes):
        settings = SETTINGS | changes
        return MemoryStore(settings) if request.param == "memory" else FolderStore(settings, tmp_path / "store")

    return make


def same(one, other):
    return torch.equal(one.patches, other.patches) and torch.equal(one.embedding, other.embedding)


def test_what_goes_in_comes_out_in_half_precision(open_store):
    store = open_store()
    kept = {key: store.put(key, features(seed)) for seed, key in enumerate(["aa", "ab", "ba"])}
    found = store.get(["ba", "no", "aa"])
    assert found[1] is None
    assert same(found[0], kept["ba"])
    assert same(found[2], kept["aa"])
    assert found[0].patches.dtype == torch.float16
    assert "aa" in store
    assert "no" not in store
    expected = features(2)
    assert_close(found[0].patches.float(), expected.patches, rtol=2**-11, atol=1e-7)
    assert_close(found[0].embedding.float(), expected.embedding, rtol=2**-11, atol=1e-7)


def test_what_is_kept_is_no_view_and_no_inference_tensor(open_store):
    store = open_store()
    batch = torch.zeros(100, 2, 5, 7, dtype=torch.float16)
    with torch.inference_mode():
        store.put("aa", ImageFeatures(batch[3], features().embedding))
    (found,) = store.get(["aa"])
    assert found.patches.untyped_storage().nbytes() == 2 * 5 * 7 * 2
    assert not found.patches.is_inference()
    batch += 1
    assert float(found.patches.sum()) == 0


@pytest.mark.parametrize("value", [1e5, float("nan"), float("inf")])
def test_values_beyond_half_precision_are_refused(open_store, value):
    store, one = open_store(), features()
    one.patches[0, 1, 2] = value
    with pytest.raises(OverflowError, match=r"--data\.feature_store null"):
        store.put("aa", one)
    assert "aa" not in store


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "c"}, {"blocks": [7, 10]}, {"backbone": "z"}, {"precision": "bf16-mixed"},
        {"pre_processor": {"image_size": 224}}, {"format": 2},
    ],
)  # fmt: skip
def test_other_settings_find_nothing(tmp_path, change):
    FolderStore(SETTINGS, tmp_path).put("aa", features())
    assert FolderStore(SETTINGS, tmp_path).get(["aa"])[0] is not None
    assert FolderStore(SETTINGS | change, tmp_path).get(["aa"]) == [None]


def corruptions():
    def flip(content, place):
        return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]

    return {
        "empty": lambda content: b"",
        "cut": lambda content: content[:-1],
        "half": lambda content: content[: len(content) // 2],
        "longer": lambda content: content + b"x",
        "first bit": lambda content: flip(content, 0),
        "header": lambda content: flip(content, 40),
        "last bit": lambda content: flip(content, len(content) - 1),
        "a value": lambda content: flip(content, len(content) - 50),
        "other file": lambda content: b"hello world, I am no store",
    }


@pytest.mark.parametrize("damage", corruptions())
def test_a_damaged_file_is_told_and_not_used(tmp_path, damage, caplog):
    store = FolderStore(SETTINGS, tmp_path)
    kept = store.put("aa", features())
    (path,) = tmp_path.rglob("aa.safetensors")
    path.write_bytes(corruptions()[damage](path.read_bytes()))
    assert store.get(["aa"]) == [None]
    assert str(path) in caplog.text
    store.put("aa", features())
    assert same(store.get(["aa"])[0], kept)


def test_every_bit_of_a_file_matters(tmp_path):
    store = FolderStore(SETTINGS, tmp_path)
    kept = store.put("aa", features())
    (path,) = tmp_path.rglob("aa.safetensors")
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        (found,) = store.get(["aa"])
        # Space in the header may change its kind; what is read never does.
        assert found is None or same(found, kept)


def test_a_file_under_another_images_or_other_settings_name_is_not_used(tmp_path):
    store, other = FolderStore(SETTINGS, tmp_path), FolderStore(SETTINGS | {"weights": "c"}, tmp_path)
    store.put("aa", features(0))
    other.put("ab", features(1))
    path = next(tmp_path.rglob("aa.safetensors"))
    shutil.copy(path, path.with_name("ac.safetensors"))
    shutil.copy(next(tmp_path.rglob("ab.safetensors")), path.with_name("ab.safetensors"))
    assert store.get(["ac", "ab"]) == [None, None]


def keep_writing(folder, count, ready):
    torch.set_num_threads(1)
    store = FolderStore(SETTINGS, folder)
    for number in range(count):
        store.put(f"k{number % 20:02}", large(number % 20))
        ready.set()


def large(seed):
    generator = torch.Generator().manual_seed(seed)
    return ImageFeatures(torch.randn(40, 100, 64, generator=generator), torch.randn(3, generator=generator))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="importing everything in three processes takes long")
def test_several_writers_one_of_them_killed(tmp_path):
    """Two processes write the same images, a third is killed in the middle: all that is there is whole."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    endless = context.Process(target=keep_writing, args=(tmp_path, 10**9, ready))
    writers = [context.Process(target=keep_writing, args=(tmp_path, 60, ready)) for _ in range(2)]
    for process in (endless, *writers):
        process.start()
    assert ready.wait(60)
    endless.kill()
    for process in (endless, *writers):
        process.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    found = FolderStore(SETTINGS, tmp_path).get([f"k{number:02}" for number in range(20)])
    for seed, one in enumerate(found):
        assert torch.equal(one.patches, large(seed).patches.half())


def test_a_pickled_memory_store_is_empty():
    store = MemoryStore(SETTINGS)
    store.put("aa", features())
    for clone in (pickle.loads(pickle.dumps(store)), copy.deepcopy(store)):
        assert clone.get(["aa"]) == [None]
        assert clone.digest == store.digest
    assert "aa" in store


def test_images_are_known_by_content(tmp_path):
    key = ImageKeys()
    one, other, third = (tmp_path / name for name in ("one.png", "other.png", "third.png"))
    one.write_bytes(b"a picture")
    other.write_bytes(b"a picture")
    third.write_bytes(b"another picture")
    assert key(one) == key(other) != key(third)
    one.write_bytes(b"a pikture")
    os.utime(one, ns=(1, 1))
    assert key(one) != key(other)
    one.unlink()
    with pytest.raises(ImageFileError, match=r"one\.png"):
        key(one)


def test_a_file_is_hashed_once(tmp_path, monkeypatch):
    key, path = ImageKeys(), tmp_path / "one.png"
    path.write_bytes(b"a picture")
    first = key(path)
    monkeypatch.setattr(Path, "read_bytes", None)
    assert key(path) == first


def test_available_memory_is_the_least_of_system_and_container(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_store, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(feature_store, "_CGROUP", tmp_path)
    assert available_memory() is None
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:   2000 kB\n")
    assert available_memory() == 2000 * 1024
    (tmp_path / "memory.current").write_text("4000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory() == 2000 * 1024
    (tmp_path / "memory.max").write_text("5000\n")
    assert available_memory() == 1000
