"""Orders of quants under the hypothesis that a measure says nothing: every order within a block is as likely."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np

from quantprobe.arrays import FloatArray, Int64Array


def block_orders(blocks: Int64Array, n_perm: int, seed: int) -> tuple[Int64Array, bool]:
    """Orders of `[n]` things that move only within their block, `[n_orders, n]`, and whether these are all of them.

    All orders, the given one among them, where they are at most `n_perm`; else `n_perm` random ones. The orders of the
    last few blocks are kept: tables ask for the same ones dozens of times.
    """
    return _orders(tuple(np.unique(blocks, return_inverse=True)[1].ravel().tolist()), n_perm, seed)


@functools.lru_cache(maxsize=4)
def _orders(codes: tuple[int, ...], n_perm: int, seed: int) -> tuple[Int64Array, bool]:
    blocks = np.array(codes, np.int64)
    orders, is_whole = _draw(blocks, n_perm, np.random.default_rng(seed))
    orders.flags.writeable = False
    return orders, is_whole


def _draw(blocks: Int64Array, n_perm: int, rng: np.random.Generator) -> tuple[Int64Array, bool]:
    members = [np.flatnonzero(blocks == block) for block in np.unique(blocks)]
    count = math.prod(math.factorial(len(places)) for places in members)
    if count <= n_perm:
        orders = np.empty((count, len(blocks)), np.int64)
        choices = itertools.product(*(itertools.permutations(places) for places in members))
        for row, choice in enumerate(choices):
            for places, order in zip(members, choice, strict=True):
                orders[row, places] = order
        return orders, True
    orders = np.empty((n_perm, len(blocks)), np.int64)
    for places in members:
        orders[:, places] = places[rng.random((n_perm, len(places))).argsort(1)]
    return orders, False


def smallest_p(blocks: Int64Array) -> float:
    """The smallest two-sided p that any order could have: 2 over the number of orders, at most 1."""
    sizes = np.unique(blocks, return_counts=True)[1]
    return min(1.0, 2 * math.exp(-sum(math.lgamma(n + 1) for n in sizes)))


def centre(values: FloatArray, blocks: Int64Array) -> FloatArray:
    """Values minus the mean of their block, along the last axis."""
    codes = np.unique(blocks, return_inverse=True)[1]
    member = (codes[:, None] == np.arange(codes.max(initial=0) + 1)).astype(np.float64)
    return np.asarray(values - (values @ member / member.sum(0)) @ member.T, np.float64)
