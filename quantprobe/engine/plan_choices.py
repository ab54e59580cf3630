"""What to decode for a task: shared beginnings once, scored rows only.

Three levels of sharing, all by copying whole sequences (`llama_memory_seq_cp` shares cells or recurrent states; nothing
is ever partly removed, which recurrent models cannot do):

* the *header* of a run of neighbouring questions (few-shot examples, a subject line) is decoded once, in sequence 0;
* the rest of a question's prefix is decoded once, in a copy of sequence 0;
* each choice continues in a copy of its question's sequence, without its last token, which predicts nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from quantprobe.arrays import Int32Array, Int64Array
from quantprobe.engine.plan import LLAMA_MAX_SEQ, MAX_SEQ, Geometry, Step, block_rows
from quantprobe.engine.settings import Settings
from quantprobe.errors import InputError
from quantprobe.probes.choices import ChoiceItem, TaskProbe

MIN_HEADER = 32
"""Tokens that neighbours must share to be worth a sequence of their own."""

GROUP_UBATCHES = 2
"""Micro-batches of cells that the questions decoded together may fill, besides their header."""


@dataclass(frozen=True)
class _Piece:
    """Consecutive tokens of one sequence; `row_ids` is -1 where no row is wanted."""

    seq: int
    first: int
    tokens: Int32Array
    row_ids: Int64Array

    def cut(self, begin: int, end: int) -> _Piece:
        return _Piece(self.seq, self.first + begin, self.tokens[begin:end], self.row_ids[begin:end])


def n_item_tokens(item: ChoiceItem) -> int:
    """Cells that one question takes: its prefix once, and every branch without its last token."""
    return len(item.prefix) + sum(max(len(branch) - 1, 0) for branch in item.branches)


def n_naive_tokens(probe: TaskProbe) -> int:
    """Tokens that scoring every choice by itself would decode."""
    return sum(len(item.prefix) + len(branch) for item in probe.items for branch in item.branches[: item.n_choices])


def choice_geometry(probe: TaskProbe, settings: Settings, n_vocab: int) -> Geometry:
    """The context for a task: one buffer that all sequences share.

    It holds the longest header and a group of questions: attention looks at every used cell, masked or not, so a bigger
    group costs more than fuller batches gain. A longer question is a group of its own.
    """
    n_ubatch = min(settings.n_ubatch, settings.n_batch)
    n_branches = max(len(item.branches) for item in probe.items)
    if n_branches + 2 > LLAMA_MAX_SEQ:
        raise InputError(f"task {probe.name}: a question has {n_branches} choices; llama.cpp takes {LLAMA_MAX_SEQ - 2}")
    n_seq = max(MAX_SEQ, n_branches + 2)
    n_cells = [
        n_header
        + max(int(GROUP_UBATCHES * n_ubatch), max(n_item_tokens(probe.items[number]) - n_header for number in run))
        for run, n_header in _runs(probe.items)
    ]
    return Geometry(
        n_ctx=max(n_cells),
        n_seq=n_seq,
        n_batch=max(n_ubatch, n_seq),
        n_ubatch=n_ubatch,
        n_outputs=max(block_rows(n_vocab, settings.n_ubatch), n_seq),
        unified=True,
    )


def plan_choices(probe: TaskProbe, geometry: Geometry, equal_lengths: bool) -> Iterator[Step]:
    """Steps that give every row of a task.

    `equal_lengths` is for recurrent and hybrid models: a batch then holds sequences of one length and fits one
    micro-batch, because llama.cpp would otherwise reorder its rows.
    """
    offsets = probe.offsets()
    for run, n_header in _runs(probe.items):
        header = _Piece(0, 0, probe.items[run[0]].prefix[:n_header], np.full(n_header, -1, dtype=np.int64))
        fresh = True
        if n_header:
            yield from _steps([header], geometry, equal_lengths, _Memory(clear=True))
            fresh = False
        n_used = 0
        for group in _groups(probe.items, run, n_header, geometry):
            memory = _Memory(clear=fresh or not n_header, removes=tuple(range(1, n_used + 1)) if n_header else ())
            prefixes, branches, copies, n_used = _lay_out(probe.items, offsets, group, n_header)
            if prefixes:
                shared = tuple((0, piece.seq) for piece in prefixes) if n_header else ()
                yield from _steps(prefixes, geometry, equal_lengths, replace(memory, copies=shared))
                memory = _Memory()
            if branches:
                yield from _steps(branches, geometry, equal_lengths, replace(memory, copies=copies))


@dataclass(frozen=True)
class _Memory:
    """What happens to the sequences before a batch, in this order."""

    clear: bool = False
    removes: tuple[int, ...] = ()
    copies: tuple[tuple[int, int], ...] = ()


def _runs(items: Sequence[ChoiceItem]) -> Iterator[tuple[range, int]]:
    """Neighbouring items and the length of the header that they share; 0 for all neighbours without one."""
    for has_header, runs in groupby(_header_runs(items), lambda run: run[1] > 0):
        if has_header:
            yield from runs
        else:
            ranges = [run for run, _ in runs]
            yield range(ranges[0].start, ranges[-1].stop), 0


def _header_runs(items: Sequence[ChoiceItem]) -> Iterator[tuple[range, int]]:
    """Runs with a header worth it, and single items with 0 between them.

    The scored rows of a prefix stay outside: they belong to each item.
    """
    begin = 0
    while begin < len(items):
        n_header = _n_free(items[begin])
        end = begin + 1
        while end < len(items):
            n_common = min(_n_common(items[begin].prefix, items[end].prefix), n_header, _n_free(items[end]))
            # a new subject shares only the first words: that ends the run, it does not shorten the header
            if n_common < max(MIN_HEADER, n_header // 2 if end > begin + 1 else 0):
                break
            n_header = n_common
            end += 1
        yield range(begin, end), n_header if end > begin + 1 else 0
        begin = end


def _n_free(item: ChoiceItem) -> int:
    return max(len(item.prefix) - item.n_prefix_rows, 0)


def _n_common(a: Int32Array, b: Int32Array) -> int:
    n = min(len(a), len(b))
    differs = np.flatnonzero(a[:n] != b[:n])
    return int(differs[0]) if len(differs) else n


def _groups(items: Sequence[ChoiceItem], run: range, n_header: int, geometry: Geometry) -> Iterator[list[int]]:
    """Items of a run that fit the buffer and the sequences together."""
    group: list[int] = []
    n_cells, n_seqs = n_header, 1
    n_most = min(geometry.n_ctx, n_header + GROUP_UBATCHES * geometry.n_ubatch)
    for number in run:
        cells = n_item_tokens(items[number]) - n_header
        seqs = max(1, sum(len(branch) > 1 for branch in items[number].branches))
        if group and (n_cells + cells > n_most or n_seqs + seqs > geometry.n_seq):
            yield group
            group, n_cells, n_seqs = [], n_header, 1
        group.append(number)
        n_cells += cells
        n_seqs += seqs
    if group:
        yield group


def _lay_out(
    items: Sequence[ChoiceItem], offsets: Sequence[int], group: Sequence[int], n_header: int
) -> tuple[list[_Piece], list[_Piece], tuple[tuple[int, int], ...], int]:
    """Pieces of the prefixes and of the branches, the copies between them, and the last sequence used."""
    prefixes: list[_Piece] = []
    branches: list[_Piece] = []
    copies: list[tuple[int, int]] = []
    seq = 0
    for number in group:
        item, row = items[number], offsets[number]
        home = seq + 1
        seq = home
        if len(item.prefix):
            row_ids = np.full(len(item.prefix), -1, dtype=np.int64)
            row_ids[len(item.prefix) - item.n_prefix_rows :] = row + np.arange(item.n_prefix_rows)
            prefixes.append(_Piece(home, 0, item.prefix, row_ids).cut(n_header, len(item.prefix)))
        row += item.n_prefix_rows
        for place, branch in enumerate(branch for branch in item.branches if len(branch) > 1):
            if place:
                seq += 1
                if len(item.prefix):
                    copies.append((home, seq))
            n_rows = len(branch) - 1
            branches.append(_Piece(seq, len(item.prefix), branch[:-1], row + np.arange(n_rows, dtype=np.int64)))
            row += n_rows
    return prefixes, branches, tuple(copies), seq


def _steps(pieces: Sequence[_Piece], geometry: Geometry, equal_lengths: bool, memory: _Memory) -> Iterator[Step]:
    """Pack pieces into batches; the memory operations come before the first."""
    batches = _equal_batches(pieces, geometry) if equal_lengths else _full_batches(pieces, geometry)
    for number, batch in enumerate(batches):
        before = memory if number == 0 else _Memory()
        row_ids = np.concatenate([piece.row_ids for piece in batch])
        yield Step(
            tokens=np.concatenate([piece.tokens for piece in batch]),
            pos=np.concatenate([np.arange(p.first, p.first + len(p.tokens), dtype=np.int32) for p in batch]),
            seq=np.concatenate([np.full(len(piece.tokens), piece.seq, dtype=np.int32) for piece in batch]),
            output=(row_ids >= 0).astype(np.int8),
            row_ids=row_ids[row_ids >= 0],
            clear=before.clear,
            removes=before.removes,
            copies=before.copies,
        )


def _full_batches(pieces: Sequence[_Piece], geometry: Geometry) -> Iterator[list[_Piece]]:
    """Batches filled to the last token or row; a piece may go on in the next one.

    Each is one micro-batch, so that the base's rows are multiplied again in the numbers in which they were captured:
    ggml has another kernel for a single row, which sums in another order.
    """
    batch: list[_Piece] = []
    n_tokens = n_rows = 0
    for piece in pieces:
        begin = 0
        while begin < len(piece.tokens):
            wanted = np.cumsum(piece.row_ids[begin:] >= 0)
            room = min(geometry.n_ubatch - n_tokens, int(np.searchsorted(wanted, geometry.n_outputs - n_rows, "right")))
            if room == 0:
                yield batch
                batch, n_tokens, n_rows = [], 0, 0
                continue
            part = piece.cut(begin, min(begin + room, len(piece.tokens)))
            batch.append(part)
            n_tokens += len(part.tokens)
            n_rows += int((part.row_ids >= 0).sum())
            begin += len(part.tokens)
    if batch:
        yield batch


def _equal_batches(pieces: Sequence[_Piece], geometry: Geometry) -> Iterator[list[_Piece]]:
    """Batches of pieces of one length, each within one micro-batch."""
    n_most = min(geometry.n_ubatch, geometry.n_outputs)
    depth = 0
    left = list(pieces)
    while left:
        parts = [piece.cut(depth, min(depth + n_most, len(piece.tokens))) for piece in left]
        for length, same in groupby(sorted(parts, key=lambda part: len(part.tokens)), lambda part: len(part.tokens)):
            alike = list(same)
            n_together = max(1, n_most // length)
            for begin in range(0, len(alike), n_together):
                yield alike[begin : begin + n_together]
        depth += n_most
        left = [piece for piece in left if len(piece.tokens) > depth]
