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
    kinds = ("truncated", "flipped", "flipped early", "flipped early", "zeroed", "removed", "doubled", "noise")
    for number in range(count - len(found)):
        kind, start, size = kinds[number % len(kinds)], rng.randrange(len(content)), rng.choice((1, 8, 64, 512))
        before, part, after = content[:start], content[start : start + size], content[start + size :]
        if "flipped" in kind:
            changed = bytearray(content)
            for _ in range(rng.choice((1, 1, 3, 30)) if kind == "flipped" else rng.choice((1, 1, 2))):
                place = rng.randrange(len(content) if kind == "flipped" else min(200, len(content)))
                changed[place] ^= 1 << rng.randrange(8)
            version = bytes(changed)
        else:
            version = {
                "truncated": before,
                "zeroed": before + bytes(len(part)) + after,
                "removed": before + after,
                "doubled": before + part + part + after,
                "noise": before + rng.randbytes(len(part)) + after,
            }[kind]
        found[f"{kind} {number}"] = version
    return found
