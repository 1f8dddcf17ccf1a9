# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""A model that finds bright spots, images that have one, and a trainer that runs it through real hooks."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.data.dataclasses.torch import InferenceBatch
from anomalib.post_processing import PostProcessor
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import Normalize

from anomalib_inctrl.data.batch import PromptedBatch, PromptedItem
from anomalib_inctrl.models.components.score_components import ScoreComponents
from anomalib_inctrl.visualization import ExplanationVisualizer, ScoreTable
from tests.shared import QUIET

SIDE, GRID = 48, 6
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
THRESHOLDS = ("_image_threshold", "_pixel_threshold", "pixel_min", "pixel_max", "image_min", "image_max")


class BrightSpots(LightningModule):
    """Sets the fields and attributes that the package's models set."""

    def __init__(self, prompt_files=None, callbacks=None):
        super().__init__()
        self.chosen = callbacks or [ScoreTable(), ExplanationVisualizer(dpi=25)]
        self.prompt_files = prompt_files or {}
        self.pre_processor = SimpleNamespace(transform=Normalize(MEAN, STD))
        self.post_processor = PostProcessor()
        # As after a validation in which pixels and scores reached from 0 to 0.5.
        for name, value in zip(THRESHOLDS, (0.25, 0.25, 0, 0.5, 0, 0.5), strict=True):
            getattr(self.post_processor, name).fill_(value)

    def forget_validation(self):
        for name in THRESHOLDS:
            getattr(self.post_processor, name).fill_(float("nan"))
        return self

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
    """Images of several classes, by path, label and class name; `samples` as anomalib's datasets have them."""

    def __init__(self, rows):
        self.samples = pd.DataFrame(rows, columns=["image_path", "label_index", "class_name"])

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        path, label, name = self.samples.iloc[index]
        image = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1) / 255
        mask = (image[0] > 0.9) & bool(label)
        return PromptedItem(image=image, gt_mask=mask, gt_label=torch.tensor(label), image_path=path, class_name=name)


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


@pytest.fixture
def make_trainer(tmp_path):
    return partial(Trainer, **QUIET | {"enable_checkpointing": False, "default_root_dir": tmp_path / "run"})
