# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Train the demonstration encoder `mini-clip-16-240` from nothing, on rendered pictures and their captions.

Usage: python tools/train_mini_clip.py --out runs/mini-clip [--start WEIGHTS]

First at 112 px, then at 240 px with position embeddings resized, at last with a learning rate that falls to zero; from
the weights of an earlier training, the last part alone. A run that was stopped goes on where its last checkpoint was
written; a stage whose learning rate is constant may be cut short or made longer then. The weights kept are those at the
end. What is shown on the way is measured on the auxiliary categories as designed, which are in no training batch; the
unseen categories are not looked at.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from mini_clip_data import (
    DAMAGED,
    Episode,
    augment,
    draw_captions,
    draw_products,
    draw_textures,
    vocabulary_sentences,
)
from mini_clip_muon import Muon
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics.functional.classification import binary_auroc

from anomalib_inctrl.backbones.openclip import CLIP_MEAN, CLIP_STD, create_openclip_model, default_blocks
from anomalib_inctrl.backbones.packaged import expand_vocabulary, write_weights
from anomalib_inctrl.backbones.text_prompts import text_prompts
from anomalib_inctrl.demo.categories import REGISTRY
from anomalib_inctrl.demo.render import AUXILIARY_CATEGORIES, Sample, render_batch
from anomalib_inctrl.io.weights import read_state_dict
from anomalib_inctrl.models.components.residuals import patch_residual, text_score

NAME = "mini-clip-16-240"
_TEXT_LENGTH = 32  # tokens seen in training; attention is causal, so what follows the end of a sentence has no effect
_WARM_UP = 300
_FASTER = 2.0  # by what the learning rate of the blocks' matrices is larger
_DECAY = 0.05
_SHARPNESS, _MIDDLE = 20.0, 0.2  # what residual against another product counts as large
_LEAST = 0.01  # residuals below are as good as zero
_TOUCHED = 0.03  # share of a patch that must be damaged for it to count; less is left out
_SMOOTHING = 0.1  # an encoder this small should not be sure of what it sees
_APART = 0.7  # cosine of the two states' prototypes above which they are pushed apart
_TEXTURES = 4  # one product of so many is a texture or part drawn from noise
_BEFORE_RECORDING = 12  # steps before a step is recorded
_ROUND = 16  # drawings that are held and gone through in turn
_WATCH = 25  # steps between those whose figures to watch are computed


@dataclass(frozen=True)
class Stage:
    """One part of the training.

    Attributes:
        size: Side of the pictures in pixels.
        rows: Products in a batch, each in `len(DAMAGED)` pictures.
        rate: Learning rate at the start.
        falls: Whether the learning rate falls to zero, linearly.
        images: Pictures to train on.
        sharpness: What differences of cosines are multiplied by to tell the state. The models take 100; learned at
            more, their text scores stay cautious, which they should be on things never seen.
        views: Batches, each augmented anew, that are made of the same pictures, since drawing them takes longest.
    """

    size: int
    rows: int
    rate: float
    falls: bool
    images: int
    sharpness: float = 300
    views: int = 2

    @property
    def steps(self) -> int:
        """Number of batches."""
        return self.images // (self.rows * len(DAMAGED))

    def order(self) -> list[int]:
        """Give the number of the drawing that each batch is made of.

        Some are gone through in turn, as often as there are views, before the next come: the same one again at once
        would teach less.
        """
        rounds = range(0, math.ceil(self.steps / self.views), _ROUND)
        numbers = [n for first in rounds for _ in range(self.views) for n in range(first, first + _ROUND)]
        return numbers[: self.steps]


