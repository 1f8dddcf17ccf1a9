# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pandas as pd
import pytest
import torch
from anomalib import TaskType
from anomalib.data import FolderDataset, MVTecADDataset
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Compose, RandomHorizontalFlip, Resize

from anomalib_inctrl.data import GeneralistDataset, PromptedBatch, TrainingDraw
from anomalib_inctrl.errors import DatasetError, ImageFileError
from tests.data.trees import folder_tree, mvtec_category, write_image


@pytest.fixture
def root(tmp_path):
    mvtec_category(tmp_path, "bottle")
    return mvtec_category(tmp_path, "cable", size=(32, 48))


@pytest.fixture
def dataset(root):
    splits = [(name, split) for name in ("cable", "bottle") for split in ("test", "train")]
    return GeneralistDataset.merge([(name, MVTecADDataset(root, name, split=split)) for name, split in splits])


def row_of(dataset, suffix):
    (row,) = dataset.samples.index[dataset.samples.image_path.str.endswith(suffix)]
    return int(row)


def one_image(path, label=0, mask=None):
    sample = {"image_path": str(path), "split": "test", "label_index": label, "class_name": "x"}
    return GeneralistDataset(pd.DataFrame([{**sample, "mask_path": str(mask or ""), "has_mask": mask is not None}]))


def test_merged_table_is_sorted_and_keeps_labels_and_masks(root, dataset):
    samples = dataset.samples
    counts = samples.groupby(["class_name", "label_index"]).size().to_dict()
    assert counts == {("bottle", 0): 7, ("bottle", 1): 3, ("cable", 0): 7, ("cable", 1): 3}
    assert samples.equals(samples.sort_values(["class_name", "image_path"], ignore_index=True))
    assert samples.has_mask.all()
    # Neither order nor repetition of parts matters.
    names = ("bottle", "cable", "bottle")
    assert GeneralistDataset.merge([(name, MVTecADDataset(root, name)) for name in names]).samples.equals(samples)
    subset = dataset.subsample([0, 12, 3])
    assert list(subset.samples.class_name) == ["bottle", "bottle", "cable"]
    assert subset.task == dataset.task == TaskType.SEGMENTATION


def test_items_equal_those_of_the_merged_datasets(root, dataset):
    for expected in MVTecADDataset(root, "cable"):
        item = dataset[row_of(dataset, expected.image_path.removeprefix(str(root)))]
        torch.testing.assert_close(item.image, expected.image)
        assert torch.equal(item.gt_mask, expected.gt_mask)
        assert (item.gt_label, item.mask_path) == (expected.gt_label, expected.mask_path)
        assert (item.class_name, item.prompt_image) == ("cable", None)


def test_sources_without_masks_have_unknown_masks(tmp_path, root):
    part = FolderDataset(root=tmp_path / "plain", **folder_tree(tmp_path / "plain"))
    dataset = GeneralistDataset.merge([("plain", part), ("bottle", MVTecADDataset(root, "bottle"))])
    assert all((item.gt_mask is None) == (item.class_name == "plain") for item in map(dataset.__getitem__, range(20)))
    assert GeneralistDataset.merge([("plain", part)]).task == TaskType.CLASSIFICATION


def test_several_masks_of_one_image_are_united(root):
    """MVTec LOCO gives a list of masks."""
    part = MVTecADDataset(root, "bottle", split="test")
    masks = [path for path in part.samples.mask_path if isinstance(path, str)]
    other = np.zeros((32, 32), dtype=np.uint8)
    other[20, :] = 255
    Image.fromarray(other).save(masks[1])
    lists = [masks[:2] if label else "" for label in part.samples.label_index]
    part._samples["mask_path"] = pd.Series(lists, dtype=object)
    item = GeneralistDataset.merge([("bottle", part)])[2]
    assert item.gt_mask.sum(dim=1).nonzero().flatten().tolist() == [*range(4, 12), 20]
    assert item.mask_path == masks[0]


