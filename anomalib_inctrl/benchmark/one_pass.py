# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""InCTRL and InCTRLv2 on a category: every image is encoded once, and every K, seed and model is read off that pass.

Which prompt patch is nearest does not depend on heads, and the nearest over several prompts is the nearest of the
nearest of each. So queries are compared with the union of all prompts, one by one, and a setting takes the maximum over
its own.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from anomalib_inctrl.backbones import ImageFeatures
from anomalib_inctrl.benchmark.encoding import ImageEncoder
from anomalib_inctrl.benchmark.examples import Example, choose_examples, draw_examples
from anomalib_inctrl.benchmark.outcome import Outcome, Setting, Truth, stack_masks
from anomalib_inctrl.models.components.prompt_bank import PromptContext
from anomalib_inctrl.models.components.residuals import nearest_prompt_similarity, unit
from anomalib_inctrl.models.components.score_components import ScoreComponents

if TYPE_CHECKING:
    from anomalib_inctrl.data.dataset import GeneralistDataset

Chooser = Callable[[int | None, int, Callable[[Sequence[Path]], Tensor]], list[Path]]
"""K, seed and an encoder of candidates to the prompts' paths."""


@dataclass(frozen=True)
class Category:
    """The test images of one category.

    Attributes:
        dataset: Its test images.
        class_name: Name of the thing in the pictures.
        where: Name of the category, for errors.
    """

    dataset: GeneralistDataset
    class_name: str
    where: str


