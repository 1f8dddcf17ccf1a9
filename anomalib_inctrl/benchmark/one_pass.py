# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Measures InCTRL and InCTRLv2 on a category in one pass: every image is encoded once for every K, seed and model.

Which prompt patch is nearest does not depend on heads, unless the metric is learned, and the nearest over several
prompts is the nearest of the nearest of each. So queries are compared with the union of all prompts, one by one, and a
setting takes the maximum over its own.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from anomalib_inctrl.backbones import Backbone, ImageFeatures
from anomalib_inctrl.backbones.preprocessing import BackbonePreProcessor
from anomalib_inctrl.benchmark.metrics import CategoryResult, GroundTruth, Setting
from anomalib_inctrl.data.batch import PromptedBatch
from anomalib_inctrl.data.dataset import GeneralistDataset
from anomalib_inctrl.errors import InCTRLError
from anomalib_inctrl.io.images import read_image
from anomalib_inctrl.models.components.prompt_bank import PromptContext
from anomalib_inctrl.models.components.prompt_collector import read_images
from anomalib_inctrl.models.components.prompt_shifts import encode_prompts
from anomalib_inctrl.models.components.residuals import unit

Encode = Callable[[Sequence[Path]], Tensor]
PromptChooser = Callable[[int, int, Encode], list[Path]]
"""Chooses prompts from K, seed and an encoder of candidates."""


def encode_files(
    backbone: Backbone,
    pre_processor: BackbonePreProcessor,
    paths: Sequence[Path],
    shifts: int = 1,
    batch_size: int = 32,
) -> ImageFeatures:
    """Encode image files, as the models encode their prompts.

    Args:
        backbone: The frozen backbone.
        pre_processor: Its preprocessing.
        paths: ``N`` image files.
        shifts: Offsets along each axis at which their patches are seen, ``S``.
        batch_size: Images encoded at a time.

    Returns:
        Features of all ``N``, with patch tokens ``(N * S * S, L, P, D_v)``.
    """
    parts = [encode_prompts(backbone, torch.empty(0, 3, *backbone.image_size), shifts)]
    for start in range(0, len(paths), batch_size):
        images = read_images(paths[start : start + batch_size], pre_processor.transform)
        # Plain tensors: anomalib's image type would spread to all that is computed from them.
        parts.append(encode_prompts(backbone, images.as_subclass(Tensor), shifts, batch_size))
    return ImageFeatures(torch.cat([part.patches for part in parts]), torch.cat([part.embedding for part in parts]))


