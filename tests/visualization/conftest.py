# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""A model that finds bright spots, images that have one, and a trainer that runs it through real hooks."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.data.dataclasses.torch import InferenceBatch
from anomalib.post_processing import PostProcessor
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import Normalize

from anomalib_inctrl.data.batch import PromptedBatch, PromptedItem
from anomalib_inctrl.models.components.score_components import ScoreComponents
from anomalib_inctrl.visualization import ExplanationVisualizer, ScoreTable

SIDE, GRID = 48, 6
QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
QUIET |= {"enable_model_summary": False}
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


class PreProcessor:
    transform = Normalize(MEAN, STD)


class BrightSpots(LightningModule):
    """Sets the fields and attributes that the package's models set."""

    def __init__(self, prompt_files=None, callbacks=None, normalises=True):
        super().__init__()
        self.chosen = callbacks or [ScoreTable(), ExplanationVisualizer(dpi=25)]
        self.prompt_files = prompt_files or {}
        self.pre_processor = PreProcessor()
        self.post_processor = PostProcessor(enable_normalization=normalises)
        # As after a validation in which pixels and scores reached from 0 to 0.5.
        for level in ("image", "pixel"):
            getattr(self.post_processor, f"{level}_min").copy_(torch.tensor(0.0))
            getattr(self.post_processor, f"{level}_max").copy_(torch.tensor(0.5))
            getattr(self.post_processor, f"_{level}_threshold").copy_(torch.tensor(0.25))

    def configure_callbacks(self):
        return [self.post_processor, *self.chosen]

    def test_step(self, batch, batch_idx):
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
        bright = batch.image.mean(1) - 0.4
        batch.image = (batch.image - mean) / std
        patches = torch.nn.functional.max_pool2d(bright[:, None], SIDE // GRID).flatten(1).clamp(0, 1)
        score = patches.amax(1)
        batch.update(**InferenceBatch(pred_score=score, anomaly_map=bright.clamp(0, 1)[:, None])._asdict())
        batch.raw_score, batch.raw_map = score.clone(), bright.clamp(0, 1)
        batch.components = ScoreComponents(score / 3, patches, score, score, patches, (GRID, GRID))
        return batch

    predict_step = test_step


class Files(Dataset):
    """Images of several classes; `samples` as anomalib's datasets have them."""

    def __init__(self, table):
        self.samples = table

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        row = self.samples.iloc[index]
        image = torch.from_numpy(np.array(Image.open(row.image_path).convert("RGB"))).permute(2, 0, 1) / 255
        mask = (image[0] > 0.9) if row.label_index else torch.zeros(SIDE, SIDE, dtype=torch.bool)
        return PromptedItem(
            image=image,
            gt_mask=mask,
            gt_label=torch.tensor(row.label_index),
            image_path=row.image_path,
            class_name=row.class_name,
        )


class OneTarget(LightningDataModule):
    """A datamodule by name and category, as anomalib's visualizer reads them."""

    def __init__(self, dataset, name, category, batch_size=2):
        super().__init__()
        self.dataset, self.name, self.category, self.batch_size = dataset, name, category, batch_size

    def test_dataloader(self):
        return DataLoader(self.dataset, batch_size=self.batch_size, collate_fn=PromptedBatch.collate)

    predict_dataloader = test_dataloader


def write_image(path, spot=None):
    pixels = np.full((SIDE, SIDE, 3), 110, dtype=np.uint8)
    pixels[::6] = 90
    if spot is not None:
        pixels[spot[0] - 4 : spot[0] + 4, spot[1] - 4 : spot[1] + 4] = 250
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return str(path)


def loader(dataset, batch_size=3):
    return DataLoader(dataset, batch_size=batch_size, collate_fn=getattr(dataset, "collate_fn", PromptedBatch.collate))


@pytest.fixture(scope="session")
def fakes():
    """The helpers of this file, which test files cannot import."""
    return SimpleNamespace(
        BrightSpots=BrightSpots, Files=Files, OneTarget=OneTarget, loader=loader, write_image=write_image
    )


@pytest.fixture
def make_trainer(tmp_path):
    def make(**options):
        return Trainer(**QUIET | {"default_root_dir": tmp_path / "run"} | options)

    return make


@pytest.fixture
def make_batch():
    """A batch without predictions."""

    def make(size=2, **fields):
        return ImageBatch(image=torch.rand(size, 3, SIDE, SIDE), **fields)

    return make
