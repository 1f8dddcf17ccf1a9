# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Losses against their formulas, which part each of them trains, and no label leak."""

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F
from torch.testing import assert_close

from anomalib_inctrl import InCTRLv2, InCTRLv2Model
from anomalib_inctrl.data import PromptedBatch
from anomalib_inctrl.models.components.losses import BinaryFocalLoss, DiceLoss

NAMES = {f"{branch}_{loss}" for branch in ("pixel", "one_class") for loss in ("focal", "dice", "fused_dice")}


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal_loss_equals_the_formula(gamma):
    probability, label = torch.rand(20, dtype=torch.float64), torch.arange(20) % 2
    likelihood = [float(p) if y else 1 - float(p) for p, y in zip(probability, label, strict=True)]
    expected = sum(-0.5 * (1 - q) ** gamma * math.log(q) for q in likelihood) / 20
    assert float(BinaryFocalLoss(0.5, gamma)(probability, label)) == pytest.approx(expected, rel=1e-5)


def test_focal_loss_has_finite_gradients_at_certain_errors():
    probability = torch.tensor([0.0, 1.0, 0.0, 1.0], requires_grad=True)
    BinaryFocalLoss()(probability, torch.tensor([1, 0, 0, 1])).backward()
    assert probability.grad.isfinite().all()


@pytest.mark.parametrize("rule", ["complement", "literal"])
def test_dice_loss_and_gradient_equal_the_formula(rule):
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(3, 4, 5, generator=generator, requires_grad=True)
    mask = torch.rand(3, 4, 5, generator=generator) > 0.6
    mask[1] = False
    slow = torch.zeros(())
    for image in range(3):
        truth, values = mask[image].float(), maps[image]
        if rule == "complement" and not mask[image].any():
            truth, values = 1 - truth, 1 - values
        overlap = sum(float(t) * v for t, v in zip(truth.flatten(), values.flatten(), strict=True))
        slow = slow + (1 - (2 * overlap + 1) / (values.sum() + truth.sum() + 1)) / 3
    fast = DiceLoss(rule)(maps, mask)
    assert_close(fast, slow)
    assert_close(*(torch.autograd.grad(loss, maps)[0] for loss in (fast, slow)))


# ---------------------------------------------------------------------- losses of InCTRLv2


@pytest.fixture
def module(small):
    """Make an InCTRLv2 on a small backbone, in training."""

    def make(**options):
        lightning = InCTRLv2(backbone="demo-vit-16-240", pretrained=None, **options)
        shape = ("use_dasl", "use_oasl", "score_map")
        lightning.model = small(InCTRLv2Model, **{name: options[name] for name in shape if name in options})
        return lightning.train()

    return make


@pytest.fixture
def make_batch(images):
    """Make a batch of four queries, of which two have a defect, and two of the one-class branch's own."""
    mask = torch.zeros(6, 48, 48, dtype=torch.bool)
    mask[:2, 8:24, 8:30] = True
    batch = {
        "image": images[:6],
        "prompt_image": images[4:].unflatten(0, (6, 2)),
        "gt_label": torch.tensor([1, 1, 0, 0, 0, 0]),
        "gt_mask": mask,
        "mask_valid": torch.ones(6, dtype=torch.bool),
        "one_class": torch.tensor([False] * 4 + [True] * 2),
        "class_name": ["gear"] * 6,
    }
    return lambda **change: PromptedBatch(**batch | change)


@pytest.mark.parametrize(
    ("score_map", "reached"),
    [
        ("residual", {"image_scorer"}),
        ("dasl", {"image_scorer", "dasl_branch"}),
        ("fused", {"image_scorer", "dasl_branch", "oasl_branch"}),
    ],
)
def test_each_loss_trains_its_own_part(module, make_batch, score_map, reached):
    lightning = module(score_map=score_map)
    losses = lightning.training_losses(make_batch())
    assert losses.keys() == {"image_focal", *NAMES}
    for name, loss in losses.items():
        lightning.zero_grad()
        loss.backward(retain_graph=True)
        gradients = ((key.split(".")[1], value.grad) for key, value in lightning.named_parameters())
        trained = {part for part, gradient in gradients if gradient is not None and gradient.any()}
        branch = {"dasl_branch"} if name.startswith("pixel") else {"oasl_branch"}
        assert trained == (reached if name == "image_focal" else branch), name