def measure_category(
    modules: Mapping[str, Any],
    dataset: GeneralistDataset,
    class_name: str,
    settings: Mapping[str, Sequence[Setting]],
    choose: PromptChooser,
    *,
    where: str,
    batch_size: int = 16,
    num_workers: int = 0,
    pixel_metrics: bool = True,
) -> CategoryResult:
    """Measure models that share a backbone, its preprocessing and the offsets of prompts.

    Args:
        modules: InCTRL or InCTRLv2 by name, in eval mode, on the device to work on.
        dataset: Test images of one category.
        class_name: Name of the object in the images.
        settings: By model the settings to measure.
        choose: Chooses the prompts of a setting.
        where: Name of the category, for errors.
        batch_size: Images encoded at a time.
        num_workers: Processes that read images.
        pixel_metrics: Whether maps are measured.

    Returns:
        Rows, scores and prompts, and what kept a setting from being measured: fewer candidates than K, a prompt that
        cannot be read.

    Raises:
        DatasetError: If the test images all have one label.
        BenchmarkError: If a score is not finite.
    """
    result = CategoryResult()
    first = next(iter(modules.values()))
    backbone, pre_processor, shifts = first.model.backbone, first.pre_processor, first.model.prompt_shifts
    dataset.augmentations = pre_processor.transform.transforms[0]
    loader: DataLoader[PromptedBatch] = DataLoader(
        dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=PromptedBatch.collate
    )
    start = time.perf_counter()
    parts: dict[tuple[str, Setting], list[tuple[Tensor, Tensor]]] = defaultdict(list)
    seconds: dict[tuple[str, Setting], float] = defaultdict(float)
    masks: list[Tensor] = []
    mask_known: list[Tensor] = []

    @lru_cache(maxsize=1)
    def candidate_features(paths: tuple[Path, ...]) -> Tensor:
        return encode_files(backbone, pre_processor, paths, batch_size=batch_size).embedding.cpu()

    with torch.inference_mode():
        wanted = sorted({setting for some in settings.values() for setting in some}, key=str)
        lists = _choose_all(wanted, choose, lambda paths: candidate_features(tuple(paths)), result.failures)
        if not lists:
            return result
        union = sorted({path for paths in lists.values() for path in paths})
        prompts = encode_files(backbone, pre_processor, union, shifts, batch_size)
        prompts = replace(prompts, patches=unit(prompts.patches))
        for batch in loader:
            images = pre_processor.transform(batch.image).as_subclass(Tensor)
            features = backbone.encode_image(images.to(backbone.device))
            mask_known.append(batch.mask_valid.bool().cpu())
            if batch.gt_mask is not None:
                masks.append(torch.as_tensor(batch.gt_mask).bool().cpu()[mask_known[-1]])
            for names in _by_metric(modules):
                similarity = modules[names[0]].model.similarity
                pieces = prompts.patches.split(shifts**2) if union else ()
                each = [similarity(features.patches, prompt) for prompt in pieces]
                for setting, paths in lists.items():
                    rows = [union.index(path) for path in paths]
                    nearest = torch.stack([each[row] for row in rows]).amax(dim=0) if rows else None
                    embeddings = prompts.embedding[rows]
                    for name in [name for name in names if setting in settings[name]]:
                        begin = time.perf_counter()
                        model = modules[name].model
                        prototypes = model.text_prototypes(class_name, embeddings)
                        context = PromptContext(prompts.patches[:0], embeddings, prototypes, nearest)
                        found = model.score_query(features, context)
                        parts[name, setting].append((found.score.cpu(), found.anomaly_map.cpu()))
                        seconds[name, setting] += time.perf_counter() - begin
        truth = GroundTruth(
            dataset.samples["image_path"].tolist(),
            torch.tensor(dataset.samples["label_index"].to_numpy(dtype=int)),
            torch.cat(masks) if masks and pixel_metrics else None,
            torch.cat(mask_known),
            where,
        )
        shared = time.perf_counter() - start - sum(seconds.values())
        result.prompts = {key: [str(path) for path in paths] for key, paths in lists.items()}
        for name, module in modules.items():
            for setting in [setting for setting in settings[name] if setting in lists]:
                begin = time.perf_counter()
                scores, grids = (torch.cat(values) for values in zip(*parts.pop((name, setting)), strict=True))
                maps = None
                if truth.masks is not None:
                    whole = replace(found, score=scores, anomaly_map=grids.to(backbone.device))
                    maps = module.model.to_inference_batch(whole).anomaly_map.squeeze(1)
                truth.add(result, name, setting, scores, maps, pass_seconds=shared)
                result.rows[-1]["setting_seconds"] = seconds[name, setting] + time.perf_counter() - begin
    return result


def _choose_all(
    settings: Sequence[Setting], choose: PromptChooser, encode: Encode, failures: list[str]
) -> dict[Setting, Sequence[Path]]:
    """Prompts by setting; a setting that has too few, or some that cannot be read, is left out and reported."""
    lists: dict[Setting, Sequence[Path]] = {}
    readable: set[Path] = set()
    for k, seed in settings:
        try:
            paths = choose(k, seed, encode) if k else []
            for path in set(paths) - readable:
                read_image(path)
                readable.add(path)
        except InCTRLError as error:  # noqa: PERF203  # each setting on its own
            failures.append(f"k_shot={k}, seed={seed}: {type(error).__name__}: {error}")
        else:
            lists[k, seed] = paths
    return lists


def _by_metric(modules: Mapping[str, Any]) -> list[list[str]]:
    """Names of the models that share the metric of patches; a learned one is shared with no other model."""
    learned = [name for name, module in modules.items() if module.model.patch_metric is not None]
    shared = [name for name in modules if name not in learned]
    return [names for names in (shared, *([name] for name in learned)) if names]
