"""What to decode for windows of their own lengths, such as conversations.

As many whole windows as fit one micro-batch go together, each a sequence of its own, in the order of the probe. They
share one buffer: with a buffer for each sequence llama.cpp would cut sequences of unequal lengths into micro-batches of
equal ones, and the rows would come in another order. A longer window is decoded alone, in pieces.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from quantprobe.arrays import BoolArray, Int32Array, Int64Array
from quantprobe.engine.plan import MAX_SEQ, Geometry, Step, block_rows, needed_steps
from quantprobe.probes.text import TextProbe
from quantprobe.settings import Settings


def conversation_geometry(probe: TextProbe, settings: Settings, n_vocab: int, alone: bool) -> Geometry:
    """The context for windows of their own lengths.

    `alone` is for recurrent and hybrid models: one window in a batch, because llama.cpp would reorder the rows of
    sequences of unequal lengths.
    """
    n_ubatch = settings.n_ubatch_used
    n_seq = 1 if alone else max(1, min(MAX_SEQ, probe.n_windows, n_ubatch // 2))
    return Geometry(
        n_ctx=probe.n_ctx if n_seq == 1 else max(probe.n_ctx, n_ubatch),
        n_seq=n_seq,
        n_batch=n_ubatch,
        n_ubatch=n_ubatch,
        n_outputs=max(block_rows(n_vocab, n_ubatch), n_seq),
        unified=n_seq > 1,
    )


@dataclass(frozen=True)
class _Windows:
    """The windows of a probe by number."""

    tokens: Int32Array
    lengths: list[int]
    scored: BoolArray
    counts: list[int]
    offsets: list[int]
    """First row of each."""


def plan_conversations(probe: TextProbe, geometry: Geometry, done: BoolArray | None = None) -> Iterator[Step]:
    """Steps that give every row of windows of their own lengths that is not `done`, in ascending order of row ids."""
    if probe.own is None:
        raise ValueError(f"the windows of {probe.name!r} are of one length")
    counts = probe.row_counts()
    windows = _Windows(
        probe.decoded(),
        probe.lengths().tolist(),
        probe.own.scored,
        counts.tolist(),
        (np.cumsum(counts) - counts).tolist(),
    )
    for group in _groups(windows, geometry):
        if len(group) > 1:
            steps = [_step(windows, [(window, 0, windows.lengths[window]) for window in group])]
        else:
            pieces = itertools.pairwise(_cuts(windows, group[0], geometry))
            steps = [_step(windows, [(group[0], low, high)]) for low, high in pieces]
        yield from needed_steps(steps, done)


def _groups(windows: _Windows, geometry: Geometry) -> Iterator[list[int]]:
    """Neighbouring windows that one micro-batch holds; one that is too long by itself."""
    group: list[int] = []
    n_tokens = n_rows = 0
    for window, (length, count) in enumerate(zip(windows.lengths, windows.counts, strict=True)):
        fits = n_tokens + length <= geometry.n_batch and n_rows + count <= geometry.n_outputs
        if group and not (fits and len(group) < geometry.n_seq):
            yield group
            group, n_tokens, n_rows = [], 0, 0
        group.append(window)
        n_tokens, n_rows = n_tokens + length, n_rows + count
    if group:
        yield group


def _cuts(windows: _Windows, window: int, geometry: Geometry) -> list[int]:
    """Where one window is cut: pieces of at most `n_batch` tokens and `n_outputs` rows, none of a token alone."""
    length = windows.lengths[window]
    n_rows = np.concatenate([[0], np.cumsum(windows.scored[window, :length])])
    cuts = [0]
    while cuts[-1] < length:
        low = cuts[-1]
        # the largest end whose rows from `low` on are at most n_outputs
        most = int(np.searchsorted(n_rows, n_rows[low] + geometry.n_outputs, side="right")) - 1
        high = min(low + geometry.n_batch, most, length)
        # a batch of one token is computed by other kernels, whose result depends on the number of threads
        cuts.append(high - 1 if length - high == 1 and high - low > 2 else high)
    return cuts


def _step(windows: _Windows, parts: list[tuple[int, int, int]]) -> Step:
    """One batch of parts `(window, low, high)`, each a sequence."""
    tokens, pos, seq, output, rows = [], [], [], [], []
    for number, (window, low, high) in enumerate(parts):
        scored = windows.scored[window]
        first = windows.offsets[window] + int(np.count_nonzero(scored[:low]))
        tokens.append(windows.tokens[window, low:high])
        pos.append(np.arange(low, high, dtype=np.int32))
        seq.append(np.full(high - low, number, np.int32))
        output.append(scored[low:high].astype(np.int8))
        rows.append(np.arange(first, first + int(np.count_nonzero(scored[low:high])), dtype=np.int64))
    joined: Int64Array = np.concatenate(rows)
    return Step(
        tokens=np.concatenate(tokens),
        pos=np.concatenate(pos),
        seq=np.concatenate(seq),
        n_seq=np.ones(sum(map(len, tokens)), np.int32),
        output=np.concatenate(output),
        row_ids=joined,
        clear=parts[0][1] == 0,
    )