def test_draws_have_prompts(dataset):
    query, prompts = row_of(dataset, "cable/test/scratch/001.png"), (row_of(dataset, "cable/train/good/003.png"), 0)
    assert dataset[TrainingDraw(query, prompts)].prompt_image.shape == (2, 3, 32, 48)  # the size of the query
    dataset.augmentations = dataset.prompt_augmentations = Resize((16, 16))
    item = dataset[TrainingDraw(query, prompts)]
    assert torch.equal(item.image, dataset[query].image)
    assert all(torch.equal(item.prompt_image[k], dataset[prompts[k]].image) for k in range(2))
    one_class = [dataset[draw].one_class for draw in (TrainingDraw(0, (1,)), TrainingDraw(0, (1,), one_class=True), 0)]
    assert one_class == [False, True, None]


@pytest.mark.parametrize(("label", "name"), [(0, "cable/train/good/001.png"), (1, "cable/test/scratch/001.png")])
def test_draws_of_cached_features_have_the_mask_but_no_pixels(dataset, label, name):
    dataset.augmentations = Resize((16, 16))
    row = row_of(dataset, name)
    expected = dataset[row].gt_mask
    dataset.cached_size = (16, 16)
    item = dataset[TrainingDraw(row, (0, 1))]
    assert (item.gt_label, item.class_name, item.draw.prompts) == (label, "cable", (0, 1))
    assert torch.equal(item.gt_mask, expected)
    assert not hasattr(item, "image")


def test_augmentation_follows_the_draw_and_leaves_prompts_and_generators_alone(dataset):
    dataset.augmentations = Compose([Resize((16, 16)), RandomHorizontalFlip(0.5)])
    dataset.prompt_augmentations = Resize((16, 16))
    draws = [TrainingDraw(0, (1,), seed=seed) for seed in range(20)]
    state = torch.get_rng_state()
    first = [dataset[draw] for draw in draws]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    again = [dataset[draw] for draw in reversed(draws)][::-1]
    assert all(torch.equal(a.image, b.image) for a, b in zip(first, again, strict=True))
    assert len({tuple(item.image.flatten().tolist()) for item in first}) == 2
    assert len({tuple(item.prompt_image.flatten().tolist()) for item in first}) == 1
    loader = DataLoader(dataset, batch_size=20, sampler=draws, num_workers=2, collate_fn=PromptedBatch.collate)
    assert torch.equal(next(iter(loader)).image, torch.stack([item.image for item in first]))


@pytest.mark.parametrize("size", [(1, 12), (12, 1), (1, 1)])
def test_masks_may_be_one_pixel_wide(tmp_path, size):
    image, mask = write_image(tmp_path / "image.png", 0, size), tmp_path / "mask.png"
    Image.fromarray(np.full(size, 255, dtype=np.uint8)).save(mask)
    assert torch.equal(one_image(image, label=1, mask=mask)[0].gt_mask, torch.ones(size, dtype=torch.bool))


def test_unreadable_or_unlabelled_images_are_named(tmp_path, root):
    image, mask = write_image(tmp_path / "image.png", 0, (32, 24)), write_image(tmp_path / "mask.png", 0, (24, 32))
    with pytest.raises(DatasetError, match=r"mask\.png is 24 x 32 .*image\.png 32 x 24"):
        one_image(image, label=1, mask=mask)[0]
    mask.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"The mask of .*image\.png: .*mask\.png: 0 bytes"):
        one_image(image, label=1, mask=mask)[0]
    image.write_bytes(image.read_bytes()[:900])
    with pytest.raises(ImageFileError, match=r"image\.png"):
        one_image(image)[0]
    part = MVTecADDataset(root, "bottle", split="test")
    part.samples.loc[1, "label_index"] = -1
    with pytest.raises(DatasetError, match=r"'bottle': 1 of 5 images have no label, for example .*001\.png"):
        GeneralistDataset.merge([("bottle", part)])
    with pytest.raises(DatasetError, match="hold no images"):
        GeneralistDataset.merge([])
