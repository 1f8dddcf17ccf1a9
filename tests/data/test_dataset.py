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

from anomalib_inctrl.data import GeneralistDataset, TrainingDraw
from anomalib_inctrl.errors import DatasetError, ImageFileError
from tests.data.trees import folder_tree, mvtec_category, write_image


@pytest.fixture
def root(tmp_path):
    mvtec_category(tmp_path, "bottle")
    return mvtec_category(tmp_path, "cable", size=(32, 48))


@pytest.fixture
def dataset(root):
    parts = [
        (name, MVTecADDataset(root, name, split=split)) for name in ("cable", "bottle") for split in ("test", "train")
    ]
    return GeneralistDataset.merge(parts)


def row_of(dataset, ending):
    (row,) = dataset.samples.index[dataset.samples.image_path.str.endswith(ending)]
    return int(row)


def one_image(path, label=0, mask=None):
    sample = {"image_path": str(path), "split": "test", "label_index": label, "class_name": "x"}
    return GeneralistDataset(pd.DataFrame([{**sample, "mask_path": str(mask or ""), "has_mask": mask is not None}]))


def test_merges_splits_with_labels_and_masks(dataset):
    samples = dataset.samples
    assert samples.groupby(["class_name", "label_index"]).size().to_dict() == {
        ("bottle", 0): 7,
        ("bottle", 1): 3,
        ("cable", 0): 7,
        ("cable", 1): 3,
    }
    assert list(samples.class_name) == sorted(samples.class_name)
    assert all(group.image_path.is_monotonic_increasing for _, group in samples.groupby("class_name"))
    assert samples.has_mask.all()
    assert dataset.task == TaskType.SEGMENTATION


def test_items_equal_those_of_the_merged_datasets(root, dataset):
    stock = MVTecADDataset(root, "cable")
    for index in range(len(stock)):
        expected = stock[index]
        item = dataset[row_of(dataset, expected.image_path.removeprefix(str(root)))]
        assert item.class_name == "cable"
        torch.testing.assert_close(item.image, expected.image)
        assert torch.equal(item.gt_mask, expected.gt_mask)
        assert item.gt_label == expected.gt_label
        assert item.mask_path == expected.mask_path
        assert item.prompt_image is None


def test_order_of_parts_does_not_matter(root, dataset):
    parts = [(name, MVTecADDataset(root, name)) for name in ("bottle", "cable")]
    assert GeneralistDataset.merge(parts).samples.equals(dataset.samples)


def test_an_image_in_two_parts_is_kept_once(root):
    part = MVTecADDataset(root, "bottle", split="train")
    assert len(GeneralistDataset.merge([("bottle", part), ("bottle", MVTecADDataset(root, "bottle"))])) == 10


def test_subset_keeps_what_the_table_says(dataset):
    subset = dataset.subsample([0, 12, 3])
    assert list(subset.samples.class_name) == ["bottle", "bottle", "cable"]
    assert subset.task == TaskType.SEGMENTATION


def test_source_without_masks(tmp_path, root):
    part = FolderDataset(root=tmp_path / "plain", **folder_tree(tmp_path / "plain"))
    dataset = GeneralistDataset.merge([("plain", part), ("bottle", MVTecADDataset(root, "bottle"))])
    rows = dataset.samples.index[dataset.samples.class_name == "plain"]
    assert all(dataset[int(row)].gt_mask is None for row in rows)
    batch = dataset.collate_fn([dataset[int(rows[0])], dataset[0]])
    assert batch.mask_valid.tolist() == [False, True]
    assert GeneralistDataset.merge([("plain", part)]).task == TaskType.CLASSIFICATION


def test_several_masks_of_one_image_are_united(root):
    """MVTec LOCO gives a list of masks."""
    part = MVTecADDataset(root, "bottle", split="test")
    masks = [path for path in part.samples.mask_path if isinstance(path, str)]
    other = np.zeros((32, 32), dtype=np.uint8)
    other[20, :] = 255
    Image.fromarray(other).save(masks[1])
    part._samples["mask_path"] = pd.Series(
        [masks[:2] if label else "" for label in part.samples.label_index], dtype=object
    )
    item = GeneralistDataset.merge([("bottle", part)])[2]
    assert item.gt_mask.sum(dim=1).nonzero().flatten().tolist() == [*range(4, 12), 20]
    assert item.mask_path == masks[0]


