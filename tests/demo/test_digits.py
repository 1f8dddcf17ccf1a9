# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The digits of scikit-learn as a semantic target."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from anomalib_inctrl.data import DataSource, GeneralistDataModule
from anomalib_inctrl.demo import ScikitDigits
from anomalib_inctrl.errors import DatasetError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("digits") / "ScikitDigits"
    ScikitDigits(root).prepare_data()
    return root


def _prepared(root, category) -> ScikitDigits:
    datamodule = ScikitDigits(root, category, num_workers=0)
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


@pytest.mark.parametrize(("category", "normal"), [("digit_3", {3}), ("even_digit", {0, 2, 4, 6, 8})])
def test_labels_and_split(root, category, normal):
    target = load_digits().target
    tested = np.arange(len(target)) % 6 == 0
    datamodule = _prepared(root, category)
    train, test = datamodule.train_data.samples, datamodule.test_data.samples
    assert (train.label_index == 0).all()
    assert len(train) == np.isin(target[~tested], list(normal)).sum()
    assert len(test) == tested.sum()
    assert (test.label_index == 0).sum() == np.isin(target[tested], list(normal)).sum()


def test_pictures_are_those_of_scikit_learn(root):
    digits = load_digits()
    test = np.flatnonzero(np.arange(len(digits.target)) % 6 == 0)
    for number in (0, 17, 299):
        label = f"digit_{digits.target[test[number]]}"
        with Image.open(root / "digits" / "test" / label / f"{number:05}.png") as image:
            found = np.asarray(image).astype(float)
        np.testing.assert_allclose(found / 255 * 16, digits.images[test[number]], atol=0.04)


def test_written_once(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.png")}
    ScikitDigits(root, "even_digit").prepare_data()
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*.png")}
    assert len(before) == 1797


def test_target_of_a_generalist(root):
    datamodule = GeneralistDataModule(targets=[DataSource("ScikitDigits", str(root), ["digit_1", "even_digit"])])
    datamodule.prepare_data()
    datamodule.setup("test")
    assert set(datamodule.prompt_candidates()) == {"digit_1", "even_digit"}
    assert len(datamodule.test_data) == 600


def test_unknown_category(root):
    with pytest.raises(DatasetError, match=r"digit_11.*digit_0"):
        ScikitDigits(root, "digit_11")
