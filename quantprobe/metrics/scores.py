"""Scores of choices under every rule, from the log-probabilities of single tokens.

The rules, over the tokens of one choice (all from the same rows):

| rule | tokens | divided by | the same as |
|---|---|---|---|
| `tokens` | behind the prefix that all choices share | their number | llama-perplexity's, but Winogrande |
| `sum` | behind the prompt | 1 | lm-evaluation-harness acc |
| `bytes` | behind the prompt | UTF-8 bytes of the choice | its acc_bytes |
| `chars` | behind the prompt | characters of the choice | its acc_norm (`bytes` and `chars` agree for ASCII) |
| `letter` | behind the shared prefix | 1 | its acc for MMLU, up to a constant per question |
| `llama_winogrande` | `quantprobe.probes.questions.winogrande` | their number | llama-perplexity, slip put right |
| `llama_winogrande_compat` | the same | their number | the same with the slip |

A choice without a token to score has no score (NaN): its item is invalid under that rule. Ties go to the first
choice (llama-perplexity's Winogrande: to the second).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from quantprobe.arrays import BoolArray, Float32Array, FloatArray, Int32Array, Int64Array
from quantprobe.errors import InputError, MismatchError
from quantprobe.metrics.kernels import log_normalisers
from quantprobe.probes.items import RULES, WINOGRANDE_RULES, ChoiceItem, TaskProbe
from quantprobe.probes.questions.winogrande import winogrande_spans


@dataclass(frozen=True, eq=False)
class PairLayout:
    """The (row, token) pairs of a task whose log-probabilities all rules are made of, sorted by row.

    Arrays are `[n_pairs]` unless said otherwise.
    """

    rows: Int64Array
    """Row of the task that predicts the token."""
    tokens: Int32Array
    cells: Int64Array
    """Item number x `max_choices` + choice."""
    behind_prefix: BoolArray
    """Scored by `tokens` and `letter`."""
    behind_prompt: BoolArray
    """Scored by `sum`, `bytes` and `chars`."""
    in_winogrande: BoolArray
    """Scored by the Winogrande rule of the task; all False under other rules."""
    max_choices: int
    n_choices: Int32Array
    """`[n_items]`"""
    n_bytes: FloatArray
    """`[n_items, max_choices]` float64, NaN behind the last choice."""
    n_chars: FloatArray
    """`[n_items, max_choices]` float64, NaN behind the last choice."""

    @property
    def n_pairs(self) -> int:
        return len(self.rows)

    def pairs_of_rows(self, first: int, end: int) -> slice:
        """The pairs that need the rows `first` to `end - 1`."""
        low, high = np.searchsorted(self.rows, [first, end])
        return slice(int(low), int(high))


def pair_layout(probe: TaskProbe) -> PairLayout:
    """Everything that the rules need from the rows of a task."""
    max_choices = max(item.n_choices for item in probe.items)
    compat = probe.rule == "llama_winogrande_compat"
    winogrande = probe.rule.startswith("llama_winogrande")
    cells: list[Int64Array] = []
    parts: list[_Pairs] = []
    for number, (item, offset) in enumerate(zip(probe.items, probe.offsets(), strict=False)):
        spans = winogrande_spans(item).spans if winogrande else ((0, 0),) * item.n_choices
        for choice in range(item.n_choices):
            pairs = _choice_pairs(item, choice, spans[choice])
            if compat and choice == 1 and len(item.branches) > 2:
                pairs = _with_slip(item, pairs)
            parts.append(pairs._replace(rows=pairs.rows + offset))
            cells.append(np.full(len(pairs.rows), number * max_choices + choice, dtype=np.int64))
    joined = _Pairs(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    order = np.argsort(joined.rows, kind="stable")
    return PairLayout(
        rows=joined.rows[order],
        tokens=joined.tokens[order],
        cells=np.concatenate(cells)[order],
        behind_prefix=joined.behind_prefix[order],
        behind_prompt=joined.behind_prompt[order],
        in_winogrande=joined.in_winogrande[order],
        max_choices=max_choices,
        n_choices=np.array([item.n_choices for item in probe.items], dtype=np.int32),
        n_bytes=_padded([item.n_bytes for item in probe.items], max_choices),
        n_chars=_padded([item.n_chars for item in probe.items], max_choices),
    )


def score_choices(logprobs: FloatArray, layout: PairLayout, rule: str) -> FloatArray:
    """The score of every choice under a rule, `[n_items, max_choices]` float64.

    `logprobs` is `[n_pairs]` float64 in the order of the layout. Nats, or nats per token, byte or
    character. NaN: behind the last choice, for a choice without a token to score, and where a token's
    log-probability is NaN; -inf where a token has probability 0.
    """
    if len(logprobs) != layout.n_pairs:
        raise MismatchError(f"{len(logprobs)} log-probabilities for {layout.n_pairs} pairs of row and token")
    if rule.startswith("llama_winogrande"):
        totals, counts = _sum_cells(logprobs, layout, layout.in_winogrande)
        return totals / counts
    if rule == "letter":
        return _sum_cells(logprobs, layout, layout.behind_prefix)[0]
    if rule == "tokens":
        totals, counts = _sum_cells(logprobs, layout, layout.behind_prefix)
        return totals / counts
    if rule not in ("sum", "bytes", "chars"):
        raise InputError(f"unknown scoring rule {rule!r}; known are {', '.join((*RULES, *WINOGRANDE_RULES))}")
    totals = _sum_cells(logprobs, layout, layout.behind_prompt)[0]
    if rule == "sum":
        return totals
    return totals / (layout.n_bytes if rule == "bytes" else layout.n_chars)


def logprob_pairs(rows: Float32Array, row_of_pair: Int64Array, token_of_pair: Int32Array) -> FloatArray:
    """Log-probability of a token under a row of logits, for each pair: `[n_pairs]` float64, nats.

    log p = logit - max - ln(sum(exp(logit - max))) with float64 sums, `rows` being
    `[n_rows, n_vocab]` float32. A logit of -inf is probability 0; a row with NaN or +inf, or all -inf,
    gives NaN. The same bits for any number of threads. Raises `MismatchError` for a row or token out of range.
    """
    n_rows, n_vocab = rows.shape
    if len(row_of_pair) and not (row_of_pair.min() >= 0 and row_of_pair.max() < n_rows):
        raise MismatchError(f"pairs ask for rows {row_of_pair.min()} to {row_of_pair.max()} of a block of {n_rows}")
    if len(token_of_pair) and not (token_of_pair.min() >= 0 and token_of_pair.max() < n_vocab):
        raise MismatchError(f"pairs ask for tokens up to {token_of_pair.max()} of a vocabulary of {n_vocab}")
    used = np.unique(row_of_pair)
    normalisers = np.full(n_rows, np.nan)
    log_normalisers(np.ascontiguousarray(rows), used, normalisers)
    with np.errstate(invalid="ignore"):
        logprobs: FloatArray = rows[row_of_pair, token_of_pair].astype(np.float64) - normalisers[row_of_pair]
    return logprobs


def scored_positions(item: ChoiceItem, choice: int, rule: str) -> Int64Array:
    """Indices, in the sequence of a choice, of the tokens that a rule scores: what `score_choices` sums over."""
    spans = winogrande_spans(item).spans[choice] if rule.startswith("llama_winogrande") else (0, 0)
    pairs = _choice_pairs(item, choice, spans)
    flags = pairs.behind_prompt if rule in ("sum", "bytes", "chars") else pairs.behind_prefix
    if rule.startswith("llama_winogrande"):
        flags = pairs.in_winogrande
    return np.flatnonzero(flags) + len(item.sequence(choice)) - len(flags)


class _Pairs(NamedTuple):
    """The pairs of one choice; rows are numbered within the item."""

    rows: Int64Array
    tokens: Int32Array
    behind_prefix: BoolArray
    behind_prompt: BoolArray
    in_winogrande: BoolArray


def _choice_pairs(item: ChoiceItem, choice: int, span: tuple[int, int]) -> _Pairs:
    """Every token of a choice that some rule scores."""
    n_prefix, sequence = len(item.prefix), item.sequence(choice)
    first = max(1, min(n_prefix, item.starts[choice]))
    targets = np.arange(first, len(sequence), dtype=np.int64)
    return _Pairs(
        rows=item.rows_of_targets(choice, targets),
        tokens=sequence[first:].astype(np.int32),
        behind_prefix=targets >= n_prefix,
        behind_prompt=targets >= item.starts[choice],
        in_winogrande=(targets >= span[0]) & (targets < span[1]),
    )


def _with_slip(item: ChoiceItem, pairs: _Pairs) -> _Pairs:
    """Choice 2 of a Winogrande item with its first term from the wrong row, as in the original."""
    scored = pairs.in_winogrande.copy()
    scored[np.flatnonzero(scored)[0]] = False
    slip = np.array([len(item.prefix) + len(item.branches[2]) - 1], dtype=np.int64)
    return _Pairs(
        rows=np.append(pairs.rows, item.rows_of_targets(2, slip)),
        tokens=np.append(pairs.tokens, item.branches[2][-1:]),
        behind_prefix=np.append(pairs.behind_prefix, False),
        behind_prompt=np.append(pairs.behind_prompt, False),
        in_winogrande=np.append(scored, True),
    )


def _sum_cells(logprobs: FloatArray, layout: PairLayout, scored: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Sum and number of the scored tokens of each choice, `[n_items, max_choices]`; both NaN where there are none."""
    shape = (len(layout.n_choices), layout.max_choices)
    cells = layout.cells[scored]
    counts = np.bincount(cells, minlength=shape[0] * shape[1]).astype(np.float64)
    totals: FloatArray = np.bincount(cells, logprobs[scored], minlength=shape[0] * shape[1]).astype(np.float64)
    totals[counts == 0] = np.nan
    counts[counts == 0] = np.nan
    return totals.reshape(shape), counts.reshape(shape)


def _padded(values: list[tuple[int, ...]], width: int) -> FloatArray:
    padded = np.full((len(values), width), np.nan)
    for row, numbers in zip(padded, values, strict=True):
        row[: len(numbers)] = numbers
    return padded
