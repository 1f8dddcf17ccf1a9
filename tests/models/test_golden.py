# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""InCTRL agrees with the arithmetic of the authors' code, at every batch size."""

import open_clip
import pytest
import torch
from torch.testing import assert_close

from anomalib_inctrl import InCTRLModel
from anomalib_inctrl.backbones.text_prompts import text_prompts
from anomalib_inctrl.models.components.losses import BinaryFocalLoss
from anomalib_inctrl.models.inctrl.official import from_official, load_official_weights

EXACT = {"atol": 1e-5, "rtol": 0}
SCORES = {
    "score": "final_score",
    "image_score": "img_ref_score",
    "patch_map": "patch_ref_map",
    "patch_score": "max_patch_score",
    "head_score": "hl_score",
}


@pytest.fixture
def official(golden, official_weights):
    model = InCTRLModel(open_clip.model.CLIP(**golden["clip"]))
    load_official_weights(model, official_weights)
    return model


def score_pairs(model, pool, case):
    prompts = torch.stack([pool[index] for index in case["prompts"]])
    return model.score_features(*model.encode_pairs(pool[case["queries"]], prompts, case["classes"]))


def double_sigmoid_focal(probability, label):
    """The authors' focal loss, which takes the sigmoid of probabilities."""
    return BinaryFocalLoss()(probability.sigmoid(), label)


def test_features_equal_the_authors(official, golden, pool):
    features = official.backbone.encode_image(pool)
    assert_close(features.embedding, golden["tokens"], **EXACT)
    assert_close(features.patches[:1], golden["patches"], atol=5e-5, rtol=0)


def test_sentences_and_prototypes_equal_the_authors(official, golden):
    for class_name, expected in golden["texts"].items():
        normal, abnormal = text_prompts(class_name)
        assert sorted(normal) == sorted(expected["normal"])
        assert sorted(abnormal) == sorted(expected["abnormal"])
        assert_close(official.backbone.text_prototypes(class_name), expected["prototypes"], **EXACT)


@pytest.mark.parametrize("number", range(4))
def test_scores_equal_the_authors_at_batch_size_one(official, golden, pool, number):
    case = golden["cases"][number]
    official.set_prompts(pool[case["prompts"]], case["cls"])
    components = official.score_components(pool[[case["query"]]], case["cls"])
    for ours, theirs in (SCORES | {"text_score": "text_score"}).items():
        assert_close(getattr(components, ours).squeeze(), case[theirs].squeeze(), **EXACT)


@pytest.mark.parametrize("number", range(2))
def test_scores_of_a_batch_equal_the_per_sample_reference(official, golden, pool, number):
    batch = golden["batches"][number]
    components = score_pairs(official, pool, batch)
    for ours, theirs in (SCORES | {"patch_score": "fg_score"}).items():
        found = getattr(components, ours)
        assert_close(found, batch["expected"][theirs].reshape(found.shape), **EXACT)
    # The authors' mixed-up batch layout gives other values, so the comparison can fail.
    assert (components.score - batch["released_score"].flatten()).abs().max() > 1e-3


def test_focal_loss_equals_the_authors_after_their_second_sigmoid(golden):
    for label, name in ((1, "loss_y1"), (0, "loss_y0")):
        for probability, expected in zip(golden["focal"]["p"], golden["focal"][name], strict=True):
            assert_close(double_sigmoid_focal(probability, torch.tensor(label)), expected, **EXACT)


def test_training_step_equals_the_authors(official, golden, pool):
    step, close = golden["train"], {"atol": 1e-4, "rtol": 0}
    official.train()
    heads = {name: value for name, value in official.named_parameters() if value.requires_grad}
    optimizer = torch.optim.AdamW(heads.values(), lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    components = score_pairs(official, pool, step)
    assert_close(components.score, step["preds"], **close)
    assert_close(components.image_score, step["preds2"], **close)
    labels = torch.tensor(step["labels"])
    holistic, image = (double_sigmoid_focal(each, labels) for each in (components.score, components.image_score))
    assert_close(holistic, step["loss_holistic"], **close)
    assert_close(image, step["loss_image"], **close)

    (holistic + image).backward()
    # Names here by the authors' names: the conversion of one tensor has one key.
    ours = {name: heads[next(iter(from_official({name: torch.zeros(0)})[1]))] for name in step["grads"]}
    assert len(ours) == len(heads)

    def thinned(name, tensor):
        return tensor[::8] if name.startswith("adapter") else tensor

    for name, expected in step["grads"].items():
        largest = float(expected.abs().max())
        assert_close(thinned(name, ours[name].grad), expected, atol=5e-3 * largest, rtol=0, msg=name)
    optimizer.step()
    for name, expected in step["params_after"].items():
        gradient = step["grads"][name]
        decided = gradient.abs() > 1e-3 * gradient.abs().max()
        assert_close(thinned(name, ours[name].detach())[decided], expected[decided], **close, msg=name)
