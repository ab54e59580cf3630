"""Which tasks llama-perplexity takes when it is asked for fewer than all, and in which order."""

from __future__ import annotations

from typing import Any

import numpy as np

from quantprobe.arrays import Int64Array


def _draws() -> np.random.MT19937:
    """The stream of C++'s `std::mt19937(1)`: RandomState seeds in the same way, MT19937 itself does not."""
    generator = np.random.MT19937()
    seeded: Any = np.random.RandomState(1).get_state(legacy=False)
    generator.state = seeded
    return generator


def hellaswag_selection(n_all: int, n: int) -> Int64Array:
    """Indices of the `min(n, n_all)` tasks that `--hellaswag-tasks n` takes, in its order; always random.

    `std::mt19937(1)` with libstdc++'s `uniform_int_distribution` (Lemire's multiply-shift on 32-bit
    draws), each task taken out of those that remain. Builds with libc++ or MSVC select otherwise.
    """
    draws = _draws()
    remaining = list(range(n_all))
    picked = np.empty(min(max(n, 0), n_all), dtype=np.int64)
    for i in range(len(picked)):
        picked[i] = remaining.pop(_lemire(draws, len(remaining)))
    return picked


def _lemire(draws: np.random.MT19937, n: int) -> int:
    product = int(draws.random_raw()) * n
    if product % 2**32 < n:
        threshold = (2**32 - n) % n
        while product % 2**32 < threshold:
            product = int(draws.random_raw()) * n
    return product >> 32


def multiple_choice_selection(n_all: int, n: int) -> Int64Array:
    """Indices that `--winogrande-tasks n` and `--multiple-choice-tasks n` take, in their order.

    `n` of 0, or at least `n_all`: all, in file order. Else `std::mt19937(1)`, the place computed in
    float32, and the last of the remaining put where the picked one was. A draw that float32 rounds up
    to 2^32 (3 in 10^8) would lie behind the end; the original then reads out of bounds, here the last is taken.
    """
    if n <= 0 or n >= n_all:
        return np.arange(n_all, dtype=np.int64)
    draws = _draws()
    scale = np.float32(2.0**-32)
    remaining = list(range(n_all))
    picked = np.empty(n, dtype=np.int64)
    for i in range(n):
        unit = scale * np.float32(int(draws.random_raw()))
        j = min(int(unit * np.float32(len(remaining))), len(remaining) - 1)
        picked[i] = remaining[j]
        remaining[j] = remaining[-1]
        remaining.pop()
    return picked
