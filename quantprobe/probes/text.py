"""Text probes: windows of one text, the second half of each scored, as llama-perplexity does, or more of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from quantprobe.arrays import BoolArray, Int32Array, Int64Array
from quantprobe.errors import InputError

SECOND_HALF = "second half"
"""What is scored of a window unless something else is asked for: llama-perplexity's convention."""

MAX_CELLS = 1 << 28
"""Most tokens of windows of their own lengths, each counted as long as the longest: 1 GB in memory."""


@dataclass(frozen=True)
class Cut:
    """What of a file of conversations is measured, and what is not."""

    n_read: int = 0
    """Conversations that were read."""
    n_shortened: int = 0
    """Conversations that lost turns of the assistant's at their end, `n_turns` in all."""
    n_turns: int = 0
    n_left_out: int = 0
    """Conversations of which nothing is left: no turn of the assistant's ends within the window."""
    longest: int = 0
    """Tokens of the longest conversation."""


@dataclass(frozen=True)
class Windows:
    """Windows of their own lengths, as conversations are, each with its own scored positions."""

    lengths: Int32Array
    """`[n_windows]` int32, at least 2: tokens of each window; what is behind them in `TextProbe.tokens` is padding."""
    scored: BoolArray
    """`[n_windows, n_ctx]`: positions whose prediction is a row."""
    categories: tuple[str, ...]
    """What each window is counted under; empty: none. No part of the digest."""
    score: str
    """Whose tokens are scored, one of `quantprobe.probes.scores.SCORES`. No part of the digest."""
    cut: Cut
    """No part of the digest."""


@dataclass(frozen=True)
class TextProbe:
    """Windows of one text, or of many.

    Rows are the scored positions, window by window: the prediction made at a position for the token behind it. In a
    text that is cut into equal windows, row r of window w is that of position `first + r`.
    """

    name: str
    tokens: Int32Array
    """`[n_windows, n_ctx]` int32: the text's own tokens, before the BOS replacement."""
    bos: int | None
    """Token that replaces the first of every window when it is decoded; None: no replacement."""
    own: Windows | None = None
    """None: all windows are `n_ctx` long, and each is scored from one position on."""
    score_from: int | None = None
    """The first scored position of equal windows; None: the middle, as llama-perplexity has it."""

    @property
    def n_windows(self) -> int:
        return int(self.tokens.shape[0])

    @property
    def n_ctx(self) -> int:
        """Tokens of the longest window."""
        return int(self.tokens.shape[1])

    @property
    def n_tokens(self) -> int:
        """Tokens of all windows."""
        return int(self.lengths().sum())

    @property
    def first(self) -> int:
        """First scored position of a window, where all are equal."""
        return self.n_ctx // 2 if self.score_from is None else self.score_from

    @property
    def rows_per_window(self) -> int:
        """Rows of a window, where all are equal."""
        return self.n_ctx - 1 - self.first

    @property
    def n_rows(self) -> int:
        return int(self.row_counts().sum())

    def lengths(self) -> Int32Array:
        """Tokens of each window, `[n_windows]` int32."""
        return self.own.lengths if self.own is not None else np.full(self.n_windows, self.n_ctx, np.int32)

    def row_counts(self) -> Int64Array:
        """Rows of each window, `[n_windows]` int64."""
        if self.own is None:
            return np.full(self.n_windows, self.rows_per_window, np.int64)
        counts: Int64Array = np.count_nonzero(self.own.scored, axis=1)
        return counts

    def categories(self) -> tuple[str, ...]:
        """The category of each window; empty where none has one."""
        return self.own.categories if self.own is not None and any(self.own.categories) else ()

    def targets(self) -> Int32Array:
        """The token that each row should predict, `[n_rows]` int32."""
        if self.own is None:
            return np.ascontiguousarray(self.tokens[:, self.first + 1 :]).reshape(-1)
        return self.tokens[:, 1:][self.own.scored[:, :-1]]

    def windows(self) -> Int32Array:
        """The window of each row, `[n_rows]` int32: the clusters of the uncertainty."""
        return np.repeat(np.arange(self.n_windows, dtype=np.int32), self.row_counts())

    def decoded(self) -> Int32Array:
        """What the model sees, `[n_windows, n_ctx]` int32: BOS put in place."""
        tokens = self.tokens.copy()
        if self.bos is not None:
            tokens[:, 0] = self.bos
        return tokens

    def subset(self, windows: Int64Array) -> tuple[TextProbe, Int64Array]:
        """The probe of these windows alone, and for each of its rows the row of this probe, `[n_rows]`."""
        counts = self.row_counts()
        ends = np.cumsum(counts)
        rows = [np.arange(ends[window] - counts[window], ends[window], dtype=np.int64) for window in windows]
        own = None if self.own is None else _chosen(self.own, windows)
        part = replace(self, tokens=np.ascontiguousarray(self.tokens[windows]), own=own)
        return part, np.concatenate(rows) if rows else np.empty(0, np.int64)

    def sha256(self) -> str:
        """Digest of everything that the rows depend on."""
        digest = hashlib.sha256()
        digest.update(f"text {self.n_windows} {self.n_ctx} {self.bos}\n".encode())
        digest.update(np.ascontiguousarray(self.tokens, dtype="<i4").tobytes())
        if self.own is not None:
            digest.update(np.ascontiguousarray(self.own.lengths, dtype="<i4").tobytes())
            digest.update(np.packbits(self.own.scored).tobytes())
        if self.score_from is not None:
            digest.update(f"score_from {self.score_from}\n".encode())
        return digest.hexdigest()


