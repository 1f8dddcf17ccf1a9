# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Measures InCTRL and InCTRLv2 on a category in one pass: every image is encoded once for every K, seed and model.

Which prompt patch is nearest does not depend on heads, and the nearest over several prompts is the nearest of the
nearest of each. So queries are compared with the union of all prompts, one by one, and a setting takes the maximum over
its own.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from anomalib_inctrl.backbones import ImageFeatures
from anomalib_inctrl.benchmark.encoding import ImageEncoder
from anomalib_inctrl.benchmark.examples import choose_examples, draw_examples
from anomalib_inctrl.benchmark.measurement import CategoryResult, GroundTruth, Setting
from anomalib_inctrl.models.components.prompt_bank import PromptContext
from anomalib_inctrl.models.components.residuals import nearest_prompt_similarity, unit
from anomalib_inctrl.models.components.score_components import ScoreComponents

if TYPE_CHECKING:
    from anomalib_inctrl.data.dataset import GeneralistDataset

PromptChooser = Callable[[int | None, int, Callable[[Sequence[Path]], Tensor]], list[Path]]
"""Chooses prompts from K, seed and an encoder of candidates."""


class _Prompts:
    """The prompts of all settings, each image encoded once.

    Args:
        encoder: Encodes them.
        lists: Paths by setting.
        prototypes: Text prototypes of the class ``(2, D)``.
        shifts: Number of offsets along each axis at which their patches are encoded.
    """

    def __init__(
        self, encoder: ImageEncoder, lists: Mapping[Setting, Sequence[Path]], prototypes: Tensor, shifts: int
    ) -> None:
        self._views = shifts**2
        union = sorted({path for paths in lists.values() for path in paths})
        features = encoder.encode_files(union, shifts)
        self._patches, self._image, self._prototypes = unit(features.patches), features.embedding, prototypes
        places = {path: place for place, path in enumerate(union)}
        device = features.embedding.device
        self._rows = {
            setting: torch.tensor([places[path] for path in paths], dtype=torch.long, device=device)
            for setting, paths in lists.items()
        }

    def contexts(self, query: ImageFeatures) -> Iterator[tuple[Setting, PromptContext]]:
        """Compare a batch of queries with the prompts of each setting.

        Args:
            query: Features of ``B`` queries.

        Yields:
            The setting, and its context with the cosines of these queries.
        """
        each = [nearest_prompt_similarity(query.patches, prompt) for prompt in self._patches.split(self._views)]
        table = torch.stack(each) if each else None
        for setting, rows in self._rows.items():
            similarity = table[rows].amax(dim=0) if table is not None and len(rows) else None
            yield setting, PromptContext(self._patches[:0], self._image[rows], self._prototypes, similarity)


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
    examples: int = 0,
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
        examples: Number of example images.

    Returns:
        Rows, scores, prompts and examples.

    Raises:
        DatasetError: If the test images all have one label.
        PromptError: If there are fewer candidates than K.
        BenchmarkError: If a score is not finite.
    """
    first = next(iter(modules.values()))
    encoder = ImageEncoder(first.model.backbone, first.pre_processor, batch_size, num_workers)
    wanted = sorted({setting for some in settings.values() for setting in some}, key=str)
    start = time.perf_counter()
    parts: dict[tuple[str, Setting], list[ScoreComponents]] = defaultdict(list)
    seconds: dict[tuple[str, Setting], float] = defaultdict(float)
    masks: list[Tensor] = []
    mask_known: list[Tensor] = []
    with torch.inference_mode():
        candidate_features = lru_cache(maxsize=1)(lambda paths: encoder.encode_files(paths).embedding.cpu())
        lists = {
            (k, seed): choose(k, seed, lambda paths: candidate_features(tuple(paths))) if k else []
            for k, seed in wanted
        }
        prompts = _Prompts(encoder, lists, encoder.backbone.text_prototypes(class_name), first.model.prompt_shifts)
        for features, batch in encoder.encode_dataset(dataset):
            known = _mask_known(batch)
            mask_known.append(known)
            if bool(known.any()):
                masks.append(torch.as_tensor(batch.gt_mask).bool().cpu()[known])
            with ExitStack() as stack:
                for module in modules.values():
                    stack.enter_context(_branches_computed_once(module.model))
                for setting, context in prompts.contexts(features):
                    for name, module in modules.items():
                        if setting in settings[name]:
                            begin = time.perf_counter()
                            parts[name, setting].append(_on_cpu(module.model.score_features(features, context)))
                            seconds[name, setting] += time.perf_counter() - begin
        truth = GroundTruth(
            dataset.samples["image_path"].tolist(),
            torch.tensor(dataset.samples["label_index"].to_numpy(dtype=int)).bool(),
            torch.cat(masks) if masks and pixel_metrics else None,
            torch.cat(mask_known),
            where,
        )
        shared = time.perf_counter() - start - sum(seconds.values())
        counts = truth.counts()
        result = CategoryResult(prompts={key: [str(path) for path in paths] for key, paths in lists.items()})
        for name, module in modules.items():
            for setting in settings[name]:
                begin = time.perf_counter()
                components = _concatenate(parts[name, setting])
                maps = _maps(module, components) if counts["masks"] else None
                metrics = truth.measure(components.score, maps)
                seconds[name, setting] += time.perf_counter() - begin
                times = {"pass_seconds": shared, "setting_seconds": seconds[name, setting]}
                row = {"model": name, "k_shot": setting[0], "seed": setting[1]}
                result.rows.append(row | metrics | counts | times)
                result.scores.setdefault(name, []).extend(truth.score_rows(setting, components.score))
            if examples:
                # At the largest K and the first seed.
                setting = max(settings[name], key=lambda item: (item[0] or 0, -item[1]))
                components = _concatenate(parts[name, setting])
                dataset.augmentations = module.pre_processor.transform.transforms[0]
                rows = choose_examples(components.score, truth.abnormal, examples)
                result.examples[name] = draw_examples(dataset, rows, _maps(module, components).cpu())
    return result


def _mask_known(batch: Any) -> Tensor:
    size = len(batch.image)
    if batch.gt_mask is None:
        return torch.zeros(size, dtype=torch.bool)
    return torch.ones(size, dtype=torch.bool) if batch.mask_valid is None else batch.mask_valid.bool().cpu()


def _on_cpu(components: ScoreComponents) -> ScoreComponents:
    # Only what metrics and examples need; the rest would take memory.
    return ScoreComponents(
        text_score=None if components.text_score is None else components.text_score.cpu(),
        patch_map=components.patch_map[:, :0].cpu(),
        patch_score=components.patch_score.cpu(),
        score=components.score.cpu(),
        anomaly_map=components.anomaly_map.cpu(),
        grid=components.grid,
    )


def _concatenate(parts: Sequence[ScoreComponents]) -> ScoreComponents:
    sizes = [len(part.score) for part in parts]
    return ScoreComponents.merge(parts, [rows.tolist() for rows in torch.arange(sum(sizes)).split(sizes)])


def _maps(module: Any, components: ScoreComponents) -> Tensor:
    on_device = replace(components, anomaly_map=components.anomaly_map.to(module.model.backbone.device))
    maps: Tensor = module.model.to_inference_batch(on_device).anomaly_map
    return maps.squeeze(1)


@contextmanager
def _branches_computed_once(model: nn.Module) -> Iterator[None]:
    """Cache the last map of InCTRLv2's branches, which do not depend on prompts, so that settings share it."""
    branches = [getattr(model, name, None) for name in ("dasl_branch", "oasl_branch")]
    present = [branch for branch in branches if branch is not None]
    for branch in present:
        branch.forward = lru_cache(maxsize=1)(branch.forward)
    try:
        yield
    finally:
        for branch in present:
            del branch.forward
