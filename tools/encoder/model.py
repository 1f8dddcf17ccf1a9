# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The demonstration encoder while it is trained, and the components of its loss.

Needs a release of OpenCLIP whose vision transformers have `forward_intermediates`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomalib_inctrl.backbones.base import default_blocks
from anomalib_inctrl.backbones.openclip import CLIP_MEAN, CLIP_STD, create_openclip_model
from anomalib_inctrl.backbones.packaged import DEMO_BACKBONE, expand_vocabulary, write_weights
from anomalib_inctrl.io.weights import read_state_dict
from tools.encoder.data import DAMAGED, Episode, augment, draw_captions, vocabulary_sentences

SIZE = 240
_TEXT_LENGTH = 32  # tokens seen in training; attention is causal, so what follows the end of a sentence has no effect
_SHARPNESS, _MIDDLE = 20.0, 0.2  # what residual against another product counts as large
_STATE_SCALE = 300.0  # of differences of cosines; the models take 100, so that their text scores stay cautious
_LEAST = 0.01  # residuals below are as good as zero
_TOUCHED = 0.03  # share of a patch that must be damaged for it to count; less is left out
_SMOOTHING = 0.1  # an encoder this small should not be sure of what it sees
_APART = 0.7  # cosine of the two states' prototypes above which they are pushed apart
_REACH = 8  # pixels, half a patch, by which prompts are moved to be seen a second time

FLAWLESS = DAMAGED.index(True)
"""Number of the first images of a product, which are meant to be flawless and serve as prompts."""