def _chosen(own: Windows, windows: Int64Array) -> Windows:
    categories = tuple(own.categories[window] for window in windows)
    return replace(own, lengths=own.lengths[windows], scored=own.scored[windows], categories=categories)


def ragged_probe(
    name: str,
    windows: Sequence[Int32Array],
    scored: Sequence[BoolArray],
    categories: Sequence[str],
    score: str,
    cut: Cut | None = None,
) -> TextProbe:
    """Windows of their own lengths; `scored` says of each position whether its prediction is a row.

    Raises `InputError` for a window of one token or without a row, and where they are too many to lie in memory padded.
    """
    lengths = np.array([len(window) for window in windows], np.int32)
    if len(lengths) == 0 or lengths.min() < 2 or not all(mask[:-1].any() and not mask[-1] for mask in scored):
        raise InputError(f"{name!r} has a window without a scored token")
    shape = len(lengths), int(lengths.max())
    if shape[0] * shape[1] > MAX_CELLS:
        raise InputError(
            f"the chats {name!r} are {shape[0]:,} conversations of up to {shape[1]:,} tokens, more than fit into "
            "memory; give fewer with --chunks, or split the file"
        )
    tokens, rows = np.zeros(shape, np.int32), np.zeros(shape, np.bool_)
    for i, length in enumerate(lengths):
        tokens[i, :length], rows[i, :length] = windows[i], scored[i]
    return TextProbe(name, tokens, None, Windows(lengths, rows, tuple(categories), score, cut or Cut()))


def read_text(path: Path) -> str:
    """The text of a file as llama-perplexity's `-f` reads it: one final newline is removed.

    Raises `InputError` if the file cannot be read, is empty, or is not UTF-8.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the text {path}: {error.strerror or error}") from error
    if data.endswith(b"\n"):
        data = data[:-1]
    if not data.strip():
        raise InputError(f"the text {path} is empty; give a file with at least two windows of text")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"the text {path} is not UTF-8 (byte {error.start} is 0x{data[error.start]:02x}); convert it first"
        ) from error


def text_probe(
    name: str,
    tokens: Int32Array,
    n_ctx: int,
    n_chunks: int | None,
    bos: int | None,
    score_from: int | None = None,
) -> TextProbe:
    """Cut a tokenized text into windows of `n_ctx`; the tail is dropped.

    `tokens` is `[n_tokens]` int32, with the BOS that the tokenizer added, if any. At most `n_chunks`
    windows are taken (None: all). Like llama-perplexity, at least two windows of text are asked for, and predictions
    are scored from the middle of each on, unless `score_from` names another position, counted from 0.
    """
    score_from = check_score_from(score_from, n_ctx)
    if n_ctx < 4:
        raise InputError(f"--ctx-size {n_ctx} leaves nothing to score; use 4 or more (llama.cpp's default is 512)")
    if n_chunks is not None and n_chunks < 1:
        raise InputError(f"--chunks {n_chunks}: at least one window must be measured")
    if len(tokens) < 2 * n_ctx:
        raise InputError(
            f"the text {name!r} has {len(tokens)} tokens and two windows need {2 * n_ctx}; "
            f"give a longer text or a --ctx-size of at most {len(tokens) // 2}"
        )
    n_windows = len(tokens) // n_ctx
    if n_chunks is not None:
        n_windows = min(n_windows, n_chunks)
    windows = np.ascontiguousarray(tokens[: n_windows * n_ctx], dtype=np.int32).reshape(n_windows, n_ctx)
    return TextProbe(name=name, tokens=windows, bos=bos, score_from=score_from)


def check_score_from(score_from: int | None, n_ctx: int) -> int | None:
    """The first scored position, None where that is the middle; raises `InputError` if no prediction is left."""
    if score_from is not None and not 0 <= score_from <= n_ctx - 2:
        raise InputError(
            f"--score-from {score_from}: the last prediction that can be scored in a window of {n_ctx} tokens is at "
            f"position {n_ctx - 2}"
        )
    return None if score_from == n_ctx // 2 else score_from
