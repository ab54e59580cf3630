"""What to decode, batch by batch: pure arithmetic over tokens, no llama.cpp.

A plan is a sequence of steps. Each step names its rows by their ids in the probe, so that rows can be stored and
compared in any order; a plan for the same probe and geometry is always the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantprobe.arrays import BoolArray, Int32Array, Int64Array
from quantprobe.errors import InputError
from quantprobe.probes.text import TextProbe
from quantprobe.settings import LLAMA_MAX_SEQ, Settings

MAX_SEQ = 64
"""Most sequences in our own contexts; more give no speed and cost memory per sequence."""

BLOCK_BYTES = 96 * 1024 * 1024
"""Most bytes of logits in one batch. llama.cpp holds them twice (graph and output buffer), the base's rows are a third
copy: about 290 MB in all, whatever the vocabulary and the context length."""


@dataclass(frozen=True)
class Geometry:
    """The shape of a context; what is asked for, not what llama.cpp pads it to."""

    n_ctx: int
    """Cells per sequence, or of the one shared buffer if `unified`."""
    n_seq: int
    n_batch: int
    n_ubatch: int
    n_outputs: int
    """Most rows that one batch may ask for; bounds the memory of llama.cpp's output buffers."""
    unified: bool


@dataclass(frozen=True)
class Step:
    """One call of llama_decode and the memory operations before it."""

    tokens: Int32Array
    pos: Int32Array
    seq: Int32Array
    n_seq: Int32Array
    """A token belongs to this many sequences, from `seq` on; they share its cell."""
    output: NDArray[np.int8]
    """`[n_tokens]`, 1 where a row is wanted."""
    row_ids: Int64Array
    """`[n_rows]`, the ids of the wanted rows in batch order."""
    clear: bool = False
    copies: tuple[tuple[int, int], ...] = ()
    """(from, to) pairs of sequences, copied before the decode."""
    removes: tuple[int, ...] = ()
    """Sequences forgotten before the copies."""
    forgets: tuple[int, ...] = ()
    """Sequences forgotten after the decode."""


