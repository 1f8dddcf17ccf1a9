# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""InCTRL agrees with the arithmetic of the authors' code, at every batch size."""

import pytest
import torch
from torch.testing import assert_close

from anomalib_inctrl.backbones.text_prompts import text_prompts
from anomalib_inctrl.models.components.losses import BinaryFocalLoss

EXACT = {"atol": 1e-5, "rtol": 0}
SCORES = {
    "score": "final_score",
    "image_score": "img_ref_score",
    "patch_map": "patch_ref_map",
    "patch_score": "max_patch_score",
    "head_score": "hl_score",
}


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
    assert_close(components.text_score.squeeze(), case["text_score"], **EXACT)
    for ours, theirs in SCORES.items():
        assert_close(getattr(components, ours).squeeze(), case[theirs].squeeze(), **EXACT)


@pytest.mark.parametrize("number", range(2))
def test_scores_of_a_batch_equal_the_per_sample_reference(official, golden, pool, number):
    batch = golden["batches"][number]
    prompts = torch.stack([pool[index] for index in batch["prompts"]])
    components = official.score_features(*official.encode_pairs(pool[batch["queries"]], prompts, batch["classes"]))
    for ours, theirs in (SCORES | {"patch_score": "fg_score"}).items():
        assert_close(
            getattr(components, ours), batch["expected"][theirs].reshape(getattr(components, ours).shape), **EXACT
        )
    # The authors' mixed-up batch layout gives other values, so the comparison can fail.
    assert (components.score - batch["released_score"].flatten()).abs().max() > 1e-3


def double_sigmoid_focal(probability, label):
    """The authors' focal loss, which takes the sigmoid of probabilities."""
    return BinaryFocalLoss()(probability.sigmoid(), label)


def test_focal_loss_equals_the_authors_after_their_second_sigmoid(golden):
    rows = zip(*(golden["focal"][key] for key in ("p", "loss_y1", "loss_y0")), strict=True)
    for probability, abnormal, normal in rows:
        assert_close(double_sigmoid_focal(probability, torch.tensor(1)), abnormal, **EXACT)
        assert_close(double_sigmoid_focal(probability, torch.tensor(0)), normal, **EXACT)


def test_training_step_equals_the_authors(official, golden, pool):
    step = golden["train"]
    official.train()
    heads = [parameter for parameter in official.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(heads, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    prompts = torch.stack([pool[index] for index in step["prompts"]])
    components = official.score_features(*official.encode_pairs(pool[step["queries"]], prompts, step["classes"]))
    labels = torch.tensor(step["labels"])
    losses = {
        "loss_holistic": double_sigmoid_focal(components.score, labels),
        "loss_image": double_sigmoid_focal(components.image_score, labels),
    }
    assert_close(components.score, step["preds"], atol=1e-4, rtol=0)
    assert_close(components.image_score, step["preds2"], atol=1e-4, rtol=0)
    for name, loss in losses.items():
        assert_close(loss, step[name], atol=1e-4, rtol=0)

    sum(losses.values()).backward()
    layers = {"projection1": 0, "bn2": 2, "projection2": 3, "bn3": 5, "projection3": 6}
    ours = {
        f"{theirs}.{name}.{kind}": getattr(head.layers[index], kind)
        for theirs, head in (("diff_head_ref", official.image_scorer.head), ("diff_head", official.map_head))
        for name, index in layers.items()
        for kind in ("weight", "bias")
    } | {f"adapter.fc.{index}.weight": official.image_scorer.adapter.fc[index].weight for index in (0, 2)}
    assert ours.keys() == step["grads"].keys()

    def thinned(name, tensor):
        return tensor[::8] if name.startswith("adapter") else tensor

    for name, expected in step["grads"].items():
        largest = float(expected.abs().max())
        assert_close(thinned(name, ours[name].grad), expected, atol=5e-3 * largest, rtol=0, msg=name)
    optimizer.step()
    for name, expected in step["params_after"].items():
        gradient = step["grads"][name]
        decided = gradient.abs() > 1e-3 * gradient.abs().max()
        assert_close(thinned(name, ours[name].detach())[decided], expected[decided], atol=1e-4, rtol=0, msg=name)
