"""Answers of one model to one task, and the direction in which a quant moved them against its base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from quantprobe.arrays import BoolArray, FloatArray, Int32Array
from quantprobe.errors import InputError, MismatchError

UNKNOWN = -1
"""A gold or a prediction that nobody told (imported answers) or that does not exist (invalid items)."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What one model answered to each item of one task, under one scoring rule.

    All arrays are `[n_items]`, `logprobs` is `[n_items, max_choices]`. An item is invalid where the
    log-probability of any choice is not finite, or where an imported file gives no correctness: it keeps
    its place, with `pred` -1, `correct` False and NaN in the float fields, and is left out of every count.
    """

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    """Subject or source of each item; empty: the item is its own cluster."""
    gold: Int32Array
    """Index of the right choice; -1 where unknown."""
    pred: Int32Array
    """Index of the chosen choice (the first of equals); -1 where unknown."""
    correct: BoolArray
    valid: BoolArray
    margin: FloatArray
    """log P(gold) - log P(best wrong choice) in nats; NaN where there are no log-probabilities."""
    gold_prob: FloatArray
    """Probability of the gold choice among the choices (0 to 1); NaN as above."""
    logprobs: FloatArray
    """float64, NaN behind the last choice and where not finite; `[n_items, 0]` for imported answers without them."""
    n_choices: Int32Array
    """Choices of each item; 0 where there are no log-probabilities."""
    n_rows: Int32Array
    """Rows of logits behind each item; 0 for imported answers."""
    kld: FloatArray | None = None
    """Mean KLD (nats) of the item's rows against the base; None for the base itself and for imported answers."""

    @property
    def n_items(self) -> int:
        return len(self.ids)

    @property
    def tied(self) -> BoolArray:
        """Items whose best log-probability is shared by two or more choices: the first of them is the prediction."""
        if self.logprobs.shape[1] == 0:
            return np.zeros(self.n_items, dtype=np.bool_)
        filled = np.where(np.isnan(self.logprobs), -np.inf, self.logprobs)
        best = filled.max(axis=1, keepdims=True)
        tied: BoolArray = ((filled == best).sum(axis=1) > 1) & self.valid & (self.n_choices > 0)
        return tied


def answers_from_logprobs(
    ids: Sequence[str],
    groups: Sequence[str],
    gold: Int32Array,
    logprobs: FloatArray,
    n_choices: Int32Array,
    n_rows: Int32Array,
    kld: FloatArray | None = None,
) -> Answers:
    """Answers under the rule that made `logprobs`: `[n_items, max_choices]` float64 in nats, NaN padded.

    pred = the first choice with the largest log-probability; margin = log P(gold) - max over the wrong choices
    (0 for a tie, whichever choice came first); gold_prob = softmax over the item's choices. The log-probabilities
    need not be normalised. `n_choices` tells padding from a choice whose log-probability is NaN.

    Raises `InputError` for a duplicate id, fewer than two choices, or a gold outside the choices.
    """
    values = np.array(logprobs, dtype=np.float64)
    choices = np.asarray(n_choices, dtype=np.int32)
    gold = np.asarray(gold, dtype=np.int32)
    _check_items(ids, gold, choices, values)
    inside = np.arange(values.shape[1]) < choices[:, None]
    values[~inside | ~np.isfinite(values)] = np.nan
    valid = np.asarray((np.isfinite(values) | ~inside).all(axis=1), dtype=np.bool_)
    margin, gold_prob = _margin_and_probability(values, gold, valid)
    pred = np.full(len(ids), UNKNOWN, dtype=np.int32)
    if valid.any():
        pred[valid] = np.where(np.isnan(values[valid]), -np.inf, values[valid]).argmax(axis=1)
    return Answers(
        ids=tuple(ids),
        groups=tuple(groups),
        gold=gold,
        pred=pred,
        correct=valid & (pred == gold),
        valid=valid,
        margin=margin,
        gold_prob=gold_prob,
        logprobs=values,
        n_choices=choices,
        n_rows=np.asarray(n_rows, dtype=np.int32),
        kld=None if kld is None else np.asarray(kld, dtype=np.float64),
    )


