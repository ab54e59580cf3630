"""Sequences of unequal lengths cut into batches of parts of one length, as recurrent models need them.

llama.cpp cuts a batch of unequal sequences into micro-batches of equal ones for these models, and reorders its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Part(NamedTuple):
    """Tokens `begin` to `end - 1` of the sequence of a number."""

    number: int
    begin: int
    end: int


def cut_equal(lengths: Sequence[int], n_most: int) -> list[list[Part]]:
    """Batches of at most `n_most` tokens that give every token of sequences of these lengths once, in their order.

    A batch holds one part of a sequence at most, and all of its parts have one length. Sequences are cut at a depth
    that many of them have in common, and the rest of each into powers of two, so that few lengths occur; of all such
    depths, and of no cut at all, the way with the fewest batches.
    """
    firsts = [[depth if depth <= n else 0 for n in lengths] for depth in {0, *(n for n in lengths if n <= n_most)}]
    firsts += [_depths(lengths, n_most, spread) for spread in range(max(lengths) - min(lengths))]
    ways = [[_whole(n, n_most) for n in lengths]]
    ways += [
        [[depth][: depth > 0] + _powers(n - depth, n_most) for n, depth in zip(lengths, first, strict=True)]
        for first in firsts
    ]
    return min((_batches(cuts, n_most) for cuts in ways), key=len)


def _depths(lengths: Sequence[int], n_most: int, spread: int) -> list[int]:
    """Where each sequence is cut first: at the length of the shortest in its batch, which none exceeds by more than
    `spread`. Each batch takes as many as it holds, from the shortest on."""
    depths = [0] * len(lengths)
    depth = n_left = 0
    for number in sorted(range(len(lengths)), key=lengths.__getitem__):
        if n_left == 0 or lengths[number] > depth + spread:
            depth = min(lengths[number], n_most)
            n_left = n_most // depth
        depths[number] = depth
        n_left -= 1
    return depths


def _whole(n: int, n_most: int) -> list[int]:
    return [n_most] * (n // n_most) + [n % n_most] * (n % n_most > 0)


def _powers(n: int, n_most: int) -> list[int]:
    """As many parts of `n_most` as fit, then powers of two, the largest first."""
    left = n % n_most
    return [n_most] * (n // n_most) + [1 << bit for bit in reversed(range(left.bit_length())) if left >> bit & 1]


def _batches(cuts: Sequence[Sequence[int]], n_most: int) -> list[list[Part]]:
    """Again and again the longest of the parts that come next: the rests of these may join what is shorter."""
    place, depth = [0] * len(cuts), [0] * len(cuts)
    batches: list[list[Part]] = []
    while waiting := [number for number, cut in enumerate(cuts) if place[number] < len(cut)]:
        length = max(cuts[number][place[number]] for number in waiting)
        alike = [number for number in waiting if cuts[number][place[number]] == length]
        n_together = max(1, n_most // length)
        for first in range(0, len(alike), n_together):
            chosen = alike[first : first + n_together]
            batches.append([Part(number, depth[number], depth[number] + length) for number in chosen])
        for number in alike:
            place[number] += 1
            depth[number] += length
    return batches
