# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The digits of scikit-learn as a semantic target."""

import numpy as np
import pytest
from anomalib.data.utils import read_image
from sklearn.datasets import load_digits

from anomalib_inctrl.data import DataSource, GeneralistDataModule
from anomalib_inctrl.demo import ScikitDigits

DIGITS = load_digits()
TESTED = np.arange(len(DIGITS.target)) % 6 == 0


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("digits") / "ScikitDigits"
    ScikitDigits(root).prepare_data()
    return root


@pytest.mark.parametrize(("category", "normal"), [("digit_3", [3]), ("even_digit", [0, 2, 4, 6, 8])])
def test_labels_and_split(root, category, normal):
    datamodule = ScikitDigits(root, category, num_workers=0)
    datamodule.setup()
    train, test = datamodule.train_data.samples, datamodule.test_data.samples
    assert (train.label_index == 0).all()
    assert len(train) == np.isin(DIGITS.target[~TESTED], normal).sum()
    assert len(test) == TESTED.sum()
    assert (test.label_index == 0).sum() == np.isin(DIGITS.target[TESTED], normal).sum()


def test_images_are_those_of_scikit_learn(root):
    for number in (0, 17, 299):
        row = np.flatnonzero(TESTED)[number]
        image = read_image(root / "digits" / "test" / f"digit_{DIGITS.target[row]}" / f"{number:05}.png")
        np.testing.assert_allclose(image[:, :, 0] * 16, DIGITS.images[row], atol=0.04)


def test_digits_are_targets_of_a_generalist(root):
    datamodule = GeneralistDataModule(targets=[DataSource("ScikitDigits", str(root), ["digit_1", "even_digit"])])
    datamodule.prepare_data()
    datamodule.setup("test")
    assert set(datamodule.prompt_candidates()) == {"digit_1", "even_digit"}
    assert len(datamodule.test_data) == 600
