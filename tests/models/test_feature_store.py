# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The stores of features: what is kept is found again, damaged or foreign files are not used."""

import multiprocessing
import os
import shutil

import pytest
import torch
from torch.testing import assert_close

from anomalib_inctrl.backbones import ImageFeatures
from anomalib_inctrl.errors import ImageFileError
from anomalib_inctrl.models.components.feature_store import FeatureStore, ImageKeys
from tests.processes import needs_fork, start_process

SETTINGS = {"backbone": "a", "weights": "b", "blocks": [7, 9], "pre_processor": {"image_size": 240}, "precision": "32"}


def features(seed=0, shape=(2, 5, 7)):
    generator = torch.Generator().manual_seed(seed)
    return ImageFeatures(torch.randn(*shape, generator=generator), torch.randn(3, generator=generator))


def same(one, other):
    return torch.equal(one.patches, other.patches) and torch.equal(one.embedding, other.embedding)


@pytest.fixture(params=["memory", "folder"])
def store(request, tmp_path):
    return FeatureStore(SETTINGS, None if request.param == "memory" else tmp_path)


@pytest.fixture
def written(tmp_path):
    """A store with the features of one image, these, and their file."""
    store = FeatureStore(SETTINGS, tmp_path)
    kept = store.put("aa", features())
    (path,) = tmp_path.rglob("aa.safetensors")
    return store, kept, path


def test_features_are_kept_in_half_precision(store):
    kept = {key: store.put(key, features(seed)) for seed, key in enumerate(["aa", "ab", "ba"])}
    found, absent, other = store.get(["ba", "no", "aa"])
    assert absent is None
    assert same(found, kept["ba"])
    assert same(other, kept["aa"])
    assert ("aa" in store, "no" in store) == (True, False)
    assert found.patches.dtype == torch.float16
    assert_close(found.patches.float(), features(2).patches, rtol=2**-11, atol=1e-7)
    assert_close(found.embedding.float(), features(2).embedding, rtol=2**-11, atol=1e-7)


def test_kept_features_are_copies_and_no_inference_tensors(store):
    batch = torch.zeros(100, 2, 5, 7, dtype=torch.float16)
    with torch.inference_mode():
        store.put("aa", ImageFeatures(batch[3], features().embedding))
    batch += 1
    (found,) = store.get(["aa"])
    assert found.patches.untyped_storage().nbytes() == 2 * 5 * 7 * 2
    assert not found.patches.is_inference()
    assert not found.patches.any()


@pytest.mark.parametrize("value", [1e5, float("nan")])
def test_values_beyond_half_precision_are_refused(store, value):
    one = features()
    one.patches[0, 1, 2] = value
    with pytest.raises(OverflowError, match=r"--data\.feature_store null"):
        store.put("aa", one)
    assert "aa" not in store


@pytest.mark.parametrize("change", [{"weights": "c"}, {"blocks": [7, 10]}, {"pre_processor": {"image_size": 224}}])
def test_other_settings_find_nothing(written, tmp_path, change):
    store, _, path = written
    other = FeatureStore(SETTINGS | change, tmp_path)
    assert other.get(["aa"]) == [None]
    other.put("ab", features(1))
    # Nor does a file that was copied under another image's name, or from another store.
    shutil.copy(path, path.with_name("ac.safetensors"))
    shutil.copy(next(tmp_path.rglob("ab.safetensors")), path.with_name("ab.safetensors"))
    assert store.get(["ac", "ab"]) == [None, None]


def test_damaged_files_are_reported_never_used_and_written_again(written, caplog):
    store, kept, path = written
    content = path.read_bytes()
    for damaged in (b"", content[:-1], content + b"x"):
        path.write_bytes(damaged)
        caplog.clear()
        assert store.get(["aa"]) == [None]
        assert str(path) in caplog.text
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        (found,) = store.get(["aa"])
        assert found is None or same(found, kept)  # blanks of the header have no meaning
    store.put("aa", features())
    assert same(store.get(["aa"])[0], kept)


def keep_writing(folder, count, ready):
    torch.set_num_threads(1)
    store = FeatureStore(SETTINGS, folder)
    for number in range(count):
        store.put(f"k{number % 20:02}", features(number % 20, (40, 100, 64)))
        ready.set()


@needs_fork
def test_several_processes_write_and_one_is_killed(tmp_path):
    ready = multiprocessing.get_context("forkserver").Event()
    endless, *writers = (start_process(keep_writing, tmp_path, count, ready) for count in (10**9, 40, 40))
    assert ready.wait(60)
    endless.kill()
    for process in (endless, *writers):
        process.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    found = FeatureStore(SETTINGS, tmp_path).get([f"k{number:02}" for number in range(20)])
    for seed, one in enumerate(found):
        assert torch.equal(one.patches, features(seed, (40, 100, 64)).patches.half())


def test_images_are_identified_by_content(tmp_path):
    key = ImageKeys()
    one, other, third = (tmp_path / name for name in ("one.png", "other.png", "third.png"))
    for path, content in ((one, b"an image"), (other, b"an image"), (third, b"another image")):
        path.write_bytes(content)
    assert key(one) == key(other) != key(third)
    one.write_bytes(b"an imaje")
    os.utime(one, ns=(1, 1))
    assert key(one) != key(other)
    one.unlink()
    with pytest.raises(ImageFileError, match=r"one\.png"):
        key(one)