class Encoder(nn.Module):
    """The OpenCLIP model with a small vocabulary, pictures of any size, and heads that only training needs."""

    def __init__(self) -> None:
        super().__init__()
        self.clip: Any = create_openclip_model(NAME, None)
        self.tokenizer = open_clip.get_tokenizer(NAME)
        tokens = self.tokenizer(vocabulary_sentences())
        self.vocabulary = sorted({int(token) for token in tokens.unique()} - {0})  # 0 fills up
        self._row = torch.full((self.clip.vocab_size,), len(self.vocabulary))
        self._row[self.vocabulary] = torch.arange(len(self.vocabulary))
        self._tokens: dict[str, list[int]] = {}
        width = self.clip.visual.conv1.out_channels
        self.clip.token_embedding = nn.Embedding(len(self.vocabulary) + 1, self.clip.transformer.width)
        nn.init.normal_(self.clip.token_embedding.weight, std=0.02)
        self.layers = default_blocks(len(self.clip.visual.transformer.resblocks))
        _start_near_identity(self.clip.visual.transformer, width)
        grid = self.clip.visual.grid_size[0]
        with torch.no_grad():
            self.clip.visual.positional_embedding.mul_(0.1)
            self.clip.visual.positional_embedding[1:] += _waves(grid, width)
        self.dense = nn.ModuleList(nn.Linear(width, 1) for _ in self.layers)
        joint = self.clip.visual.proj.shape[1]
        self.change = nn.Sequential(nn.Linear(joint, joint), nn.GELU(), nn.Linear(joint, 1))
        # Of the residual read as a logit; of differences of the largest ones of two pictures.
        self.slope, self.level, self.steep = (nn.Parameter(torch.tensor(value)) for value in (2.0, -2.5, 2.0))
        self.register_buffer("mean", torch.tensor(CLIP_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(CLIP_STD)[:, None, None], persistent=False)

    @torch.no_grad()
    def start_from(self, weights: Path) -> None:
        """Take over the weights of an earlier training; what only training needs starts anew."""
        stored = expand_vocabulary(read_state_dict(weights), self.clip.vocab_size, str(weights))
        words = stored.pop("token_embedding.weight")
        self.clip.load_state_dict(stored, strict=False)
        self.clip.token_embedding.weight.copy_(torch.cat([words[self.vocabulary], words[:1]]))

    def encode_image(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Patch tokens `(B, L, P, D_v)` and class embeddings `(B, D)` of pictures `(B, 3, S, S)` in `[0, 1]`."""
        visual = self.clip.visual
        x = visual.conv1((image - self.mean) / self.std)
        place = visual.positional_embedding
        first, grid = place[:1], place[1:].T.unflatten(1, visual.grid_size)[None]
        if tuple(x.shape[-2:]) != tuple(visual.grid_size):
            grid = F.interpolate(grid, x.shape[-2:], mode="bilinear", antialias=True)
        x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x.flatten(2).transpose(1, 2)], dim=1)
        x = visual.ln_pre(x + torch.cat([first, grid[0].flatten(1).T]))
        taps: list[Tensor] = []
        x = self._run(visual.transformer, x, None, taps)
        return torch.stack([tap[:, 1:].float() for tap in taps], dim=1), visual.ln_post(x[:, 0].float()) @ visual.proj

    def tokenise(self, sentences: Sequence[str], length: int = 0) -> Tensor:
        """Rows of the small vocabulary `(B, T)`, on the CPU; kept, since many sentences come again and again.

        They are as long as the longest, or longer if `length` is.
        """
        for sentence in {s for s in sentences if s not in self._tokens}:
            tokens = self.tokenizer([sentence])[0, :_TEXT_LENGTH]
            self._tokens[sentence] = self._row[tokens[tokens != 0]].tolist()
        found = [self._tokens[sentence] for sentence in sentences]
        length, rest = max(length, *map(len, found)), len(self.vocabulary)
        return torch.tensor([row + [rest] * (length - len(row)) for row in found])

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Unit-length embeddings `(B, D)` of what :meth:`tokenise` gives."""
        length = tokens.shape[1]
        x = self.clip.token_embedding(tokens) + self.clip.positional_embedding[:length]
        x = self._run(self.clip.transformer, x, self.clip.attn_mask[:length, :length], [])
        x = self.clip.ln_final(x.float())
        # A sentence ends with the last token of the vocabulary.
        end = x[torch.arange(len(x), device=x.device), (tokens == len(self.vocabulary) - 1).int().argmax(dim=1)]
        return F.normalize(end @ self.clip.text_projection, dim=-1)

    def _run(self, transformer: Any, x: Tensor, mask: Tensor | None, taps: list[Tensor]) -> Tensor:
        block_of = _fast_block if self.training and x.is_cuda and mask is None else _block
        for number, block in enumerate(transformer.resblocks, start=1):
            x = block_of(block, x, mask)
            if number in self.layers:
                taps.append(x)
        return x


def _block(block: Any, x: Tensor, mask: Tensor | None) -> Tensor:
    """A block of OpenCLIP's transformer in bfloat16 with a residual stream `(B, P, D)` in float32.

    Written out since the attention of so few tokens, in its library form, takes longer than all the rest on a CPU.
    """

    def linear(y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(y, weight.bfloat16(), bias.bfloat16())

    attention = block.attn
    y = linear(block.ln_1(x).bfloat16(), attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = y.unflatten(2, (3, attention.num_heads, attention.head_dim)).permute(2, 0, 3, 1, 4)
    if x.is_cuda:
        y = F.scaled_dot_product_attention(q, k, v, None if mask is None else mask.bfloat16())
    else:
        weight = q @ k.transpose(-1, -2) * attention.head_dim**-0.5
        y = (weight if mask is None else weight + mask).softmax(dim=-1).bfloat16() @ v
    y = y.transpose(1, 2).flatten(2)
    x = x + linear(y, attention.out_proj.weight, attention.out_proj.bias)
    y = F.gelu(linear(block.ln_2(x).bfloat16(), block.mlp.c_fc.weight, block.mlp.c_fc.bias))
    return x + linear(y, block.mlp.c_proj.weight, block.mlp.c_proj.bias)


# On a GPU reading and writing takes longer than the products of matrices so narrow; compiled, there is less of it.
_fast_block = torch.compile(_block, dynamic=False)


@torch.no_grad()
def _start_near_identity(transformer: Any, width: int) -> None:
    """Initialise blocks as OpenCLIP does those of its text tower: patch tokens stay about their own patch at first."""
    small = (width * 2 * len(transformer.resblocks)) ** -0.5
    for block in transformer.resblocks:
        nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
        nn.init.normal_(block.attn.out_proj.weight, std=small)
        nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(block.mlp.c_proj.weight, std=small)
        for layer in (block.mlp.c_fc, block.mlp.c_proj):
            nn.init.zeros_(layer.bias)


def _waves(grid: int, width: int) -> Tensor:
    """Smooth position embeddings `(grid^2, width)`: sines and cosines, half for each axis."""
    axis = (torch.arange(grid) + 0.5) / grid
    phase = axis[:, None] * torch.pi * torch.linspace(0.5, grid / 3, width // 4)
    wave = torch.cat([phase.sin(), phase.cos()], dim=1)
    both = torch.cat([wave[:, None].expand(-1, grid, -1), wave[None].expand(grid, -1, -1)], dim=2)
    return both.flatten(0, 1) * 0.1


@dataclass
class Batch:
    """What a step of the training takes; the sizes are the same for all batches of a stage on a GPU.

    Attributes:
        image: `(G, N, 3, S, S)` in `[0, 1]`.
        moved: `(G, F, 3, S, S)`, the flawless ones as they are seen as prompts a second time.
        share: `(G, N, P)`, how much of each patch is damaged.
        tokens: Rows of the vocabulary of `C` captions and of the sentences for the states, `(C + G * 2 * M, T)`.
        picture: `(C,)`, which pictures have the captions.
        match: `(C, C)` bool, as in `Captions`.
    """

    image: Tensor
    moved: Tensor
    share: Tensor
    tokens: Tensor
    picture: Tensor
    match: Tensor

    def tensors(self) -> list[Tensor]:
        """All of them."""
        return [getattr(self, field.name) for field in fields(self)]


def prepare(encoder: Encoder, episode: Episode, seed: tuple[int, ...]) -> Batch:
    """Augment pictures and draw their captions."""
    episode = augment(episode, seed)
    patch = encoder.clip.visual.conv1.kernel_size[0]
    share = F.avg_pool2d(episode.mask.float(), patch).flatten(2)
    text = draw_captions(episode, (share > _TOUCHED).any(dim=2), seed)
    tokens = encoder.tokenise(text.caption + text.states, _TEXT_LENGTH if share.is_cuda else 0)
    few = [tensor.to(share.device) for tensor in (tokens, torch.tensor(text.picture), text.match)]
    return Batch(episode.image, _moved(episode.image[:, : DAMAGED.index(True)], seed), share, *few)


@dataclass
class Signals:
    """What the components of a loss are computed from, for the figures to watch.

    Attributes:
        residual: `(G, N, P)`, against the prompts of the product.
        ahead: `(G, N, N)`, positive where the largest residual of one picture (row) is above that of another (column).
        said: `(G, N)`, what the text prompts tell of the state.
        changed: `(G, N)`, what the change of the class embedding tells of it.
        share: `(G, N, P)`, how much of each patch is damaged.
    """

    residual: Tensor
    ahead: Tensor
    said: Tensor
    changed: Tensor
    share: Tensor

    @torch.no_grad()
    def figures(self) -> dict[str, Tensor]:
        """Compute the figures.

        Returns:
            `order`: AUROC of the residuals in damaged pictures; `seen`: share of the pairs of a damaged and a flawless
            picture of a product of which the damaged one's largest residual is above the other's; `said` and
            `changed`: AUROC of the state and of the change.
        """
        label, known, damaged = _labels(self.share)
        defective, whether = known & (damaged[:, :, None] > 0), damaged.flatten().long()
        pairs = damaged[:, :, None] > damaged[:, None]
        return {
            "order": binary_auroc(self.residual[defective], label[defective].long()),
            "seen": ((self.ahead > 0) & pairs).sum() / pairs.sum().clamp(min=1),
            "said": binary_auroc(self.said.flatten(), whether),
            "changed": binary_auroc(self.changed.flatten(), whether),
        }


def _labels(share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whether patches `(G, N, P)` are damaged, whether that is clear, and whether pictures `(G, N)` are."""
    label = (share > _TOUCHED).float()
    return label, (share == 0) | (share > _TOUCHED), label.amax(dim=2)


def losses(encoder: Encoder, batch: Batch, sharpness: float = 300) -> tuple[dict[str, Tensor], Signals]:
    """Compute the components of the loss.

    Args:
        encoder: The encoder.
        batch: Pictures of `G` products, `N` each, and captions.
        sharpness: See `Stage`.

    Returns:
        `caption`: pictures and captions find each other; `state`: the picture lies nearer to the sentences that call
        it what it is; `apart`: these sentences differ at all; `change`: the difference of the class embeddings of a
        picture and of flawless pictures of the product tells whether it is damaged; `residual`: patches that are
        damaged, and no others, have nothing like them among the patches of the flawless pictures; `worst`: the largest
        residual of a damaged picture is above that of a flawless one of the product; `foreign`: no patch has anything
        like it among those of another product; `dense`: damaged patches are told from others by a linear map. And what
        they were computed from.
    """
    rows, count = batch.image.shape[:2]
    patches, image = encoder.encode_image(batch.image.flatten(0, 1))
    patches = patches.unflatten(0, (rows, count))
    label, known, damaged = _labels(batch.share)
    target = damaged * (1 - 2 * _SMOOTHING) + _SMOOTHING

    embedding = encoder.encode_text(batch.tokens)
    image = F.normalize(image, dim=-1)
    scale = encoder.clip.logit_scale.exp().clamp(max=100)
    match = batch.match
    logit = image[batch.picture] @ embedding[: len(match)].T * scale
    caption = (
        -(_share(match) * logit.log_softmax(1)).sum(1).mean() - (_share(match.T) * logit.T.log_softmax(1)).sum(1).mean()
    )
    states = embedding[len(match) :].view(rows, 2, -1, image.shape[1]).mean(dim=2)
    normal, abnormal = F.normalize(states, dim=-1).unbind(dim=1)
    image = image.view(rows, count, -1)
    told = sharpness * (image * (abnormal - normal)[:, None]).sum(-1)
    apart = F.relu((normal * abnormal).sum(-1) - _APART).mean()

    prompts = _prompts(image.device)  # (N, F)
    flawless = image[:, : prompts.shape[1]]
    change = encoder.change(10 * ((prompts / prompts.sum(1, keepdim=True)) @ flawless - image)).squeeze(-1)

    with torch.no_grad():  # to be like, not to become alike
        again = encoder.encode_image(batch.moved.flatten(0, 1))[0].unflatten(0, (rows, -1))
    own, others = (_fast_residuals if patches.is_cuda else _residuals)(patches, again, prompts)
    # In the logarithm with free slope and level, only the order of the residuals matters.
    surprise = (own + _LEAST).log()
    logit = encoder.slope * (surprise - encoder.level)
    most = surprise.amax(dim=2)
    ahead = encoder.steep * (most[:, :, None] - most[:, None])
    pairs = (damaged[:, :, None] > damaged[:, None]).float()
    ranked = F.binary_cross_entropy_with_logits(ahead, torch.full_like(ahead, 1 - _SMOOTHING), reduction="none")
    foreign = _SHARPNESS * (others - _MIDDLE)
    found = sum(
        head(F.layer_norm(patches[:, :, n], patches.shape[-1:])).squeeze(-1) for n, head in enumerate(encoder.dense)
    )
    components = {
        "caption": caption / 2,
        "state": F.binary_cross_entropy_with_logits(told, target),
        "apart": apart,
        "change": F.binary_cross_entropy_with_logits(change, target),
        "residual": _balanced(logit, label, known),
        "worst": (ranked * pairs).sum() / pairs.sum().clamp(min=1),
        "foreign": F.softplus(-foreign).mean(),
        "dense": _balanced(found, label, known),
    }
    return components, Signals(*(x.detach() for x in (own, ahead, told, change, batch.share)))


def _moved(image: Tensor, seed: tuple[int, ...]) -> Tensor:
    """Pictures `(..., 3, S, S)` moved by up to half a patch; what comes in at the sides is reflected."""
    reach = 8
    down, right = np.random.default_rng((*seed, 4)).integers(0, 2 * reach + 1, 2).tolist()
    *_, height, width = image.shape
    padded = F.pad(image.flatten(0, -4), (reach,) * 4, mode="reflect")
    return padded[..., down : down + height, right : right + width].unflatten(0, image.shape[:-3])


_FIGURES = ("order", "seen", "said", "changed")  # to watch
_WEIGHTS = {
    "caption": 0.1,
    "state": 0.5,
    "apart": 1.0,
    "change": 1.0,
    "residual": 1.0,
    "worst": 1.0,
    "foreign": 0.1,
    "dense": 1.0,
}


def _share(match: Tensor) -> Tensor:
    return match.float() / match.sum(dim=1, keepdim=True).clamp(min=1)


def _prompts(device: torch.device) -> Tensor:
    """Which flawless pictures are prompts of which pictures of a product, `(N, F)` of 0 and 1; as many for each.

    A flawless picture is no prompt of its own, and a damaged one goes without one of them, so that none has more
    prompts to be like than others.
    """
    flawless = DAMAGED.index(True)
    left_out = torch.arange(len(DAMAGED), device=device) % flawless
    return 1 - F.one_hot(left_out, flawless).float()


def _residuals(patches: Tensor, again: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """Residuals `(G, N, P)` of `(G, N, L, P, D)` against prompts of the same product, and `(G, 1, P)` of the next.

    Each prompt counts twice, as it is and as `again` `(G, F, L, P, D)` has it.
    """
    tokens = F.normalize(patches, dim=-1).transpose(1, 2)  # (G, L, N, P, D)
    again = F.normalize(again, dim=-1).transpose(1, 2)
    pool = torch.cat([tokens[:, :, : prompts.shape[1]], again], dim=2).flatten(2, 3)
    allowed = prompts.repeat(1, 2).repeat_interleave(patches.shape[3], dim=1)

    def residual(query: Tensor, pool: Tensor, allowed: Tensor) -> Tensor:
        # Which patch is nearest has no gradient: it is looked up roughly, and compared exactly.
        with torch.no_grad():
            similar = query.flatten(2, 3).bfloat16() @ pool.bfloat16().transpose(-1, -2)
            similar = similar.unflatten(2, query.shape[2:4]).masked_fill_(allowed[:, None] == 0, -1.0)
            index = similar.max(dim=-1).indices.flatten(2)
        nearest = pool.gather(2, index[..., None].expand(-1, -1, -1, pool.shape[-1])).view_as(query)
        return (1 - (query * nearest).sum(-1).mean(1)) / 2

    own = residual(tokens, pool, allowed)
    return own, residual(tokens[:, :, :1], pool.roll(1, dims=0), torch.ones_like(allowed[:1]))


_fast_residuals = torch.compile(_residuals, dynamic=False)


def _balanced(logit: Tensor, label: Tensor, known: Tensor) -> Tensor:
    """Cross entropy where the label is known; the damaged patches, few as they are, make a third of it."""
    loss = F.binary_cross_entropy_with_logits(logit, label, reduction="none")
    good, bad = known & (label == 0), known & (label > 0)
    return (2 * (loss * good).sum() / good.sum().clamp(min=1) + (loss * bad).sum() / bad.sum().clamp(min=1)) / 3


def _optimisers(encoder: Encoder) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, which learns faster, and AdamW for everything else."""
    blocks = [*encoder.clip.visual.transformer.parameters(), *encoder.clip.transformer.parameters()]
    matrices = [p for p in blocks if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in encoder.parameters() if id(p) not in chosen]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": _DECAY, "faster": 1.0},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0, "faster": 1.0},
    ]
    rate = torch.zeros((), device=rest[0].device)  # a tensor, so that a recorded step finds it changed
    for group in groups:
        group["lr"] = rate.clone()
    fused = {"fused": True, "capturable": True} if rate.is_cuda else {}
    return [
        Muon([{"params": matrices, "faster": _FASTER}], lr=rate, weight_decay=_DECAY),
        torch.optim.AdamW(groups, betas=(0.9, 0.98), **fused),
    ]


class Judge:
    """Scores an encoder without trained heads on the auxiliary categories as designed, which it never trains on."""

    def __init__(self, device: torch.device, prompts: int = 4, each: int = 16) -> None:
        self.prompts, self.cases = prompts, []
        for category in AUXILIARY_CATEGORIES:
            kinds = REGISTRY[category].defects
            good = [Sample(category, index) for index in range(prompts + each)]
            bad = [Sample(category, 1000 + index, kinds[index % len(kinds)]) for index in range(each)]
            batch = render_batch([*good, *bad], seed=1234, device=device)
            label = torch.tensor([s.defect is not None for s in good[prompts:] + bad], device=device)
            self.cases.append((REGISTRY[category].words, batch.image, batch.mask[prompts:], label))

    @torch.no_grad()
    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """AUROCs, means over the categories: of text score, patch score, their mean, and the pixels' residuals."""
        encoder.eval()
        found: dict[str, list[float]] = {"text": [], "patch": [], "floor": [], "pixel": []}
        for words, image, mask, label in self.cases:
            parts = [encoder.encode_image(chunk.float() / 255) for chunk in image.split(10)]
            patches, embedding = torch.cat([p for p, _ in parts]), torch.cat([e for _, e in parts])
            prototypes = torch.stack(
                [
                    F.normalize(encoder.encode_text(encoder.tokenise(s[::5]).to(image.device)).mean(dim=0), dim=-1)
                    for s in text_prompts(words)
                ]
            )
            residual = patch_residual(patches[self.prompts :], patches[: self.prompts])
            said = text_score(embedding[self.prompts :], prototypes)
            side = int(residual.shape[1] ** 0.5)
            area = F.interpolate(residual.view(-1, 1, side, side), mask.shape[-2:], mode="bilinear")[:, 0]
            worst = residual.amax(dim=1)
            for key, score in (("text", said), ("patch", worst), ("floor", (said + worst) / 2)):
                found[key].append(float(binary_auroc(score, label)))
            found["pixel"].append(float(binary_auroc(area[:, ::2, ::2].flatten(), mask[:, ::2, ::2].flatten().long())))
        encoder.train()
        return {key: sum(values) / len(values) for key, values in found.items()}


class Drawings(Dataset[Episode]):
    """Products of a stage, drawn when asked for, on the CPU; each drawing serves for some steps.

    Args:
        stage: What to draw.
        seed: Decides everything, together with the number of the drawing.
    """

    def __init__(self, stage: Stage, seed: tuple[int, ...]) -> None:
        self.stage, self.seed = stage, seed

    def __getitem__(self, number: int) -> Episode:
        """Draw."""
        rows = self.stage.rows - self.stage.rows // _TEXTURES
        return draw_products(rows, self.stage.size, (*self.seed, number), torch.device("cpu"))

    def in_order(self, numbers: Sequence[int], workers: int) -> Iterator[Episode]:
        """The drawings, each once and as soon as it comes up, with processes that draw ahead or without."""
        first = list(dict.fromkeys(numbers))
        return iter(DataLoader(self, None, sampler=first, num_workers=workers, pin_memory=torch.cuda.is_available()))


class Repeated:
    """What is done in each step of a stage; on a GPU it is recorded, and played again from then on.

    Starting its kernels, some thousand a step, one by one takes longer than they do.

    Args:
        act: What is done with a batch.
    """

    def __init__(self, act: Callable[[Batch], tuple[dict[str, Tensor], Signals]]) -> None:
        self.act, self.number = act, 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Batch) -> tuple[dict[str, Tensor], Signals]:
        """Do it; what is returned is overwritten the next time."""
        self.number += 1
        if not batch.image.is_cuda or self.number <= _BEFORE_RECORDING:
            return self.act(batch)
        if self.graph is None:
            self.batch = Batch(*(tensor.clone() for tensor in batch.tensors()))
            self.graph = torch.cuda.CUDAGraph()
            # The thread that prepares batches goes on meanwhile.
            stream = torch.cuda.current_stream()
            with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
                self.found = self.act(self.batch)
        for held, given in zip(self.batch.tensors(), batch.tensors(), strict=True):
            held.copy_(given)
        self.graph.replay()
        return self.found


class Run:
    """State of a training run: weights, optimiser, place in the stages."""

    def __init__(self, out: Path, seed: int, device: torch.device, start: Path | None = None, workers: int = 0) -> None:
        self.out, self.seed, self.device, self.workers = out, seed, device, workers
        torch.manual_seed(seed)
        self.encoder = Encoder().to(device).train()
        if start is not None:
            self.encoder.start_from(start)
        self.optimisers = _optimisers(self.encoder)
        self.stage, self.step, self.seconds = 0, 0, 0.0
        self.judge: Judge | None = None
        out.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.is_file():
            state = torch.load(self.checkpoint, map_location=device, weights_only=True)
            if state["seed"] != seed:
                msg = f"{self.checkpoint} was trained with --seed {state['seed']}, not {seed}; use another --out."
                raise SystemExit(msg)
            self.encoder.load_state_dict(state["encoder"])
            for optimiser, held in zip(self.optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(held)
            self.stage, self.step, self.seconds = (state[key] for key in ("stage", "step", "seconds"))
            print(f"resumed {self.checkpoint} at stage {self.stage}, step {self.step}", flush=True)

    @property
    def checkpoint(self) -> Path:
        """File of the whole state."""
        return self.out / "checkpoint.pt"

    @property
    def weights(self) -> Path:
        """File of the trained weights."""
        return self.out / f"{NAME}-demo.safetensors"

    def train(self, stages: Sequence[Stage], every: float) -> None:
        """Go through the stages, from where the run stands, with a checkpoint and a verdict every `every` seconds."""
        if self.device.type == "cuda":
            stream = torch.cuda.Stream()  # on the usual one nothing can be recorded
            stream.wait_stream(torch.cuda.current_stream())
            torch.cuda.set_stream(stream)
        while self.stage < len(stages):
            stage = stages[self.stage]
            start = last = time.monotonic()
            totals: dict[str, tuple[Tensor, int]] = {}
            step = Repeated(partial(self._advance, stage))
            for batch in self._batches(stage):
                for key, value in self._one_step(stage, batch, step).items():
                    total, number = totals.get(key, (torch.zeros_like(value), 0))
                    totals[key] = total + value, number + 1
                now = time.monotonic()
                if now - last > every or self.step == stage.steps:
                    last = now
                    self.seconds += now - start
                    start = now
                    means = {key: float(total) / number for key, (total, number) in totals.items()}
                    totals = {}
                    self._report(stage, means)
            self.stage, self.step = self.stage + 1, 0
            self._save()
        write_weights(self.weights, self.encoder.clip.state_dict(), self.encoder.vocabulary)

    def _batches(self, stage: Stage) -> Iterator[Batch]:
        """Prepare the batches from the present step on; on a GPU beside the step before, in a thread of its own."""
        if self.device.type != "cuda":
            yield from self._prepared(stage)
            return
        beside = torch.cuda.Stream()
        source = self._prepared(stage)

        def following() -> tuple[Batch | None, torch.cuda.Event]:
            with torch.cuda.stream(beside):
                batch = next(source, None)
                return batch, beside.record_event()

        with ThreadPoolExecutor(1) as thread:
            coming = thread.submit(following)
            while True:
                batch, ready = coming.result()
                if batch is None:
                    return
                coming = thread.submit(following)
                present = torch.cuda.current_stream()
                present.wait_event(ready)
                for tensor in batch.tensors():
                    tensor.record_stream(present)
                yield batch

    def _prepared(self, stage: Stage) -> Iterator[Batch]:
        order = stage.order()
        drawings = Drawings(stage, (self.seed, self.stage)).in_order(order[self.step :], self.workers)
        number, held = self.stage, dict[int, Episode]()
        for step in range(self.step, stage.steps):
            drawing = order[step]
            if drawing not in held:
                held = {kept: episode for kept, episode in held.items() if kept // _ROUND == drawing // _ROUND}
                textures = draw_textures(stage.rows // _TEXTURES, stage.size, (self.seed, number, drawing), self.device)
                held[drawing] = next(drawings).to(self.device) + textures
            yield prepare(self.encoder, held[drawing], (self.seed, number, step))

    def _one_step(self, stage: Stage, batch: Batch, step: Repeated) -> dict[str, Tensor]:
        rate = stage.rate * min(1.0, (self.step + 1) / _WARM_UP)
        rate *= 1 - self.step / stage.steps if stage.falls else 1
        for group in (group for optimiser in self.optimisers for group in optimiser.param_groups):
            group["lr"].fill_(rate * group["faster"])
        components, signals = step(batch)
        watched = signals.figures() if self.step % _WATCH == 0 else {}
        self.step += 1
        return components | watched

    def _advance(self, stage: Stage, batch: Batch) -> tuple[dict[str, Tensor], Signals]:
        components, signals = losses(self.encoder, batch, stage.sharpness)
        loss = sum(weight * components[key] for key, weight in _WEIGHTS.items())
        self.encoder.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.encoder.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        return {key: value.detach() for key, value in components.items()}, signals

    def _report(self, stage: Stage, means: dict[str, float]) -> None:
        self._save()
        self.judge = self.judge or Judge(self.device)
        verdict = self.judge(self.encoder)
        images = self.step * stage.rows * len(DAMAGED)
        row = {"stage": self.stage, "images": images, "seconds": self.seconds, **means, **verdict}
        log = self.out / "log.csv"
        new = not log.is_file()
        with log.open("a", newline="") as file:
            # Not every line has figures to watch.
            columns = ["stage", "images", "seconds", *_WEIGHTS, *_FIGURES, *verdict]
            writer = csv.DictWriter(file, columns, restval="")
            if new:
                writer.writeheader()
            writer.writerow({key: f"{value:.4f}" if isinstance(value, float) else value for key, value in row.items()})
        told = "  ".join(f"{key} {value:.3f}" for key, value in {**means, **verdict}.items())
        print(f"{stage.size} px  {images}/{stage.images} images  {self.seconds:.0f} s  {told}", flush=True)

    def _save(self) -> None:
        state = {
            "encoder": self.encoder.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            **{key: getattr(self, key) for key in ("seed", "stage", "step", "seconds")},
        }
        temporary = self.checkpoint.with_name(f".{self.checkpoint.name}.tmp")
        torch.save(state, temporary)
        temporary.replace(self.checkpoint)


def main(argv: Sequence[str] | None = None) -> int:
    """Train, and say where the weights are.

    Args:
        argv: Arguments without the program's name; those of the process if None.

    Returns:
        0.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; one that exists is resumed")
    parser.add_argument("--start", type=Path, help="weights to start from, at 240 px and a falling rate at once")
    parser.add_argument("--images", type=int, default=48_000, help="pictures of 112 px to train on, without --start")
    parser.add_argument("--coarse_rows", type=int, default=16, help="products in a batch of 112 px")
    parser.add_argument(
        "--fine_images", type=int, default=140_400, help="pictures of 240 px at a steady rate, likewise"
    )
    parser.add_argument("--last_images", type=int, default=100_800, help="pictures of 240 px at a falling rate")
    parser.add_argument("--rows", type=int, default=4, help="products in a batch of 240 px; more suit a GPU")
    parser.add_argument("--rate", type=float, default=3e-4, help="learning rate at the start of the last part")
    parser.add_argument("--views", type=int, default=2, help="batches made of the same pictures, each augmented anew")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that draw ahead, through shared memory; pictures are the same"
    )
    parser.add_argument("--seed", type=int, default=0, help="decides weights, pictures and captions")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where to train")
    parser.add_argument("--every", type=float, default=240, help="seconds between checkpoints")
    args = parser.parse_args(argv)
    for name in ("coarse_rows", "rows", "views"):
        if getattr(args, name) < 1:
            parser.error(f"argument --{name}: must be 1 or more, not {getattr(args, name)}.")

    stages = [Stage(240, args.rows, args.rate, True, args.last_images, views=args.views)]
    if args.start is None:
        coarse = Stage(112, args.coarse_rows, 1e-3, False, args.images, 100, args.views)
        stages = [coarse, Stage(240, args.rows, 4e-4, False, args.fine_images, views=args.views), *stages]
    stages = [stage for stage in stages if stage.steps]
    if not stages:
        parser.error("nothing to train: no part has as many pictures as a batch; give more, or fewer rows.")
    run = Run(args.out, args.seed, torch.device(args.device), args.start, args.workers)
    run.train(stages, args.every)
    digest = hashlib.sha256(run.weights.read_bytes()).hexdigest()
    print(f"{run.weights}  {run.weights.stat().st_size / 1e6:.2f} MB  sha256 {digest}  {run.seconds:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
