# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Ways in which files break: cut off, bits turned over, parts lost, doubled or taken from elsewhere."""

import random


def damaged(content, count, seed=0):
    """Broken versions of a file's content, by name; always the same for the same arguments.

    Half of the turned bits lie in the first 200 bytes, where formats keep what everything else depends on.
    """
    dice = random.Random(seed)
    length = len(content)
    found = {
        "empty": b"",
        "first byte": content[:1],
        "without the last byte": content[:-1],
        "zeros": bytes(length),
        "something before": b"\n" + content,
        "something after": content + b"\0" * 100,
        "twice": content + content,
        "a text": b"404: Not Found\n",
    }
    kinds = (_cut, _turned_bits, _turned_early_bits, _turned_early_bits, _hole, _lost, _doubled, _noise)
    for number in range(count - len(found)):
        kind = kinds[number % len(kinds)]
        found[f"{kind.__name__.strip('_').replace('_', ' ')} {number}"] = kind(content, length, dice)
    return found


def _cut(content, length, dice):
    return content[: dice.randrange(length)]


def _turn(content, places, dice):
    changed = bytearray(content)
    for place in places:
        changed[place] ^= 1 << dice.randrange(8)
    return bytes(changed)


def _turned_bits(content, length, dice):
    return _turn(content, [dice.randrange(length) for _ in range(dice.choice((1, 1, 3, 30)))], dice)


def _turned_early_bits(content, length, dice):
    return _turn(content, [dice.randrange(min(200, length)) for _ in range(dice.choice((1, 1, 2)))], dice)


def _hole(content, length, dice):
    start, size = dice.randrange(length), dice.choice((4, 64, 512))
    return content[:start] + bytes(len(content[start : start + size])) + content[start + size :]


def _lost(content, length, dice):
    start = dice.randrange(length)
    return content[:start] + content[start + dice.choice((1, 7, 512)) :]


def _doubled(content, length, dice):
    start, size = dice.randrange(length), dice.choice((1, 16, 512))
    return content[: start + size] + content[start:]


def _noise(content, length, dice):
    start, size = dice.randrange(length), dice.choice((8, 256))
    return content[:start] + dice.randbytes(len(content[start : start + size])) + content[start + size :]