def test_draw_brings_its_prompts(dataset):
    dataset.augmentations = dataset.prompt_augmentations = Resize((16, 16))
    query, prompts = row_of(dataset, "bottle/test/scratch/001.png"), (row_of(dataset, "bottle/train/good/003.png"), 0)
    item = dataset[TrainingDraw(query, prompts)]
    assert torch.equal(item.image, dataset[query].image)
    assert item.prompt_image.shape == (2, 3, 16, 16)
    assert not item.one_class
    assert dataset[TrainingDraw(query, prompts, one_class=True)].one_class
    assert dataset[query].one_class is None
    assert all(torch.equal(item.prompt_image[k], dataset[prompts[k]].image) for k in range(2))


def test_prompts_are_not_augmented_and_augmentation_follows_the_draw(dataset):
    dataset.augmentations = Compose([Resize((16, 16)), RandomHorizontalFlip(0.5)])
    dataset.prompt_augmentations = Resize((16, 16))
    draws = [TrainingDraw(0, (1,), seed=seed) for seed in range(20)]
    torch.manual_seed(0)
    first = [dataset[draw] for draw in draws]
    torch.manual_seed(1)
    again = [dataset[draw] for draw in reversed(draws)][::-1]
    assert all(torch.equal(a.image, b.image) for a, b in zip(first, again, strict=True))
    assert len({tuple(item.image.flatten().tolist()) for item in first}) == 2
    assert len({tuple(item.prompt_image.flatten().tolist()) for item in first}) == 1


def test_reading_a_draw_leaves_the_global_generator_alone(dataset):
    dataset.augmentations = RandomHorizontalFlip(0.5)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    dataset[TrainingDraw(0, (1,), seed=9)]
    assert torch.equal(torch.rand(1), expected)


def test_without_any_resize_prompts_take_the_size_of_their_query(dataset):
    item = dataset[TrainingDraw(row_of(dataset, "cable/train/good/000.png"), (0, 1))]
    assert item.prompt_image.shape == (2, 3, 32, 48)


def test_workers_change_nothing(dataset):
    dataset.augmentations = Compose([Resize((16, 16)), RandomHorizontalFlip(0.5)])
    draws = [TrainingDraw(row, ((row + 1) % 20,), seed=row) for row in range(20)]

    def read(workers):
        loader = DataLoader(dataset, batch_size=4, sampler=draws, num_workers=workers, collate_fn=dataset.collate_fn)
        return torch.cat([batch.image for batch in loader])

    assert torch.equal(read(0), read(2))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_image_modes(tmp_path, mode):
    ramp = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    picture = Image.fromarray(ramp.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(ramp).convert("RGB")
    (picture if mode == "I;16" else picture.convert(mode, palette=Image.Palette.ADAPTIVE)).save(path)
    image = one_image(path)[0].image
    assert image.shape == (3, 32, 32)
    tolerance = 1.0 if mode == "1" else 1.5 / 255
    assert (image - torch.from_numpy(ramp) / 255).abs().max() <= tolerance
    assert image.std() > 0.2


@pytest.mark.parametrize("content", [b"", b"not an image", b"cut"])
def test_unreadable_image_is_named(tmp_path, content):
    path = write_image(tmp_path / "image.png", 0)
    path.write_bytes(path.read_bytes()[:900] if content == b"cut" else content)
    with pytest.raises(ImageFileError, match=r"image\.png"):
        one_image(path)[0]


def test_mask_of_another_size_names_both_files(tmp_path):
    image = write_image(tmp_path / "image.png", 0, (32, 24))
    mask = write_image(tmp_path / "mask.png", 0, (24, 32))
    with pytest.raises(DatasetError, match=r"mask\.png is 24 x 32 .*image\.png 32 x 24"):
        one_image(image, label=1, mask=mask)[0]


@pytest.mark.parametrize("size", [(1, 12), (12, 1), (1, 1)])
def test_masks_one_pixel_wide(tmp_path, size):
    image, mask = write_image(tmp_path / "image.png", 0, size), tmp_path / "mask.png"
    Image.fromarray(np.full(size, 255, dtype=np.uint8)).save(mask)
    read = one_image(image, label=1, mask=mask)[0].gt_mask
    assert read.shape == size
    assert bool(read.all())


def test_unreadable_mask_names_both_files(tmp_path):
    image, mask = write_image(tmp_path / "image.png", 0), tmp_path / "mask.png"
    mask.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"mask\.png: the mask of .*image\.png"):
        one_image(image, label=1, mask=mask)[0]


def test_unlabelled_images_are_refused(root):
    part = MVTecADDataset(root, "bottle", split="test")
    part.samples.loc[1, "label_index"] = -1
    with pytest.raises(DatasetError, match=r"'bottle': 1 of 5 images have no label, for example .*001\.png"):
        GeneralistDataset.merge([("bottle", part)])


def test_nothing_to_merge_is_refused():
    with pytest.raises(DatasetError, match="hold no images"):
        GeneralistDataset.merge([])