class Encoder(nn.Module):
    """The OpenCLIP model with a small vocabulary, and heads that only training needs."""

    def __init__(self) -> None:
        super().__init__()
        import open_clip

        self.clip = create_openclip_model(DEMO_BACKBONE, None).requires_grad_(True)
        visual = self.clip.visual
        tokenizer = open_clip.get_tokenizer(DEMO_BACKBONE)
        self.tokenise = cache(lambda sentence: tokenizer([sentence])[0])
        # Row 0 of the embeddings stands for all tokens outside of the vocabulary.
        self.vocabulary = sorted({int(t) for s in vocabulary_sentences() for t in self.tokenise(s)} - {0})
        self.clip.token_embedding = nn.Embedding(len(self.vocabulary) + 1, self.clip.transformer.width)
        nn.init.normal_(self.clip.token_embedding.weight, std=0.02)
        self._row = torch.zeros(self.clip.vocab_size, dtype=torch.long)
        self._row[self.vocabulary] = torch.arange(1, len(self.vocabulary) + 1)

        width, joint = visual.proj.shape
        self.blocks = [number - 1 for number in default_blocks(len(visual.transformer.resblocks))]
        _start_near_identity(visual.transformer, width)
        with torch.no_grad():
            visual.positional_embedding.mul_(0.1)
            visual.positional_embedding[1:] += _waves(visual.grid_size[0], width)
        self.dense = nn.ModuleList(nn.Linear(width, 1) for _ in self.blocks)
        self.change = nn.Sequential(nn.Linear(joint, joint), nn.GELU(), nn.Linear(joint, 1))
        # Of the residual read as a logit; of differences of the largest ones of two images.
        self.slope, self.level, self.steep = (nn.Parameter(torch.tensor(value)) for value in (2.0, -2.5, 2.0))
        self.register_buffer("mean", torch.tensor(CLIP_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(CLIP_STD)[:, None, None], persistent=False)

    @torch.no_grad()
    def load(self, weights: Path) -> None:
        """Take over the weights of an earlier training; the heads that only training needs start again."""
        stored = expand_vocabulary(read_state_dict(weights), self.clip.vocab_size, str(weights))
        words = stored.pop("token_embedding.weight")
        self.clip.load_state_dict(stored, strict=False)
        self.clip.token_embedding.weight.copy_(words[[0, *self.vocabulary]])

    def save(self, weights: Path) -> None:
        """Write the weights as the package reads them."""
        state = self.clip.state_dict()
        state["token_embedding.weight"] = state["token_embedding.weight"].roll(-1, dims=0)
        write_weights(weights, state, self.vocabulary)

    def encode_image(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Patch tokens `(B, L, P, D_v)` and class embeddings `(B, D)` of images `(B, 3, S, S)` in `[0, 1]`."""
        visual = self.clip.visual
        x = visual._embeds((image - self.mean) / self.std)
        with torch.autocast(x.device.type, torch.bfloat16):
            x, chosen = visual.transformer.forward_intermediates(x, indices=self.blocks)
        return torch.stack([y[:, 1:].float() for y in chosen], dim=1), visual.ln_post(x[:, 0].float()) @ visual.proj

    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """Unit-length embeddings `(B, D)` of sentences."""
        clip = self.clip
        tokens = torch.stack([self._row[self.tokenise(s)] for s in sentences])[:, :_TEXT_LENGTH].to(self.mean.device)
        x = clip.token_embedding(tokens) + clip.positional_embedding[:_TEXT_LENGTH]
        with torch.autocast(x.device.type, torch.bfloat16):
            x = clip.transformer(x, attn_mask=clip.attn_mask[:_TEXT_LENGTH, :_TEXT_LENGTH])
        # A sentence ends with the highest token.
        end = clip.ln_final(x.float())[torch.arange(len(x), device=x.device), tokens.argmax(dim=1)]
        return F.normalize(end @ clip.text_projection, dim=-1)


@torch.no_grad()
def _start_near_identity(transformer: nn.Module, width: int) -> None:
    """Initialise blocks as OpenCLIP does in its text encoder: patch tokens stay about their own patch at first."""
    small = (width * 2 * len(transformer.resblocks)) ** -0.5
    for block in transformer.resblocks:
        nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
        nn.init.normal_(block.attn.out_proj.weight, std=small)
        for linear, std in ((block.mlp.c_fc, (2 * width) ** -0.5), (block.mlp.c_proj, small)):
            nn.init.normal_(linear.weight, std=std)
            nn.init.zeros_(linear.bias)


def _waves(grid: int, width: int) -> Tensor:
    """Smooth position embeddings `(grid^2, width)`: sines and cosines, half for each axis."""
    axis = (torch.arange(grid) + 0.5) / grid
    phase = axis[:, None] * torch.pi * torch.linspace(0.5, grid / 3, width // 4)
    wave = torch.cat([phase.sin(), phase.cos()], dim=1) * 0.1
    return torch.cat([wave.repeat_interleave(grid, dim=0), wave.repeat(grid, 1)], dim=1)


@dataclass
class Batch:
    """What a step of the training takes."""

    image: Tensor  # (G, N, 3, S, S) in [0, 1]
    moved: Tensor  # (G, F, 3, S, S), the flawless ones moved by some pixels, to be prompts a second time
    share: Tensor  # (G, N, P), share of each patch that is damaged
    sentences: list[str]  # C captions, and G * 2 * M sentences for the states
    position: list[int]  # C positions in G * N, the images that have the captions
    match: Tensor  # (C, C) bool, which caption (column) is true of which image (row)


def prepare(episode: Episode, patch_size: int, seed: tuple[int, ...]) -> Batch:
    """Augment images, which may be on an accelerator, and draw their captions."""
    episode = augment(episode, seed)
    share = F.avg_pool2d(episode.mask.float(), patch_size).flatten(2)
    position, caption, states, match = draw_captions(episode, (share > _TOUCHED).any(dim=2), seed)
    prompts = episode.image[:, :FLAWLESS]
    down, right = np.random.default_rng((*seed, 4)).integers(0, 2 * _REACH + 1, 2).tolist()
    moved = F.pad(prompts.flatten(0, 1), (_REACH,) * 4, mode="reflect")
    moved = moved[..., down : down + prompts.shape[-2], right : right + prompts.shape[-1]].view_as(prompts)
    return Batch(episode.image, moved, share, caption + states, position, match.to(share.device))


LOSS_WEIGHTS = {"caption": 0.1, "state": 0.5, "foreign": 0.1} | dict.fromkeys(
    ("apart", "change", "residual", "worst", "dense"), 1.0
)
"""By what the components of the loss are multiplied."""


def losses(encoder: Encoder, batch: Batch) -> dict[str, Tensor]:
    """Compute the components of the loss.

    `caption`: images and captions find each other; `state`: the image lies nearer to the sentences that name its
    state; `apart`: these sentences differ at all; `change`: the difference of the class embeddings of an image and
    of flawless images of the product shows whether it is damaged; `residual`: patches that are damaged, and no
    others, have nothing like them among the patches of the flawless images; `worst`: the largest residual of a
    damaged image is above that of a flawless one of the product; `foreign`: no patch has anything like it among
    those of another product; `dense`: a linear map separates damaged patches from others.
    """
    rows, count = batch.image.shape[:2]
    patches, image = encoder.encode_image(batch.image.flatten(0, 1))
    patches = patches.unflatten(0, (rows, count))
    label, known = (batch.share > _TOUCHED).float(), (batch.share == 0) | (batch.share > _TOUCHED)
    damaged = label.amax(dim=2)
    target = damaged * (1 - 2 * _SMOOTHING) + _SMOOTHING

    embedding = encoder.encode_text(batch.sentences)
    image = F.normalize(image, dim=-1)
    match = batch.match.float()
    logit = image[batch.position] @ embedding[: len(match)].T * encoder.clip.logit_scale.exp().clamp(max=100)
    pairs = ((logit, match), (logit.T, match.T))
    caption = sum(F.cross_entropy(values, true / true.sum(dim=1, keepdim=True)) for values, true in pairs) / 2
    states = embedding[len(match) :].view(rows, 2, -1, image.shape[1]).mean(dim=2)
    normal, abnormal = F.normalize(states, dim=-1).unbind(dim=1)
    image = image.view(rows, count, -1)
    state = _STATE_SCALE * (image * (abnormal - normal)[:, None]).sum(-1)

    # A flawless image is no prompt of its own, and a damaged one goes without one of them, so that none has more
    # prompts to be like than others: (N, F) of 0 and 1.
    prompts = 1 - F.one_hot(torch.arange(count, device=image.device) % FLAWLESS, FLAWLESS).float()
    change = encoder.change(10 * ((prompts / (FLAWLESS - 1)) @ image[:, :FLAWLESS] - image)).squeeze(-1)

    with torch.no_grad():  # to be like, not to become alike
        moved = encoder.encode_image(batch.moved.flatten(0, 1))[0].unflatten(0, (rows, -1))
    own, others = residuals(patches, moved, prompts)
    # In the logarithm with free slope and level, only the order of the residuals matters.
    surprise = (own + _LEAST).log()
    most = surprise.amax(dim=2)
    ahead = encoder.steep * (most[:, :, None] - most[:, None])
    unlike = damaged[:, :, None] > damaged[:, None]
    ranked = F.binary_cross_entropy_with_logits(ahead, torch.full_like(ahead, 1 - _SMOOTHING), reduction="none")
    dense = sum(
        head(F.layer_norm(patches[:, :, n], patches.shape[-1:])).squeeze(-1) for n, head in enumerate(encoder.dense)
    )
    return {
        "caption": caption,
        "state": F.binary_cross_entropy_with_logits(state, target),
        "apart": F.relu((normal * abnormal).sum(-1) - _APART).mean(),
        "change": F.binary_cross_entropy_with_logits(change, target),
        "residual": _balanced(encoder.slope * (surprise - encoder.level), label, known),
        "worst": (ranked * unlike).sum() / unlike.sum().clamp(min=1),
        "foreign": F.softplus(_SHARPNESS * (_MIDDLE - others)).mean(),
        "dense": _balanced(dense, label, known),
    }


def residuals(patches: Tensor, moved: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """Residuals `(G, N, P)` of `(G, N, L, P, D)` against prompts of the same product, and `(G, 1, P)` of the next.

    Each prompt counts twice, as it is and as `moved` `(G, F, L, P, D)` has it.
    """
    tokens = F.normalize(patches, dim=-1).transpose(1, 2)  # (G, L, N, P, D)
    moved = F.normalize(moved, dim=-1).transpose(1, 2)
    pool = torch.cat([tokens[:, :, : prompts.shape[1]], moved], dim=2).flatten(2, 3)
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


def _balanced(logit: Tensor, label: Tensor, known: Tensor) -> Tensor:
    """Cross entropy where the label is known; the damaged patches, few as they are, make a third of it."""
    loss = F.binary_cross_entropy_with_logits(logit, label, reduction="none")
    good, bad = known & (label == 0), known & (label > 0)
    return (2 * (loss * good).sum() / good.sum().clamp(min=1) + (loss * bad).sum() / bad.sum().clamp(min=1)) / 3