class _Prompts:
    """The prompts of all settings, each image encoded once.

    Args:
        encoder: Encodes them.
        lists: Paths by setting.
        prototypes: Text prototypes of the class ``(2, D)``.
        shifts: Offsets along each axis at which their patches are seen.
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
        """What a batch of queries is compared with, setting by setting.

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
    category: Category,
    settings: Mapping[str, Sequence[Setting]],
    choose: Chooser,
    *,
    batch_size: int = 16,
    num_workers: int = 0,
    pixel_metrics: bool = True,
    examples: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Measure models that share a backbone, its preprocessing and the offsets of prompts.

    Args:
        modules: InCTRL or InCTRLv2 by name, in eval mode, on the device to work on.
        category: What to measure on.
        settings: By model the settings that are wanted.
        choose: Chooses the prompts of a setting.
        batch_size: Images encoded at a time.
        num_workers: Processes that read images.
        pixel_metrics: Whether maps are measured.
        examples: Number of example pictures.
        progress: Told how many images are done.

    Returns:
        Rows, scores, prompts and examples.

    Raises:
        DatasetError: If the test images are all of one kind.
        PromptError: If there are fewer candidates than K.
        BenchmarkError: If a score is not finite.
    """
    first = next(iter(modules.values()))
    encoder = ImageEncoder(first.model.backbone, first.pre_processor, batch_size, num_workers)
    wanted = sorted({setting for some in settings.values() for setting in some}, key=str)
    start = time.perf_counter()
    with torch.inference_mode():
        candidate_features = lru_cache(maxsize=1)(lambda paths: encoder.encode_files(paths).embedding.cpu())
        lists = {
            (k, seed): choose(k, seed, lambda paths: candidate_features(tuple(paths))) if k else []
            for k, seed in wanted
        }
        prototypes = encoder.backbone.text_prototypes(category.class_name)
        prompts = _Prompts(encoder, lists, prototypes, first.model.prompt_shifts)
        parts: dict[tuple[str, Setting], list[ScoreComponents]] = defaultdict(list)
        masks: list[Tensor] = []
        known: list[Tensor] = []
        seconds: dict[tuple[str, Setting], float] = defaultdict(float)
        done = 0
        for features, batch in encoder.encode_dataset(category.dataset):
            size = len(batch.image)  # type: ignore[arg-type]
            masks.append(torch.empty(size, 0) if batch.gt_mask is None else torch.as_tensor(batch.gt_mask))
            known.append(torch.zeros(size, dtype=torch.bool) if batch.gt_mask is None else _known(batch))
            with ExitStack() as stack:
                for module in modules.values():
                    stack.enter_context(_branches_computed_once(module.model))
                for setting, context in prompts.contexts(features):
                    for name, module in modules.items():
                        if setting in settings[name]:
                            begin = time.perf_counter()
                            components = module.model.score_features(features, context)
                            parts[name, setting].append(_on_cpu(components))
                            seconds[name, setting] += time.perf_counter() - begin
            done += size
            progress(done)
        image_size = encoder.backbone.image_size
        samples = category.dataset.samples
        truth = Truth(
            samples["image_path"].tolist(),
            torch.tensor(samples["label_index"].to_numpy(dtype=int)).bool(),
            stack_masks(masks, image_size) if pixel_metrics else None,
            torch.cat(known),
            category.where,
        )
        shared = time.perf_counter() - start - sum(seconds.values())
        outcome = Outcome(prompts={key: [str(path) for path in paths] for key, paths in lists.items()})
        device = encoder.backbone.device
        for name, module in modules.items():
            for setting in settings[name]:
                begin = time.perf_counter()
                components = _merge(parts[name, setting])
                needs_maps = truth.counts()["masks"] > 0
                maps = _maps(module, components, device) if needs_maps else None
                found = truth.measure(components.score, maps)
                seconds[name, setting] += time.perf_counter() - begin
                outcome.rows.append(
                    {"model": name, "k_shot": setting[0], "seed": setting[1]}
                    | found
                    | truth.counts()
                    | {"pass_seconds": shared, "setting_seconds": seconds[name, setting]}
                )
                outcome.scores.setdefault(name, []).extend(truth.score_lines(setting, components.score))
            if examples:
                outcome.examples[name] = _examples(module, parts, name, settings[name], category, truth, examples)
    return outcome


def _known(batch: Any) -> Tensor:
    valid = batch.mask_valid
    return torch.ones(len(batch.image), dtype=torch.bool) if valid is None else valid.bool().cpu()


def _on_cpu(components: ScoreComponents) -> ScoreComponents:
    # What the metrics and pictures look at; the rest would only take memory.
    return ScoreComponents(
        text_score=None if components.text_score is None else components.text_score.cpu(),
        patch_map=components.patch_map[:, :0].cpu(),
        patch_score=components.patch_score.cpu(),
        score=components.score.cpu(),
        anomaly_map=components.anomaly_map.cpu(),
        grid=components.grid,
    )


def _merge(parts: Sequence[ScoreComponents]) -> ScoreComponents:
    total = 0
    rows = []
    for part in parts:
        rows.append(list(range(total, total + len(part.score))))
        total += len(part.score)
    return ScoreComponents.merge(parts, rows)


def _maps(module: Any, components: ScoreComponents, device: torch.device) -> Tensor:
    components = replace(components, anomaly_map=components.anomaly_map.to(device))
    maps: Tensor = module.model.to_inference_batch(components).anomaly_map
    return maps.squeeze(1)


@contextmanager
def _branches_computed_once(model: nn.Module) -> Iterator[None]:
    """Within, InCTRLv2's branches, which do not look at prompts, remember their last map: settings share it."""
    branches = [getattr(model, name, None) for name in ("dasl_branch", "oasl_branch")]
    present = [branch for branch in branches if branch is not None]
    for branch in present:
        branch.forward = lru_cache(maxsize=1)(branch.forward)
    try:
        yield
    finally:
        for branch in present:
            del branch.forward


def _examples(
    module: Any,
    parts: Mapping[tuple[str, Setting], Sequence[ScoreComponents]],
    name: str,
    settings: Sequence[Setting],
    category: Category,
    truth: Truth,
    count: int,
) -> bytes:
    """Example pictures at the largest K and the first seed."""
    setting = max(settings, key=lambda item: (item[0] or 0, -item[1]))
    components = _merge(parts[name, setting])
    rows = choose_examples(components.score, truth.abnormal, count)
    maps = module.model.to_inference_batch(components).anomaly_map.squeeze(1)
    category.dataset.augmentations = module.pre_processor.transform.transforms[0]
    shown = []
    for row in rows:
        item: Any = category.dataset[row]
        shown.append(Example(item.image, item.gt_mask, maps[row], bool(truth.abnormal[row])))
    return draw_examples(shown, maps)
