# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""No label leak: a head trained on noise stays at chance (the authors' batch layout lets it reach AUC 0.90)."""

import torch
from sklearn.metrics import roc_auc_score

from anomalib_inctrl.backbones import ImageFeatures
from anomalib_inctrl.models.components.losses import BinaryFocalLoss
from anomalib_inctrl.models.components.prompt_bank import PromptContext
from anomalib_inctrl.models.components.residuals import unit


def noise(model, batch, k_shot, generator):
    layers, patches, width = len(model.backbone.blocks), model.backbone.num_patches, model.backbone.patch_width
    # Blocks differ in level, as in a network: if they were mixed up with samples, the level would reveal the label.
    level = torch.arange(layers).view(-1, 1, 1)
    query = ImageFeatures(
        level + torch.randn(batch, layers, patches, width, generator=generator),
        torch.randn(batch, model.backbone.embed_dim, generator=generator),
    )
    context = PromptContext(
        unit(level + torch.randn(batch, k_shot, layers, patches, width, generator=generator)),
        torch.randn(batch, k_shot, model.backbone.embed_dim, generator=generator),
        torch.randn(batch, 2, model.backbone.embed_dim, generator=generator),
    )
    return query, context


def test_head_trained_on_noise_stays_at_chance(small):
    generator = torch.Generator().manual_seed(0)
    model, loss = small().train(), BinaryFocalLoss()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    # Normals first, as the authors' loader orders them; the arithmetic must not depend on the order.
    labels = torch.arange(16) // 8
    for _ in range(1000):
        components = model.score_features(*noise(model, 16, 2, generator))
        optimizer.zero_grad()
        (loss(components.score, labels) + loss(components.image_score, labels)).backward()
        optimizer.step()
    model.eval()
    model.heads_trained = True
    with torch.no_grad():
        scores = torch.cat([model.score_features(*noise(model, 16, 2, generator)).score for _ in range(60)])
    # 960 scores: the standard error of the AUC is below 0.02.
    assert abs(roc_auc_score(labels.repeat(60), scores) - 0.5) < 0.1
