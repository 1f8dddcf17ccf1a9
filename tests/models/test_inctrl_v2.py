# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""InCTRLv2: branches, fusion and losses against their formulas, and which loss trains which part."""

import itertools

import open_clip
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from anomalib_inctrl import InCTRLv2, InCTRLv2Model
from anomalib_inctrl.backbones import ImageFeatures
from anomalib_inctrl.data import PromptedBatch
from anomalib_inctrl.models.components.branches import SemanticBranch
from anomalib_inctrl.models.components.losses import DiceLoss
from anomalib_inctrl.models.components.prompt_bank import PromptContext
from anomalib_inctrl.models.components.residuals import unit

CONFIG = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 48, "layers": 4, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture
def make():
    def build(**options):
        torch.manual_seed(0)
        model = InCTRLv2Model(backbone=open_clip.model.CLIP(**CONFIG), **options)
        model.heads_trained = True
        return model

    return build


def sample(model, batch=3, k_shot=2, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    backbone = model.backbone
    shape = (len(backbone.blocks), backbone.num_patches, backbone.patch_width)
    query = ImageFeatures(draw(batch, *shape), draw(batch, backbone.embed_dim))
    context = PromptContext(
        unit(draw(batch, k_shot, *shape)),
        draw(batch, k_shot, backbone.embed_dim),
        unit(draw(batch, 2, backbone.embed_dim)),
    )
    return query, context


# ---------------------------------------------------------------------- formulas, written out


@pytest.mark.parametrize("per_block", [False, True])
def test_branch_map_equals_the_formula(per_block):
    torch.manual_seed(0)
    branch = SemanticBranch(8, 6, 3, temperature=0.2, adapter_per_block=per_block).double()
    patches, prototypes = torch.randn(2, 3, 5, 8).double(), unit(torch.randn(2, 2, 6).double())
    expected = torch.zeros(2, 5).double()
    for b, p, layer in itertools.product(range(2), range(5), range(3)):
        first, _, second = branch.adapters[layer if per_block else 0]
        adapted = second.weight @ F.gelu(first.weight @ patches[b, layer, p])
        adapted = adapted / adapted.norm()
        normal, abnormal = ((adapted @ prototypes[b, row] / 0.2).exp() for row in range(2))
        expected[b, p] += abnormal / (normal + abnormal) / 3
    assert_close(branch(patches, prototypes), expected)
    assert_close(branch(patches[:1], prototypes[0]), expected[:1])


@pytest.mark.parametrize("seed", range(5))
def test_dice_loss_and_gradient_equal_the_formula(seed):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(3, 4, 5, generator=generator, requires_grad=True)
    mask = torch.rand(3, 4, 5, generator=generator) > 0.6
    mask[1] = False
    for rule in ("complement", "literal"):
        slow = torch.zeros(())
        for image in range(3):
            truth, values = mask[image].float(), maps[image]
            if rule == "complement" and not mask[image].any():
                truth, values = 1 - truth, 1 - values
            overlap = sum(float(t) * v for t, v in zip(truth.flatten(), values.flatten(), strict=True))
            slow = slow + (1 - (2 * overlap + 1) / (values.sum() + truth.sum() + 1)) / 3
        fast = DiceLoss(rule)(maps, mask)
        assert_close(fast, slow)
        assert_close(*(torch.autograd.grad(loss, maps, retain_graph=True)[0] for loss in (fast, slow)))


def test_dice_loss_has_a_gradient_on_empty_masks_by_the_complement_rule():
    maps = torch.full((1, 240, 240), 0.5, requires_grad=True)
    empty = torch.zeros(1, 240, 240)
    steps = {}
    for rule in ("complement", "literal"):
        (gradient,) = torch.autograd.grad(DiceLoss(rule)(maps, empty), maps)
        assert (gradient > 0).all()
        steps[rule] = float(gradient.sum())
    assert steps["literal"] < 1e-4
    assert steps["complement"] > 0.3
    assert float(DiceLoss()(torch.zeros(1, 8, 8), torch.zeros(1, 8, 8))) == 0
    with pytest.raises(ValueError, match="empty_mask='none'"):
        DiceLoss("none")


@pytest.mark.parametrize("score_map", ["residual", "dasl", "fused"])
@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.75), (0.0, 1.0), (1.0, 0.0)])
def test_score_and_map_equal_the_formula(make, score_map, alpha, beta):
    model = make(score_map=score_map, alpha=alpha, beta=beta)
    query, context = sample(model)
    components = model.score_features(query, context)
    dasl = (components.patch_map + model.dasl_branch(query.patches, context.prototypes)) / 2
    oasl = (components.patch_map + model.oasl_branch(query.patches, context.prototypes)) / 2
    fused = (1 - beta) * dasl + beta * oasl
    assert_close(components.anomaly_map, fused)
    scored = {"residual": components.patch_map, "dasl": dasl, "fused": fused}[score_map]
    assert_close(components.patch_score, scored.amax(dim=1))
    image_score = model.image_scorer(query.embedding, context.embeddings)
    assert_close(components.score, (1 - alpha) * (image_score + components.text_score) / 2 + alpha * scored.amax(dim=1))