def block_rows(n_vocab: int, n_ubatch: int) -> int:
    """Most rows in one batch: `BLOCK_BYTES` of logits, at least 16, at most a micro-batch."""
    return max(16, min(n_ubatch, BLOCK_BYTES // (4 * n_vocab)))


def window_geometry(probe: TextProbe, settings: Settings, n_vocab: int) -> Geometry:
    """The context for a text: as many whole windows as fit one micro-batch, each its own sequence.

    Windows are decoded in the order of the text and each batch is one micro-batch, so llama.cpp never has to swap rows
    (with llama-perplexity's four interleaved windows it does: 512 swaps of n_vocab floats a batch).
    """
    n_ubatch = settings.n_ubatch_used
    n_outputs = block_rows(n_vocab, n_ubatch)
    n_seq = max(1, min(n_ubatch // probe.n_ctx, n_outputs // probe.rows_per_window, MAX_SEQ, probe.n_windows))
    return Geometry(
        n_ctx=probe.n_ctx,
        n_seq=n_seq,
        n_batch=n_ubatch,
        n_ubatch=n_ubatch,
        n_outputs=max(n_outputs, n_seq),
        unified=False,
    )


def llama_perplexity_geometry(probe: TextProbe, settings: Settings) -> Geometry:
    """The context of llama-perplexity: `n_batch / n_ctx` windows in one batch, cut into micro-batches by llama.cpp.

    For the last digit of its printed numbers: which kernels run depends on the shape of the micro-batches. It holds all
    rows of a batch at once, as the tool does, and gives no hidden rows (their order is llama.cpp's own).
    Raises `InputError` where llama.cpp would leave one token of a window for a micro-batch of its own (`MIN_BATCH`).
    """
    n_seq = max(1, min(settings.n_batch // probe.n_ctx, LLAMA_MAX_SEQ))
    pieces = {min(settings.n_batch, probe.n_ctx), probe.n_ctx % settings.n_batch}
    if probe.n_windows % n_seq == 1 % n_seq and any(piece % settings.n_ubatch == 1 for piece in pieces):
        raise InputError(
            f"text {probe.name}: in windows of {probe.n_ctx} tokens llama-perplexity decodes a single token last, "
            "with a result that depends on the number of threads; choose another --ctx-size or --ubatch-size"
        )
    return Geometry(
        n_ctx=probe.n_ctx,
        n_seq=n_seq,
        n_batch=min(settings.n_batch, n_seq * probe.n_ctx),
        n_ubatch=settings.n_ubatch,
        n_outputs=max(n_seq, n_seq * min(probe.rows_per_window, settings.n_batch)),
        unified=False,
    )


def needed_steps(steps: Iterable[Step], done: BoolArray | None) -> list[Step]:
    """The steps of one group up to the last that gives a row which is not `done`; all of them where that is None.

    A group begins on memory that does not depend on the groups before it, and each of its steps may read what the
    earlier ones wrote. So what is decoded gives the bits that it gives in the whole plan.
    """
    group = list(steps)
    if done is None:
        return group
    n_needed = max((n for n, step in enumerate(group, 1) if not done[step.row_ids].all()), default=0)
    return group[:n_needed]


def plan_windows(probe: TextProbe, geometry: Geometry, done: BoolArray | None = None) -> Iterator[Step]:
    """Steps that give every row of a text that is not `done` (`[n_rows]`), in ascending order of row ids."""
    tokens = probe.decoded()
    for begin in range(0, probe.n_windows, geometry.n_seq):
        group = np.arange(begin, min(begin + geometry.n_seq, probe.n_windows))
        pieces = enumerate(_pieces(probe, geometry))
        steps = (_window_step(probe, tokens, group, *ends, clear=number == 0) for number, ends in pieces)
        yield from needed_steps(steps, done)


def _pieces(probe: TextProbe, geometry: Geometry) -> list[tuple[int, int]]:
    """Ranges of positions of one window: at most `n_batch` tokens and `n_outputs` rows each.

    They are as few as these limits allow, and their rows as even as that many allow: a window of 512 tokens with room
    for 165 rows is cut into 384 and 128 tokens with 128 and 127 rows.
    """
    if geometry.n_seq > 1:
        return [(0, probe.n_ctx)]
    cuts = _cuts(probe, geometry.n_batch, geometry.n_outputs)
    n_scored = sum(high > probe.first for high in cuts[1:])
    fewest = -(-probe.rows_per_window // n_scored)
    # where tokens are the limit, and not rows, pieces stay as full as they can be
    for n_rows in range(fewest, geometry.n_outputs) if geometry.n_outputs < geometry.n_batch else ():
        even = _cuts(probe, geometry.n_batch, n_rows)
        if len(even) == len(cuts):
            cuts = even
            break
    if cuts[-1] - cuts[-2] == 1 and len(cuts) > 2:  # no token alone, see MIN_BATCH
        cuts[-2] -= 1
    return list(itertools.pairwise(cuts))


def _cuts(probe: TextProbe, n_batch: int, n_rows: int) -> list[int]:
    """The ends of pieces that are as long as `n_batch` tokens and `n_rows` rows let them be."""
    cuts = [0]
    while cuts[-1] < probe.n_ctx:
        low = cuts[-1]
        n_unscored = max(probe.first - low, 0)
        # the last token has no row
        most = min(low + n_batch, low + n_unscored + n_rows)
        cuts.append(probe.n_ctx if most == probe.n_ctx - 1 and probe.n_ctx - low <= n_batch else min(most, probe.n_ctx))
    return cuts


def _window_step(
    probe: TextProbe, tokens: Int32Array, group: NDArray[np.intp], low: int, high: int, clear: bool
) -> Step:
    pos = np.arange(low, high, dtype=np.int32)
    scored = (pos >= probe.first) & (pos < probe.n_ctx - 1)
    row_ids = group[:, None] * probe.rows_per_window + (pos[scored] - probe.first)[None, :]
    return Step(
        tokens=np.ascontiguousarray(tokens[group, low:high]).reshape(-1),
        pos=np.tile(pos, len(group)),
        seq=np.repeat(np.arange(len(group), dtype=np.int32), len(pos)),
        n_seq=np.ones(len(group) * len(pos), dtype=np.int32),
        output=np.tile(scored.astype(np.int8), len(group)),
        row_ids=row_ids.astype(np.int64).reshape(-1),
        clear=clear,
    )
