"""Answer direction: which way the answers moved between a base and its quant, item by item."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quantprobe.arrays import BoolArray, FloatArray
from quantprobe.metrics.answers import UNKNOWN, Answers, check_same_items

DROP = "drop"
LEAPFROG = "leapfrog"
OTHER_WRONG = "wrong to other wrong"


@dataclass(frozen=True)
class Direction:
    """Counts and shifts over the items that are valid in both base and quant.

    volume = (drops + leapfrogs) / n, net = (leapfrogs - drops) / n, index = (leapfrogs - drops) / (leapfrogs + drops),
    so net = volume * index and net = acc - acc_base. Shifts are quant minus base: signed mean, mean of the
    absolute values, and their ratio in [-1, 1] (the continuous sibling of the index), over the `n_shift` items
    that have log-probabilities in both. None where the number does not exist (no items, nothing changed).
    """

    group: str
    """The group it is about; empty: the whole task."""
    n: int
    n_invalid: int
    drops: int
    leapfrogs: int
    wrong_to_other_wrong: int
    acc: float | None
    acc_base: float | None
    volume: float | None
    net: float | None
    index: float | None
    n_shift: int
    margin_shift: float | None
    """nats"""
    margin_shift_abs: float | None
    margin_shift_ratio: float | None
    gold_prob_shift: float | None
    """probability, -1 to 1"""
    gold_prob_shift_abs: float | None
    gold_prob_shift_ratio: float | None


@dataclass(frozen=True)
class ChangedItem:
    """One item whose answer changed."""

    id: str
    group: str
    kind: str
    """`drop`, `leapfrog` or `wrong to other wrong`."""
    gold: int
    base_pred: int
    quant_pred: int
    margin_shift: float | None
    """nats; None where there are no log-probabilities."""
    kld: float | None
    """nats, mean over the item's rows; None where unknown."""


def measure_direction(base: Answers, quant: Answers) -> Direction:
    """Direction over all items. Raises `MismatchError` unless both answered the same items."""
    check_same_items(base, quant)
    return _measure(base, quant, np.ones(base.n_items, dtype=np.bool_), group="")


def measure_groups(base: Answers, quant: Answers) -> tuple[Direction, ...]:
    """Direction of each named group, in order of first appearance; items without a group are in none."""
    check_same_items(base, quant)
    groups = np.array(base.groups, dtype=object)
    return tuple(_measure(base, quant, groups == name, name) for name in dict.fromkeys(base.groups) if name)


def list_changes(base: Answers, quant: Answers) -> tuple[ChangedItem, ...]:
    """The items whose answer changed, largest absolute margin shift first; those without a margin last, by id."""
    check_same_items(base, quant)
    drop, leapfrog, other = _changes(base, quant)
    shift = quant.margin - base.margin
    changed = [
        ChangedItem(
            id=base.ids[i],
            group=base.groups[i],
            kind=DROP if drop[i] else LEAPFROG if leapfrog[i] else OTHER_WRONG,
            gold=int(base.gold[i]),
            base_pred=int(base.pred[i]),
            quant_pred=int(quant.pred[i]),
            margin_shift=_finite(shift[i]),
            kld=None if quant.kld is None else _finite(quant.kld[i]),
        )
        for i in np.flatnonzero(drop | leapfrog | other)
    ]
    return tuple(sorted(changed, key=lambda item: (-abs(item.margin_shift or 0.0), item.id)))


def _changes(base: Answers, quant: Answers) -> tuple[BoolArray, BoolArray, BoolArray]:
    valid = base.valid & quant.valid
    drop: BoolArray = valid & base.correct & ~quant.correct
    leapfrog: BoolArray = valid & ~base.correct & quant.correct
    told = (base.pred != UNKNOWN) & (quant.pred != UNKNOWN)
    other: BoolArray = valid & ~base.correct & ~quant.correct & told & (base.pred != quant.pred)
    return drop, leapfrog, other


def _measure(base: Answers, quant: Answers, chosen: BoolArray, group: str) -> Direction:
    valid = chosen & base.valid & quant.valid
    n = int(valid.sum())
    drops, leapfrogs, others = (int((flags & chosen).sum()) for flags in _changes(base, quant))
    margin = _shift_numbers((quant.margin - base.margin)[valid])
    gold_prob = _shift_numbers((quant.gold_prob - base.gold_prob)[valid])
    return Direction(
        group=group,
        n=n,
        n_invalid=int(chosen.sum()) - n,
        drops=drops,
        leapfrogs=leapfrogs,
        wrong_to_other_wrong=others,
        acc=_divide(int(quant.correct[valid].sum()), n),
        acc_base=_divide(int(base.correct[valid].sum()), n),
        volume=_divide(drops + leapfrogs, n),
        net=_divide(leapfrogs - drops, n),
        index=_divide(leapfrogs - drops, leapfrogs + drops),
        n_shift=margin.n,
        margin_shift=margin.mean,
        margin_shift_abs=margin.mean_abs,
        margin_shift_ratio=margin.ratio,
        gold_prob_shift=gold_prob.mean,
        gold_prob_shift_abs=gold_prob.mean_abs,
        gold_prob_shift_ratio=gold_prob.ratio,
    )


@dataclass(frozen=True)
class _Shift:
    n: int
    mean: float | None
    mean_abs: float | None
    ratio: float | None


def _shift_numbers(shifts: FloatArray) -> _Shift:
    known = shifts[np.isfinite(shifts)]
    signed, absolute = float(known.sum()), float(np.abs(known).sum())
    return _Shift(
        n=len(known),
        mean=_divide(signed, len(known)),
        mean_abs=_divide(absolute, len(known)),
        ratio=_divide(signed, absolute),
    )


def _divide(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
