# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from torchvision.tv_tensors import Image

from anomalib_inctrl.data import PromptedBatch, PromptedItem

TENSORS = ("image", "gt_mask", "mask_valid", "prompt_image", "one_class")


def item(label=0, mask=True, size=(8, 8), name="bottle"):
    return PromptedItem(
        image=Image(torch.rand(3, *size)),
        gt_label=torch.tensor(label),
        gt_mask=torch.full(size, bool(label)) if mask else None,
        image_path=f"{name}.png",
        mask_path=f"{name}_mask.png" if mask and label else None,
        class_name=name,
        prompt_image=Image(torch.rand(2, 3, *size)),
        one_class=torch.tensor(not mask),
    )


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
def test_batch_mixes_images_with_and_without_masks(order):
    items = [item(1), item(1, mask=False), item(0)]
    batch = PromptedBatch.collate([items[index] for index in order])
    assert batch.mask_valid.tolist() == [(True, False, True)[index] for index in order]
    assert batch.gt_mask.flatten(1).any(1).tolist() == [(True, False, False)[index] for index in order]
    assert batch.mask_path == [("bottle_mask.png", "", "")[index] for index in order]
    assert (items[1].gt_mask, items[1].mask_valid) == (None, None)  # items are left unchanged
    batch = PromptedBatch.collate([items[1], item(0, mask=False)])
    assert (batch.gt_mask, batch.mask_path) == (None, None)
    assert batch.mask_valid.tolist() == [False, False]


def test_batch_splits_into_items_moves_to_a_device_and_resizes():
    batch = PromptedBatch.collate([item(1, name="a"), item(1, mask=False, name="b", size=(12, 12))])
    assert all(part.shape[-2:] == (12, 12) for part in (batch.image, batch.prompt_image, batch.gt_mask))
    items = list(batch)
    assert [(type(one), one.class_name, bool(one.one_class)) for one in items] == [
        (PromptedItem, "a", False),
        (PromptedItem, "b", True),
    ]
    again = PromptedBatch.collate(items)
    assert all(torch.equal(again[key], batch[key]) for key in TENSORS)
    assert (again.mask_path, again.class_name) == (batch.mask_path, ["a", "b"])
    moved = move_data_to_device(batch, torch.device("meta"))
    assert isinstance(moved, PromptedBatch)
    assert {moved[key].device.type for key in TENSORS} == {"meta"}
