# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What the batch layout of the authors' code does, as docs/differences.md tells it."""

import torch
from sklearn.metrics import roc_auc_score

from anomalib_inctrl.backbones import ImageFeatures
from anomalib_inctrl.models.components.losses import BinaryFocalLoss
from anomalib_inctrl.models.components.prompt_bank import PromptContext
from anomalib_inctrl.models.components.residuals import unit


def mixed(features):
    """``(B, L, ...)`` as the authors' code has it: stacked as ``(L, B, ...)``, reshaped without a permutation."""
    return features.transpose(0, 1).reshape(features.shape)


def cells(batch, layers):
    """Which (sample, block) stands in each cell: once as it should, once as it does, ``(B, L, 2)``."""
    grid = torch.cartesian_prod(torch.arange(batch), torch.arange(layers)).view(batch, layers, 2)
    return grid, mixed(grid)


def test_at_batch_size_16_two_of_48_cells_are_right():
    right, theirs = cells(batch=16, layers=3)
    assert int((right == theirs).all(dim=-1).sum()) == 2


def test_at_batch_size_1_all_are_right():
    right, theirs = cells(batch=1, layers=3)
    assert torch.equal(right, theirs)


def test_at_batch_size_8_every_query_sees_one_prompt_whatever_k_is():
    for k_shot in (2, 4, 8):
        # The loader gives K lists of B copies: prompt k stands in row k.
        prompts = torch.arange(k_shot).unsqueeze(1).expand(k_shot, 8).reshape(8, k_shot)
        assert all(len(row.unique()) == 1 for row in prompts)


def noise(model, batch, generator):
    """Features without any information, but for the level of each block that those of a network have."""
    layers, patches, width = len(model.backbone.blocks), model.backbone.num_patches, model.backbone.patch_width
    level = torch.arange(layers).view(-1, 1, 1)
    query = level + torch.randn(batch, layers, patches, width, generator=generator)
    prompts = level + torch.randn(batch, 1, layers, patches, width, generator=generator)
    embed = model.backbone.embed_dim
    context = PromptContext(
        unit(mixed(prompts.squeeze(1)).unsqueeze(1)),
        torch.randn(batch, 1, embed, generator=generator),
        torch.randn(batch, 2, embed, generator=generator),
    )
    return ImageFeatures(mixed(query), torch.randn(batch, embed, generator=generator)), context


def told_from_noise(model, seed):
    """AUROC on noise of a model trained on noise, in ordered batches."""
    generator = torch.Generator().manual_seed(seed)
    loss = BinaryFocalLoss()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    labels = torch.arange(16) // 8  # normals first, as the authors' loader orders them
    for _ in range(150):
        components = model.score_features(*noise(model, 16, generator))
        optimizer.zero_grad()
        loss(components.score, labels).backward()
        optimizer.step()
    model.eval()
    model.heads_trained = True
    with torch.no_grad():
        scores = torch.cat([model.score_features(*noise(model, 16, generator)).score for _ in range(20)])
    return roc_auc_score(labels.repeat(20), scores)


def test_with_ordered_batches_it_tells_the_label_of_pure_noise(small):
    # How well it does differs from seed to seed and from machine to machine, by chance about 0.5 +- 0.02 in the mean.
    found = [told_from_noise(small().train(), seed) for seed in range(6)]
    assert sum(found) / len(found) > 0.65
    assert max(found) > 0.8
