"""What to decode for a task: shared beginnings once, scored rows only.

Three levels of sharing; nothing is ever partly removed, which recurrent models cannot do:

* the *header* of a run of neighbouring questions (few-shot examples, a subject line) is decoded once, in sequence 0,
  and copied to the others (`llama_memory_seq_cp` shares cells or recurrent states);
* the rest of a question's prefix is decoded once, into cells that the sequences of all its choices share; recurrent and
  hybrid models cannot do that: there it is decoded in one sequence, and copied;
* each choice continues in its own sequence, without its last token, which predicts nothing.

With `Settings.n_parallel` the batches are those of `llama-perplexity -np N`: which kernels run, and in which order they
sum, depends on the batches, and answers of quantized models with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from quantprobe.arrays import BoolArray, Int32Array, Int64Array
from quantprobe.engine.equal_parts import cut_equal
from quantprobe.engine.plan import MAX_SEQ, Geometry, Step, block_rows, needed_steps
from quantprobe.errors import InputError
from quantprobe.probes.items import ChoiceItem, TaskProbe
from quantprobe.settings import LLAMA_MAX_SEQ, Settings

MIN_HEADER = 32
"""Tokens that neighbours must share to be worth a sequence of their own."""

POOL, WIDE_POOL = 8, 10
"""Micro-batches of questions that recurrent and hybrid models have in memory together; with twice `MAX_SEQ` sequences
there is use for more."""

STATES_BYTES = 1 << 30
"""Most memory for the states of their sequences beyond `MAX_SEQ`. The more sequences, the fewer batches: 300 questions
of ARC-Easy take 118 with 64 sequences, 70 with 133 and 45 with 255, where attention models have 26."""

LLAMA_TASK_SEQ = 128
"""Most sequences that llama-perplexity has in a batch of HellaSwag or multiple choice."""


@dataclass(frozen=True)
class _Piece:
    """Consecutive tokens of one sequence; `row_ids` is -1 where no row is wanted."""

    seq: int
    first: int
    tokens: Int32Array
    row_ids: Int64Array
    n_seq: int = 1
    """Sequences from `seq` on that share the tokens."""

    def cut(self, begin: int, end: int) -> _Piece:
        return _Piece(self.seq, self.first + begin, self.tokens[begin:end], self.row_ids[begin:end], self.n_seq)


def n_item_tokens(item: ChoiceItem, whole: bool = False) -> int:
    """Cells that one question takes: its prefix once, and every branch, `whole` or without its last token."""
    return len(item.prefix) + sum(max(len(branch) - (not whole), 0) for branch in item.branches)


def n_item_seqs(item: ChoiceItem, whole: bool = False) -> int:
    """Sequences that one question takes: one for each branch with a token to decode."""
    return max(1, sum(len(branch) > (not whole) for branch in item.branches))


def n_naive_tokens(probe: TaskProbe) -> int:
    """Tokens that scoring every choice by itself would decode."""
    return sum(len(item.prefix) + len(branch) for item in probe.items for branch in item.branches[: item.n_choices])


def choice_geometry(
    probe: TaskProbe, settings: Settings, n_vocab: int, equal_lengths: bool = False, state_bytes: int | None = None
) -> Geometry:
    """The context for a task: one buffer that all sequences share.

    It holds the longest header and one micro-batch of questions: attention looks at every used cell, masked or not, so
    more cells cost more than fuller batches gain. A longer question is a group of its own. With `equal_lengths` it
    holds several micro-batches (`POOL`), for only many questions have parts of one length, and as many sequences as
    their states (`state_bytes` each) allow.
    """
    n_ubatch = min(settings.n_ubatch, settings.n_batch)
    n_branches = max(len(item.branches) for item in probe.items)
    if n_branches + 3 > LLAMA_MAX_SEQ:
        raise InputError(f"task {probe.name}: a question has {n_branches} choices; llama.cpp takes {LLAMA_MAX_SEQ - 3}")
    if settings.n_parallel is not None:
        return _llama_geometry(probe, settings, settings.n_parallel, n_branches)
    # one for the header, one for the company of a token that would be alone
    n_rows = block_rows(n_vocab, settings.n_ubatch)
    n_states = STATES_BYTES // state_bytes if equal_lengths and state_bytes else 0
    n_seq = max(MAX_SEQ + 1, min(n_states, n_rows, LLAMA_MAX_SEQ), n_branches + 3)
    n_pool = n_ubatch * _n_pool(n_seq, equal_lengths)
    n_cells = [
        n_header + max(n_pool, max(n_item_tokens(probe.items[number]) - n_header for number in run) + 1)
        for run, n_header in _runs(probe.items)
    ]
    return Geometry(
        n_ctx=max(n_cells),
        n_seq=n_seq,
        n_batch=max(n_ubatch, n_seq),
        n_ubatch=n_ubatch,
        n_outputs=max(n_rows, n_seq),
        unified=True,
    )


def _n_pool(n_seq: int, equal_lengths: bool) -> int:
    """Micro-batches of questions in memory together."""
    if not equal_lengths:
        return 1
    return WIDE_POOL if n_seq > 2 * MAX_SEQ else POOL


def _llama_geometry(probe: TaskProbe, settings: Settings, n_parallel: int, n_branches: int) -> Geometry:
    """The context of `llama-perplexity -np N`: `n_ctx` cells for each of its sequences, at least four."""
    n_parallel = max(4, n_parallel)
    if n_branches > n_parallel:
        raise InputError(
            f"task {probe.name}: a question has {n_branches} choices, and llama-perplexity -np {n_parallel} has a "
            f"sequence for {n_parallel}; give --parallel {n_branches} or leave it out"
        )
    longest = max(n_item_tokens(item, whole=True) for item in probe.items)
    n_ubatch = min(settings.n_ubatch, settings.n_batch)
    return Geometry(
        n_ctx=max(n_parallel * settings.n_ctx, longest),
        n_seq=min(n_parallel + 1, LLAMA_MAX_SEQ),
        n_batch=n_ubatch,
        n_ubatch=n_ubatch,
        n_outputs=max(n_ubatch, n_parallel),
        unified=True,
    )


def plan_choices(
    probe: TaskProbe,
    geometry: Geometry,
    equal_lengths: bool = False,
    like_llama: bool = False,
    done: BoolArray | None = None,
) -> Iterator[Step]:
    """Steps that give every row of a task that is not `done` (`[n_rows]`).

    `equal_lengths` is for recurrent and hybrid models: a batch then holds sequences of one length and fits one
    micro-batch, because llama.cpp would otherwise reorder its rows. `like_llama` makes the batches of llama-perplexity:
    no headers, the last token of every choice decoded.

    A group of questions that is left out changes no bit of the others: the next one begins on empty memory, or behind
    the header in the cells that the removed sequences have left.
    """
    offsets = probe.offsets()
    runs = [(range(len(probe.items)), 0)] if like_llama else _runs(probe.items)
    for run, n_header in runs:
        header = _Piece(0, 0, probe.items[run[0]].prefix[:n_header], np.full(n_header, -1, dtype=np.int64))
        ahead = list(_steps([header], geometry, equal_lengths, _Memory(clear=True))) if n_header else []
        n_used = 0
        order = sorted(run, key=lambda number: _shape(probe.items[number])) if equal_lengths else run
        for group in _groups(probe.items, order, n_header, geometry, equal_lengths, like_llama):
            memory = _Memory(clear=not n_header, removes=tuple(range(1, n_used + 1)) if n_header else ())
            prefixes, branches, n_seqs = _lay_out(probe.items, offsets, group, n_header, like_llama)
            if equal_lengths:
                steps = _copied_steps(prefixes, branches, geometry, memory, n_header)
            else:
                # every question's branches behind its prefix, as llama-perplexity has them
                pieces = sorted((*prefixes, *branches), key=lambda piece: piece.seq)
                copies = tuple((0, seq) for seq in range(1, n_seqs + 1)) if n_header else ()
                steps = _steps(pieces, geometry, equal_lengths, replace(memory, copies=copies))
            if needed := needed_steps(steps, done):
                yield from (*ahead, *needed)
                ahead, n_used = [], n_seqs


def _copied_steps(
    prefixes: Sequence[_Piece], branches: Sequence[_Piece], geometry: Geometry, memory: _Memory, n_header: int
) -> Iterator[Step]:
    """Prefixes in the first of their sequences, then copies, then the branches."""
    if prefixes:
        shared = tuple((0, piece.seq) for piece in prefixes) if n_header else ()
        alone = [replace(piece, n_seq=1) for piece in prefixes]
        yield from _steps(alone, geometry, True, replace(memory, copies=shared))
        memory = _Memory()
    if branches:
        copies = tuple((p.seq, p.seq + place) for p in prefixes for place in range(1, p.n_seq))
        yield from _steps(branches, geometry, True, replace(memory, copies=copies))


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


def _shape(item: ChoiceItem) -> tuple[int, int]:
    """Questions of one prefix length are decoded together, and of these those of similar choices."""
    return len(item.prefix), max(map(len, item.branches))


def _groups(
    items: Sequence[ChoiceItem],
    run: Sequence[int],
    n_header: int,
    geometry: Geometry,
    equal_lengths: bool,
    like_llama: bool,
) -> Iterator[list[int]]:
    """Items of a run that fit the buffer and the sequences together; of ours, those that fit one micro-batch."""
    group: list[int] = []
    # sequence 0 is the header's
    n_cells, n_seqs = n_header, 0 if like_llama else 1
    n_most_seqs = min(geometry.n_seq - 1, LLAMA_TASK_SEQ) if like_llama else geometry.n_seq - 1
    # with equal lengths a token in company may need a cell (`_in_company`)
    n_micro = geometry.n_ubatch * _n_pool(geometry.n_seq, equal_lengths)
    n_most = geometry.n_ctx if like_llama else min(geometry.n_ctx, n_header + n_micro) - equal_lengths
    for number in run:
        cells = n_item_tokens(items[number], like_llama) - n_header
        seqs = n_item_seqs(items[number], like_llama)
        if group and (n_cells + cells > n_most or n_seqs + seqs > n_most_seqs):
            yield group
            group, n_cells, n_seqs = [], n_header, 0 if like_llama else 1
        group.append(number)
        n_cells += cells
        n_seqs += seqs
    if group:
        yield group


def _lay_out(
    items: Sequence[ChoiceItem], offsets: Sequence[int], group: Sequence[int], n_header: int, like_llama: bool
) -> tuple[list[_Piece], list[_Piece], int]:
    """Pieces of the prefixes and of the branches, and the last sequence used."""
    prefixes: list[_Piece] = []
    branches: list[_Piece] = []
    seq = 0 if like_llama else 1
    for number in group:
        item, row = items[number], offsets[number]
        n_seq = n_item_seqs(item, like_llama)
        if len(item.prefix):
            row_ids = np.full(len(item.prefix), -1, dtype=np.int64)
            row_ids[len(item.prefix) - item.n_prefix_rows :] = row + np.arange(item.n_prefix_rows)
            prefixes.append(_Piece(seq, 0, item.prefix, row_ids, n_seq).cut(n_header, len(item.prefix)))
        row += item.n_prefix_rows
        used = [branch for branch in item.branches if len(branch) > (not like_llama)]
        for place, branch in enumerate(used):
            n_rows = len(branch) - 1
            row_ids = np.append(row + np.arange(n_rows, dtype=np.int64), -1)[: len(branch) if like_llama else n_rows]
            branches.append(_Piece(seq + place, len(item.prefix), branch[: len(row_ids)], row_ids))
            row += n_rows
        seq += n_seq
    return prefixes, branches, seq - 1


def _steps(pieces: Sequence[_Piece], geometry: Geometry, equal_lengths: bool, memory: _Memory) -> Iterator[Step]:
    """Pack pieces into batches; the memory operations come before the first."""
    batches = _equal_batches(pieces, geometry) if equal_lengths else _evened(_full_batches(pieces, geometry))
    for number, batch in enumerate(batches):
        before = memory if number == 0 else _Memory()
        row_ids = np.concatenate([piece.row_ids for piece in batch])
        step = Step(
            tokens=np.concatenate([piece.tokens for piece in batch]),
            pos=np.concatenate([np.arange(p.first, p.first + len(p.tokens), dtype=np.int32) for p in batch]),
            seq=np.concatenate([np.full(len(piece.tokens), piece.seq, dtype=np.int32) for piece in batch]),
            n_seq=np.concatenate([np.full(len(piece.tokens), piece.n_seq, dtype=np.int32) for piece in batch]),
            output=(row_ids >= 0).astype(np.int8),
            row_ids=row_ids[row_ids >= 0],
            clear=before.clear,
            removes=before.removes,
            copies=before.copies,
        )
        yield _in_company(step, geometry.n_seq - 1) if len(step.tokens) == 1 else step


def _in_company(step: Step, spare: int) -> Step:
    """A step of one token (see `MIN_BATCH`) with the same token again, in a sequence that is a copy of its own."""
    copy = ((int(step.seq[0]), spare),) if step.pos[0] > 0 else ()
    return replace(
        step,
        tokens=np.repeat(step.tokens, 2),
        pos=np.repeat(step.pos, 2),
        seq=np.array([step.seq[0], spare], dtype=np.int32),
        n_seq=np.array([step.n_seq[0], 1], dtype=np.int32),
        output=np.array([step.output[0], 0], dtype=np.int8),
        copies=(*step.copies, *copy),
        forgets=(spare,),
    )


def _evened(batches: Iterator[list[_Piece]]) -> Iterator[list[_Piece]]:
    """The same batches; a last one of a single token takes another one from the batch before."""
    before: list[_Piece] = []
    for batch in batches:
        if before and sum(len(piece.tokens) for piece in batch) == 1:
            n = len(before[-1].tokens) - 1
            batch = [before[-1].cut(n, n + 1), *batch]
            before = [*before[:-1], before[-1].cut(0, n)] if n else before[:-1]
        if before:
            yield before
        before = batch
    if before:
        yield before


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
    """Batches of parts of one length, each within one micro-batch; the parts of a piece come in their order."""
    n_rows = sum(int((piece.row_ids >= 0).sum()) for piece in pieces)
    n_most = geometry.n_ubatch if n_rows <= geometry.n_outputs else min(geometry.n_ubatch, geometry.n_outputs)
    for batch in cut_equal([len(piece.tokens) for piece in pieces], n_most):
        yield [pieces[part.number].cut(part.begin, part.end) for part in batch]