@pytest.mark.parametrize("used", [used for size in (1, 2, 3) for used in itertools.combinations("TPI", size)])
def test_score_is_the_mean_of_the_components_in_use(make, used):
    model = make(use_text="T" in used, use_patch="P" in used, use_image="I" in used)
    components = model.score_features(*sample(model))
    semantic = [components.text_score] * ("T" in used) + [components.image_score] * ("I" in used)
    if not semantic:
        expected = components.patch_score
    elif "P" in used:
        expected = (sum(semantic) / len(semantic) + components.patch_score) / 2
    else:
        expected = sum(semantic) / len(semantic)
    assert_close(components.score, expected)
    assert (components.image_score is None) == ("I" not in used)


def test_anomaly_map_without_branches(make):
    model = make(use_dasl=False)
    components = model.score_features(*sample(model))
    assert components.dasl_map is None
    assert_close(
        components.anomaly_map, 0.25 * components.patch_map + 0.75 * (components.patch_map + components.oasl_map) / 2
    )
    model = make(use_oasl=False)
    components = model.score_features(*sample(model))
    assert components.oasl_map is None
    assert_close(components.anomaly_map, (components.patch_map + components.dasl_map) / 2)
    model = make(use_dasl=False, use_oasl=False)
    components = model.score_features(*sample(model))
    assert_close(components.anomaly_map, components.patch_map)


def test_zero_shot_map_is_that_of_the_discriminative_branch(make):
    model = make()
    query, context = sample(model, k_shot=0)
    components = model.score_features(query, context)
    assert_close(components.anomaly_map, model.dasl_branch(query.patches, context.prototypes))
    assert_close(components.score, components.text_score)


# ---------------------------------------------------------------------- losses


@pytest.fixture
def module():
    """An InCTRLv2 on a small backbone, in training."""

    def build(**options):
        lightning = InCTRLv2(backbone="demo-vit-16-240", pretrained=None, **options)
        torch.manual_seed(0)
        names = ("use_dasl", "use_oasl", "score_map", "alpha", "beta")
        lightning.model = InCTRLv2Model(
            backbone=open_clip.model.CLIP(**CONFIG), **{name: options[name] for name in names if name in options}
        )
        return lightning.train()

    return build


def make_batch(one_class=2, masks=True, mask_valid=None):
    generator = torch.Generator().manual_seed(0)
    size = 4 + one_class
    gt_mask = torch.zeros(size, 48, 48, dtype=torch.bool)
    gt_mask[:2, 8:24, 8:30] = True
    return PromptedBatch(
        image=torch.randn(size, 3, 48, 48, generator=generator),
        prompt_image=torch.randn(size, 2, 3, 48, 48, generator=generator),
        gt_label=torch.tensor([1, 1, 0, 0] + [0] * one_class),
        gt_mask=gt_mask if masks else None,
        mask_valid=torch.ones(size, dtype=torch.bool) if mask_valid is None else torch.tensor(mask_valid),
        one_class=torch.tensor([False] * 4 + [True] * one_class),
        class_name=["gear"] * size,
    )


GROUPS = {"image": "image_scorer", "pixel": "dasl_branch", "one_class": "oasl_branch"}


@pytest.mark.parametrize(
    ("score_map", "reached"),
    [("residual", {"image_scorer"}), ("dasl", {"image_scorer", "dasl_branch"}), ("fused", set(GROUPS.values()))],
)
def test_each_loss_trains_its_own_group(module, score_map, reached):
    lightning = module(score_map=score_map)
    losses = lightning.training_losses(make_batch())
    assert set(losses) == {
        "image_focal", "pixel_focal", "pixel_dice", "pixel_fused_dice",
        "one_class_focal", "one_class_dice", "one_class_fused_dice",
    }  # fmt: skip
    expected = {"image": reached, "pixel": {"dasl_branch"}, "one_class": {"oasl_branch"}}
    for name, loss in losses.items():
        lightning.zero_grad()
        loss.backward(retain_graph=True)
        found = {
            parameter.split(".")[1]
            for parameter, value in lightning.named_parameters()
            if value.grad is not None and value.grad.abs().max() > 0
        }
        branch = next(branch for branch in GROUPS if name.startswith(branch))
        assert found == expected[branch], name


