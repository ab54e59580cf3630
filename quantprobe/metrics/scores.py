"""Scores of choices under every rule (`quantprobe.probes.rules`), from the log-probabilities of single tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from quantprobe.arrays import BoolArray, Float32Array, FloatArray, Int32Array, Int64Array
from quantprobe.errors import MismatchError
from quantprobe.probes.items import ChoiceItem, TaskProbe
from quantprobe.probes.rules import RULES, Rule, find_rule


@dataclass(frozen=True, eq=False)
class PairLayout:
    """The (row, token) pairs of a task whose log-probabilities all rules are made of, sorted by row.

    Arrays are `[n_pairs]`.
    """

    rows: Int64Array
    """Row of the task that predicts the token."""
    tokens: Int32Array
    targets: Int64Array
    """Index of the token in the sequence of its choice."""
    cells: Int64Array
    """Item number x `max_choices` + choice."""
    slipped: BoolArray
    """Read from the wrong row on purpose, in place of the pair with the same cell and target; for rules with `slip`."""
    items: tuple[ChoiceItem, ...]

    @property
    def n_pairs(self) -> int:
        return len(self.rows)

    @property
    def max_choices(self) -> int:
        return max(item.n_choices for item in self.items)

    @property
    def n_choices(self) -> Int32Array:
        """`[n_items]`"""
        return np.array([item.n_choices for item in self.items], dtype=np.int32)

    def pairs_of_rows(self, first: int, end: int) -> slice:
        """The pairs that need the rows `first` to `end - 1`."""
        low, high = np.searchsorted(self.rows, [first, end])
        return slice(int(low), int(high))


def pair_layout(probe: TaskProbe) -> PairLayout:
    """Everything that the rules need from the rows of a task."""
    max_choices = max(item.n_choices for item in probe.items)
    slip = RULES[probe.rule].slip
    cells: list[Int64Array] = []
    parts: list[_Pairs] = []
    for number, (item, offset) in enumerate(zip(probe.items, probe.offsets(), strict=False)):
        for choice in range(item.n_choices):
            pairs = _choice_pairs(item, choice)
            if slip and choice == 1 and len(item.branches) > 2:
                pairs = _with_slip(item, pairs, RULES[probe.rule])
            parts.append(pairs._replace(rows=pairs.rows + offset))
            cells.append(np.full(len(pairs.rows), number * max_choices + choice, dtype=np.int64))
    joined = _Pairs(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    order = np.argsort(joined.rows, kind="stable")
    return PairLayout(
        rows=joined.rows[order],
        tokens=joined.tokens[order],
        targets=joined.targets[order],
        cells=np.concatenate(cells)[order],
        slipped=joined.slipped[order],
        items=probe.items,
    )


def score_choices(logprobs: FloatArray, layout: PairLayout, rule: str) -> FloatArray:
    """The score of every choice under a rule, `[n_items, max_choices]` float64.

    `logprobs` is `[n_pairs]` float64 in the order of the layout. Nats, or nats per token, byte or
    character. NaN: behind the last choice, for a choice without a token to score, and where a token's
    log-probability is NaN; -inf where a token has probability 0. Raises `InputError` for an unknown rule.
    """
    if len(logprobs) != layout.n_pairs:
        raise MismatchError(f"{len(logprobs)} log-probabilities for {layout.n_pairs} pairs of row and token")
    how = find_rule(rule)
    scored = _scored_pairs(layout, how)
    shape = (len(layout.items), layout.max_choices)
    counts = np.bincount(layout.cells[scored], minlength=shape[0] * shape[1]).reshape(shape)
    totals = np.bincount(layout.cells[scored], logprobs[scored], minlength=shape[0] * shape[1]).reshape(shape)
    divisors = np.full(shape, np.nan)
    for number, choice in zip(*np.nonzero(counts), strict=True):
        divisors[number, choice] = how.divisor.of(layout.items[number], int(choice), float(counts[number, choice]))
    scores: FloatArray = totals / divisors
    return scores


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
    from quantprobe.metrics.kernels import log_normalisers

    used = np.unique(row_of_pair)
    normalisers = np.full(n_rows, np.nan)
    log_normalisers(np.ascontiguousarray(rows), used, normalisers)
    with np.errstate(invalid="ignore"):
        logprobs: FloatArray = rows[row_of_pair, token_of_pair].astype(np.float64) - normalisers[row_of_pair]
    return logprobs


def scored_positions(item: ChoiceItem, choice: int, rule: str) -> Int64Array:
    """Indices, in the sequence of a choice, of the tokens that a rule scores: what `score_choices` sums over."""
    low, high = find_rule(rule).tokens.span(item, choice)
    targets = _targets(item, choice)
    return targets[(targets >= low) & (targets < high)]


def _targets(item: ChoiceItem, choice: int) -> Int64Array:
    """Indices of the tokens of a choice that some rule scores: behind the prefix or the prompt, the first never."""
    first = max(1, min(len(item.prefix), item.starts[choice]))
    return np.arange(first, len(item.prefix) + len(item.branches[choice]), dtype=np.int64)


def _scored_pairs(layout: PairLayout, rule: Rule) -> BoolArray:
    """`[n_pairs]`, the pairs that a rule sums over."""
    spans = np.zeros((len(layout.items), layout.max_choices, 2), dtype=np.int64)
    for number, item in enumerate(layout.items):
        for choice in range(item.n_choices):
            spans[number, choice] = rule.tokens.span(item, choice)
    low, high = spans.reshape(-1, 2)[layout.cells].T
    scored: BoolArray = (layout.targets >= low) & (layout.targets < high)
    if not rule.slip:
        return scored & ~layout.slipped
    places = layout.cells * (int(layout.targets.max(initial=0)) + 1) + layout.targets
    return scored & (layout.slipped | ~np.isin(places, places[layout.slipped]))


class _Pairs(NamedTuple):
    """The pairs of one choice; rows are numbered within the item."""

    rows: Int64Array
    tokens: Int32Array
    targets: Int64Array
    slipped: BoolArray


def _choice_pairs(item: ChoiceItem, choice: int) -> _Pairs:
    """Every token of a choice that some rule scores."""
    targets = _targets(item, choice)
    return _Pairs(
        rows=item.rows_of_targets(choice, targets),
        tokens=item.sequence(choice)[targets].astype(np.int32),
        targets=targets,
        slipped=np.zeros(len(targets), dtype=np.bool_),
    )


def _with_slip(item: ChoiceItem, pairs: _Pairs, rule: Rule) -> _Pairs:
    """Choice 2 of a Winogrande item, and its first term from the wrong row, as in the original."""
    slip = np.array([len(item.prefix) + len(item.branches[2]) - 1], dtype=np.int64)
    return _Pairs(
        rows=np.append(pairs.rows, item.rows_of_targets(2, slip)),
        tokens=np.append(pairs.tokens, item.branches[2][-1:]),
        targets=np.append(pairs.targets, rule.tokens.span(item, 1)[0]),
        slipped=np.append(pairs.slipped, True),
    )