def test_losses_equal_the_formulas(module, make_batch):
    lightning, batch = module(image_weight=2.0, pixel_weight=3.0, one_class_weight=5.0), make_batch()
    losses = lightning.training_losses(batch)
    query, context = lightning.model.encode_pairs(batch.image, batch.prompt_image, batch.class_name)
    main, extra = slice(0, 4), slice(4, 6)
    components = lightning.model.score_features(query.rows(main), context.rows(main))
    expected = {"image_focal": 2 * BinaryFocalLoss()(components.score, batch.gt_label[main])}
    for branch, rows, weight in (("pixel", main, 3), ("one_class", extra, 5)):
        components = lightning.model.score_features(query.rows(rows), context.rows(rows))
        residual = components.patch_map
        values = components.dasl_map if branch == "pixel" else components.oasl_map
        up, up_mean = (
            F.interpolate(each.view(-1, 1, 3, 3), size=(48, 48), mode="bilinear")[:, 0]
            for each in (values, (residual + values) / 2)
        )
        truth = batch.gt_mask[rows]  # empty for the one-class branch
        # Of the paper's two channels, the probability given to what is true.
        likelihood = torch.where(truth, up, 1 - up)
        expected[f"{branch}_focal"] = weight * (-((1 - likelihood) ** 2) * likelihood.log()).mean()
        expected[f"{branch}_dice"] = weight * DiceLoss()(up, truth)
        expected[f"{branch}_fused_dice"] = weight * DiceLoss()(up_mean, truth)
    assert_close(losses, expected, atol=1e-5, rtol=1e-5)


def test_one_class_queries_change_one_class_losses_only(module, make_batch, images):
    lightning = module()
    first, second = (
        lightning.training_losses(make_batch(image=images[rows])) for rows in (range(6), [*range(4), 8, 9])
    )
    for name in first:
        assert torch.equal(first[name], second[name]) == (not name.startswith("one_class")), name


def test_images_without_masks_have_image_losses_only(module, make_batch):
    lightning = module()
    whole, known = make_batch(), torch.tensor([True, False, True, False, True, True])
    names = ("image", "prompt_image", "gt_label", "gt_mask", "mask_valid", "one_class")
    fewer = make_batch(**{name: getattr(whole, name)[known] for name in names}, class_name=["gear"] * 4)
    expected = lightning.training_losses(fewer) | {"image_focal": lightning.training_losses(whole)["image_focal"]}
    assert_close(lightning.training_losses(make_batch(mask_valid=known)), expected)
    for batch in (make_batch(gt_mask=None), make_batch(mask_valid=torch.zeros(6, dtype=torch.bool))):
        losses = lightning.training_losses(batch)
        assert not losses["pixel_focal"].any()
        sum(losses.values()).backward()
        assert all(value.grad is not None for name, value in lightning.named_parameters() if "branch" in name)


def test_switched_off_branches_have_no_losses(module, make_batch):
    for switch, branch in (("use_dasl", "pixel"), ("use_oasl", "one_class")):
        losses = module(**{switch: False}).training_losses(make_batch())
        assert losses.keys() == {"image_focal", *(name for name in NAMES if not name.startswith(branch))}
    assert not module(use_oasl=False).needs_one_class_queries
    without = InCTRLv2(backbone="demo-vit-16-240", pretrained=None, pixel_losses=False)
    assert not without.needs_one_class_queries
    assert without.model.dasl_branch is without.model.oasl_branch is None


def test_bfloat16_training_is_finite_and_close(module, make_batch):
    lightning = module()
    expected = lightning.training_losses(make_batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = lightning.training_losses(make_batch())
    assert_close({name: loss.float() for name, loss in found.items()}, expected, atol=2e-2, rtol=2e-2)
    sum(found.values()).backward()
    assert all(value.grad.isfinite().all() for value in lightning.parameters() if value.grad is not None)


def test_head_trained_on_noise_stays_at_chance(small, pairs):
    """The authors' batch layout mixes blocks with samples, which lets the head reach an AUC of 0.90 on noise."""
    model, loss = small().train(), BinaryFocalLoss()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    # Normals first, as the authors' loader orders them; blocks differ in level, as in a network.
    labels, level = torch.arange(16) // 8, torch.arange(len(model.backbone.blocks)).view(-1, 1, 1)
    for _ in range(1000):
        components = model.score_features(*pairs(model, 16, level=level))
        optimizer.zero_grad()
        (loss(components.score, labels) + loss(components.image_score, labels)).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        scores = torch.cat([model.score_features(*pairs(model, 16, level=level)).score for _ in range(60)])
    # 960 scores: the standard error of the AUC is below 0.02.
    assert abs(roc_auc_score(labels.repeat(60), scores) - 0.5) < 0.1
