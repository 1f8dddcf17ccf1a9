# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Damaged versions of a file: truncated, bits flipped, parts removed, doubled, zeroed or replaced."""

import random


def damaged(content, count, seed=0):
    """Damaged versions of a file's content, by name; always the same for the same arguments.

    Half of the flipped bits lie in the first 200 bytes, where formats keep what everything else depends on.
    """
    rng = random.Random(seed)
    found = {
        "empty": b"",
        "first byte": content[:1],
        "without the last byte": content[:-1],
        "zeros": bytes(len(content)),
        "something before": b"\n" + content,
        "something after": content + b"\0" * 100,
        "twice": content + content,
        "a text": b"404: Not Found\n",
    }
    kinds = (_truncated, _flipped, _flipped_early, _flipped_early, _zeroed, _removed, _doubled, _noise)
    for number in range(count - len(found)):
        kind = kinds[number % len(kinds)]
        found[f"{kind.__name__.strip('_')} {number}"] = kind(content, rng.randrange(len(content)), rng)
    return found


def _truncated(content, start, rng):
    return content[:start]


def _flip(content, places, rng):
    changed = bytearray(content)
    for place in places:
        changed[place] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _flipped(content, start, rng):
    return _flip(content, [start, *(rng.randrange(len(content)) for _ in range(rng.choice((0, 0, 2, 29))))], rng)


def _flipped_early(content, start, rng):
    return _flip(content, [rng.randrange(min(200, len(content))) for _ in range(rng.choice((1, 1, 2)))], rng)


def _zeroed(content, start, rng):
    size = rng.choice((4, 64, 512))
    return content[:start] + bytes(len(content[start : start + size])) + content[start + size :]


def _removed(content, start, rng):
    return content[:start] + content[start + rng.choice((1, 7, 512)) :]


def _doubled(content, start, rng):
    return content[: start + rng.choice((1, 16, 512))] + content[start:]


def _noise(content, start, rng):
    size = rng.choice((8, 256))
    return content[:start] + rng.randbytes(len(content[start : start + size])) + content[start + size :]