def test_losses_equal_the_formulas(module):
    lightning = module(image_weight=2.0, pixel_weight=3.0, one_class_weight=5.0)
    batch = make_batch()
    losses = lightning.training_losses(batch)
    model = lightning.model
    query, context = model.encode_pairs(batch.image, batch.prompt_image, batch.class_name)
    main, extra = slice(0, 4), slice(4, 6)
    components = model.score_features(query.rows(main), context.rows(main))

    def up(values):
        return F.interpolate(values.view(-1, 1, 3, 3), size=(48, 48), mode="bilinear")[:, 0]

    def focal(values, truth):
        # Two channels, as the paper has it: the probability given to what is true.
        likelihood = torch.where(truth.bool(), up(values), up(1 - values))
        return (-((1 - likelihood) ** 2) * likelihood.log()).mean()

    dice = DiceLoss()
    truth = batch.gt_mask[main]
    dasl = model.dasl_branch(query.patches[main], context.prototypes[main])
    oasl = model.oasl_branch(query.patches[extra], context.prototypes[extra])
    residual = components.patch_map, model.baseline_components(query.rows(extra), context.rows(extra)).patch_map
    empty = torch.zeros(2, 48, 48)
    expected = {
        "image_focal": 2 * lightning.loss(components.score, batch.gt_label[main]),
        "pixel_focal": 3 * focal(dasl, truth),
        "pixel_dice": 3 * dice(up(dasl), truth),
        "pixel_fused_dice": 3 * dice(up((residual[0] + dasl) / 2), truth),
        "one_class_focal": 5 * focal(oasl, empty),
        "one_class_dice": 5 * dice(up(oasl), empty),
        "one_class_fused_dice": 5 * dice(up((residual[1] + oasl) / 2), empty),
    }
    for name, value in expected.items():
        assert_close(losses[name], value, atol=1e-5, rtol=1e-5, msg=name)


def test_one_class_queries_change_one_class_losses_only(module):
    lightning = module()
    first = lightning.training_losses(make_batch())
    batch = make_batch()
    batch.image[4:] = torch.randn_like(batch.image[4:])
    second = lightning.training_losses(batch)
    for name in first:
        assert torch.equal(first[name], second[name]) == (not name.startswith("one_class")), name


def test_images_without_masks_have_image_losses_only(module):
    lightning = module()
    some = lightning.training_losses(make_batch(mask_valid=[True, False, True, False, True, True]))
    batch = make_batch()
    components = lightning.model.score_features(
        *lightning.model.encode_pairs(batch.image[:4], batch.prompt_image[:4], batch.class_name[:4])
    )
    known = torch.tensor([0, 2])
    maps = F.interpolate(components.dasl_map[known].view(2, 1, 3, 3), size=(48, 48), mode="bilinear")[:, 0]
    assert_close(some["pixel_dice"], DiceLoss()(maps, batch.gt_mask[:4][known]))
    assert_close(some["image_focal"], lightning.training_losses(make_batch())["image_focal"])
    for batch in (make_batch(masks=False), make_batch(mask_valid=[False] * 6)):
        losses = lightning.training_losses(batch)
        assert float(losses["pixel_focal"]) == 0
        sum(losses.values()).backward()
        assert all(value.grad is not None for name, value in lightning.named_parameters() if "branch" in name)


def test_switched_off_branches_have_no_losses(module):
    assert not [name for name in module(use_dasl=False).training_losses(make_batch()) if name.startswith("pixel")]
    assert not [name for name in module(use_oasl=False).training_losses(make_batch()) if name.startswith("one_class")]
    assert not InCTRLv2(backbone="demo-vit-16-240", pretrained=None, use_oasl=False).needs_one_class_queries
    model = InCTRLv2(backbone="demo-vit-16-240", pretrained=None, pixel_losses=False)
    assert not model.needs_one_class_queries
    assert model.model.dasl_branch is None
    assert model.model.oasl_branch is None


def test_bfloat16_training_is_finite_and_close(module):
    lightning = module()
    expected = lightning.training_losses(make_batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = lightning.training_losses(make_batch())
    for name, value in found.items():
        assert value.isfinite()
        assert_close(value.float(), expected[name], atol=2e-2, rtol=2e-2, msg=name)
    sum(found.values()).backward()
    assert all(p.grad.isfinite().all() for p in lightning.parameters() if p.grad is not None)