def _check_items(ids: Sequence[str], gold: Int32Array, n_choices: Int32Array, logprobs: FloatArray) -> None:
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise InputError(f"the id {name!r} is there twice; ids must be unique within a task")
        seen.add(name)
    for i in np.flatnonzero((n_choices < 2) | (n_choices > logprobs.shape[1])).tolist():
        raise InputError(f"item {ids[i]!r} has {n_choices[i]} choices; 2 to {logprobs.shape[1]} were expected")
    for i in np.flatnonzero((gold < 0) | (gold >= n_choices)).tolist():
        raise InputError(f"item {ids[i]!r}: the right choice is {gold[i]}, but its choices are 0 to {n_choices[i] - 1}")


def _margin_and_probability(logprobs: FloatArray, gold: Int32Array, valid: BoolArray) -> tuple[FloatArray, FloatArray]:
    items = np.arange(len(gold))
    filled = np.where(np.isnan(logprobs), -np.inf, logprobs)
    right = filled[items, gold]
    wrong = filled.copy()
    wrong[items, gold] = -np.inf
    margin = np.full(len(gold), np.nan)
    gold_prob = np.full(len(gold), np.nan)
    if valid.any():
        margin[valid] = right[valid] - wrong[valid].max(axis=1)
        # Relative to the gold choice: no overflow matters, since exp(+large) -> inf gives probability 0.
        with np.errstate(over="ignore"):
            gold_prob[valid] = 1.0 / np.exp(filled[valid] - right[valid][:, None]).sum(axis=1)
    return margin, gold_prob


def pool_answers(tasks: Mapping[str, Answers]) -> Answers:
    """The items of several tasks as one: ids and groups become `TASK/id` and `TASK/group`.

    An item without a group stays its own cluster. Log-probabilities are padded to the widest task.
    """
    if not tasks:
        raise InputError("there are no tasks to pool")
    parts = list(tasks.values())
    width = max(part.logprobs.shape[1] for part in parts)
    padded = [np.pad(p.logprobs, ((0, 0), (0, width - p.logprobs.shape[1])), constant_values=np.nan) for p in parts]
    known = any(part.kld is not None for part in parts)
    klds = [np.full(part.n_items, np.nan) if part.kld is None else part.kld for part in parts]
    return Answers(
        ids=tuple(f"{task}/{name}" for task, part in tasks.items() for name in part.ids),
        groups=tuple(group and f"{task}/{group}" for task, part in tasks.items() for group in part.groups),
        gold=np.concatenate([part.gold for part in parts]),
        pred=np.concatenate([part.pred for part in parts]),
        correct=np.concatenate([part.correct for part in parts]),
        valid=np.concatenate([part.valid for part in parts]),
        margin=np.concatenate([part.margin for part in parts]),
        gold_prob=np.concatenate([part.gold_prob for part in parts]),
        logprobs=np.concatenate(padded),
        n_choices=np.concatenate([part.n_choices for part in parts]),
        n_rows=np.concatenate([part.n_rows for part in parts]),
        kld=np.concatenate(klds) if known else None,
    )


def check_same_items(base: Answers, quant: Answers) -> None:
    """Raises `MismatchError` unless both answered the same items, in the same order, with the same gold and choices."""
    if base.ids != quant.ids:
        missing = sorted(set(base.ids) - set(quant.ids))
        extra = sorted(set(quant.ids) - set(base.ids))
        if not missing and not extra:
            raise MismatchError("base and quant answered the same items in different orders; sort both by id")
        first = (missing or extra)[0]
        raise MismatchError(
            f"base and quant answered different items: {len(missing)} of the base's {base.n_items} are missing from "
            f"the quant and {len(extra)} are the quant's alone (first: {first!r}); compare answers to the same ones"
        )
    both = (base.gold != UNKNOWN) & (quant.gold != UNKNOWN) & (base.gold != quant.gold)
    for i in np.flatnonzero(both):
        raise MismatchError(
            f"item {base.ids[i]!r}: the right choice is {base.gold[i]} for the base and {quant.gold[i]} for the quant "
            f"({int(both.sum())} items differ); the two runs asked different questions"
        )
    for i in np.flatnonzero(base.n_choices != quant.n_choices):
        raise MismatchError(
            f"item {base.ids[i]!r} has log-probabilities of {base.n_choices[i]} choices for the base and "
            f"{quant.n_choices[i]} for the quant; the two runs asked different questions"
        )
