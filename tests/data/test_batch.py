# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from torchvision.tv_tensors import Image

from anomalib_inctrl.data import PromptedBatch, PromptedItem


def item(label=0, mask=True, prompts=0, size=(8, 8), name="bottle", one_class=None):
    return PromptedItem(
        image=Image(torch.rand(3, *size)),
        gt_label=torch.tensor(label),
        gt_mask=torch.full(size, bool(label)) if mask else None,
        image_path=f"{name}.png",
        mask_path=f"{name}_mask.png" if mask and label else None,
        class_name=name,
        prompt_image=Image(torch.rand(prompts, 3, *size)) if prompts else None,
        one_class=None if one_class is None else torch.tensor(one_class),
    )


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
def test_batch_mixes_images_with_and_without_masks(order):
    items = [item(1), item(1, mask=False), item(0)]
    batch = PromptedBatch.collate([items[index] for index in order])
    assert batch.mask_valid.tolist() == [(True, False, True)[index] for index in order]
    assert batch.gt_mask.flatten(1).any(1).tolist() == [(True, False, False)[index] for index in order]
    assert batch.mask_path == [("bottle_mask.png", "", "")[index] for index in order]
    assert (items[1].gt_mask, items[1].mask_valid) == (None, None)  # items are left unchanged


def test_batch_without_any_mask_has_no_masks():
    batch = PromptedBatch.collate([item(1, mask=False), item(0, mask=False)])
    assert (batch.gt_mask, batch.mask_path, batch.prompt_image, batch.one_class) == (None, None, None, None)
    assert batch.mask_valid.tolist() == [False, False]


def test_batch_splits_into_items_and_back():
    batch = PromptedBatch.collate(
        [item(1, prompts=2, name="a", one_class=False), item(1, mask=False, prompts=2, name="b", one_class=True)]
    )
    assert batch.prompt_image.shape == (2, 2, 3, 8, 8)
    items = list(batch)
    assert [(type(one), one.class_name, bool(one.one_class)) for one in items] == [
        (PromptedItem, "a", False),
        (PromptedItem, "b", True),
    ]
    again = PromptedBatch.collate(items)
    assert all(torch.equal(again[key], batch[key]) for key in ("mask_valid", "gt_mask", "prompt_image", "one_class"))
    assert (again.mask_path, again.class_name) == (batch.mask_path, ["a", "b"])


def test_images_of_several_sizes_are_resized_with_their_prompts():
    batch = PromptedBatch.collate([item(prompts=2, size=(8, 8)), item(1, mask=False, prompts=2, size=(12, 12))])
    assert batch.image.shape[-2:] == batch.prompt_image.shape[-2:] == batch.gt_mask.shape[-2:] == (12, 12)


def test_all_tensors_move_to_a_device():
    batch = PromptedBatch.collate([item(prompts=1, one_class=False), item(1, prompts=1, one_class=True)])
    moved = move_data_to_device(batch, torch.device("meta"))
    assert isinstance(moved, PromptedBatch)
    for key in ("image", "gt_mask", "mask_valid", "prompt_image", "one_class"):
        assert moved[key].device.type == "meta"
    assert moved.class_name == batch.class_name
