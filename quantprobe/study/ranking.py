"""A ranking that means something: who can be told from whom, who is worth the bytes, and which one to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quantprobe.arrays import BoolArray, FloatArray, Int64Array
from quantprobe.stats.correlation import Resampling, draw_weights
from quantprobe.stats.estimates import Estimate
from quantprobe.stats.paired import (
    EQUIVALENT,
    NOT_SEPARABLE,
    PairedChange,
    compare_paired,
    decide_verdict,
    holm,
)
from quantprobe.stats.power import items_for_equivalence
from quantprobe.study.groups import compact_letters, separable_pairs
from quantprobe.study.panel import Panel, TaskAnswers
from quantprobe.study.zone import cluster_sums

BASE = "base"


@dataclass(frozen=True)
class RankedQuant:
    """One quant over the items of all tasks; `letters`: quants that share one cannot be told apart."""

    name: str
    size_bytes: float | None
    acc: float
    net: Estimate
    volume: Estimate
    p: float
    """Of the change against the base (`paired.compare_paired`); `holm_p` over the quants of the cohort."""
    holm_p: float
    verdict: str
    n_effective: float
    letters: str
    on_frontier: float | None
    """Share of bootstrap resamples of the items in which no quant is both at most as large and at least as accurate."""
    on_kld_frontier: float | None
    """The same with mean KLD, resampling windows of text."""


@dataclass(frozen=True)
class Ranking:
    """Quants from the most accurate to the least; empty with a `reason` where there are no answers to compare."""

    quants: tuple[RankedQuant, ...]
    base_letters: str
    n_items: int
    n_clusters: int
    n_pairs: int
    n_separable: int
    """Pairs (the base among them) with Holm's p <= 1 - level."""
    margin: float
    recommended: str | None
    recommendation: str
    reason: str = ""


@dataclass(frozen=True)
class _Answers:
    """All tasks side by side: `[n_rows, n_items]` over the quants that answered every task."""

    quants: Int64Array
    base: BoolArray
    correct: BoolArray
    clusters: Int64Array
    tasks: Int64Array
    """The task of each item."""


def rank(panel: Panel, margin: float, how: Resampling) -> Ranking:
    """Compare all quants and the base pairwise, find both frontiers, recommend.

    Groups: for each pair the p of `compare_paired` (exact McNemar, and with groups of items the larger of it and
    the cluster-robust t test's), Holm over all pairs; letters by insert and absorb (Piepho, 2004): two quants share
    a letter exactly if they are not separable. Sharing a letter with two quants does not make those two equal.
    """
    answers = _join(panel.tasks)
    if answers is None or len(panel.tasks) < len(panel.scores.names):
        missing = sorted(set(panel.scores.names) - {task.name for task in panel.tasks})
        reason = f"no item files of {', '.join(missing)}" if missing else "no quant answered every task item by item"
        return Ranking((), "", 0, 0, 0, 0, margin, None, "", reason)
    changes = [
        compare_paired(b, q, answers.clusters, how.level) for b, q in zip(answers.base, answers.correct, strict=True)
    ]
    adjusted = holm([change.p for change in changes])
    same_base = bool((answers.base == answers.base[0]).all())
    rows = np.vstack([answers.base[:1], answers.correct]) if same_base else answers.correct
    separable = separable_pairs(rows, answers.clusters, 1 - how.level)
    order = np.argsort(-rows.sum(1), kind="stable")
    letters = compact_letters(separable[np.ix_(order, order)])
    by_row = {int(row): letters[place] for place, row in enumerate(order)}
    frontier = _accuracy_frontier(panel, answers, how)
    kld_frontier = _kld_frontier(panel, how)
    quants = [
        RankedQuant(
            name=panel.names[quant],
            size_bytes=_known(panel.sizes[quant]),
            acc=float(answers.correct[row].mean()),
            net=changes[row].net,
            volume=changes[row].volume,
            p=changes[row].p,
            holm_p=float(adjusted[row]),
            verdict=decide_verdict(changes[row].net, changes[row].net_for_equivalence, float(adjusted[row]), margin),
            n_effective=changes[row].n_effective,
            letters=by_row[row + same_base],
            on_frontier=frontier.get(int(quant)),
            on_kld_frontier=kld_frontier.get(int(quant)),
        )
        for row, quant in enumerate(answers.quants)
    ]
    quants.sort(key=lambda quant: -quant.acc)
    recommended, words = recommend(quants, changes, margin, 1 - how.level)
    n_pairs = len(rows) * (len(rows) - 1) // 2
    return Ranking(
        quants=tuple(quants),
        base_letters=by_row[0] if same_base else "",
        n_items=answers.correct.shape[1],
        n_clusters=len(np.unique(answers.clusters)),
        n_pairs=n_pairs,
        n_separable=int(np.triu(separable, 1).sum()),
        margin=margin,
        recommended=recommended,
        recommendation=words,
    )


def frontier_share(sizes: FloatArray, scores: FloatArray) -> FloatArray:
    """Share of resamples in which each quant is on the frontier, `[n_quants]`.

    `sizes` is `[n_quants]` bytes, `scores` `[n_boot, n_quants]`, more is better. A quant is off the frontier where
    another is no larger and no worse, and smaller or better; two equal ones are both on it.
    """
    on = np.ones(scores.shape, np.bool_)
    for i in range(len(sizes)):
        no_larger, smaller = sizes <= sizes[i], sizes < sizes[i]
        no_worse, better = scores >= scores[:, i : i + 1], scores > scores[:, i : i + 1]
        on[:, i] = ~((no_larger & no_worse) & (smaller | better)).any(1)
    return np.asarray(on.mean(0), np.float64)


def recommend(
    quants: Sequence[RankedQuant], changes: Sequence[PairedChange], margin: float, alpha: float
) -> tuple[str | None, str]:
    """The smallest quant that is equivalent to the base at the margin, and what to do about undecided smaller ones."""
    points = f"±{100 * margin:g} points"
    n_items = changes[0].net.n
    sized = sorted((q for q in quants if q.size_bytes is not None), key=lambda q: (q.size_bytes or 0.0, -q.acc))
    if not sized:
        return None, "No quant's size is known, so none can be called the smallest."
    equivalent = [q for q in sized if q.verdict == EQUIVALENT]
    smallest = equivalent[0] if equivalent else None
    undecided = [q for q in sized if q.verdict == NOT_SEPARABLE and (smallest is None or _size(q) < _size(smallest))]
    words = ""
    if smallest is not None:
        words = (
            f"{smallest.name} is the smallest quant shown to be equivalent to the base at {points}: net change "
            f"{points_of(smallest.net)} over {n_items:,} items."
        )
    needs = [(quant, _items_needed(quant, n_items, margin, alpha)) for quant in undecided]
    first = next(((quant, needed) for quant, needed in needs if needed is not None), None)
    if first is not None:
        quant, needed = first
        words += (
            f" {quant.name} is smaller and"
            if smallest is not None
            else f"{quant.name}, the smallest that may be equivalent at {points},"
        )
        words += (
            f" cannot be decided with {n_items:,} items (net change {points_of(quant.net)}); about {needed:,} would do "
            "if its change stays where it is."
        )
    elif undecided:
        lead = " Of the smaller ones," if smallest is not None else "No quant is shown to be equivalent:"
        names = ", ".join(q.name for q in undecided[:5])
        words += f"{lead} {names} cannot be decided with {n_items:,} items; their net change is not within {points}."
    elif smallest is None:
        words = f"No quant is equivalent to the base at {points}: each is shown to differ, over {n_items:,} items."
    return (smallest.name if smallest is not None else None), words.strip()


def points_of(net: Estimate) -> str:
    """A fraction in percentage points with its interval."""
    if net.value is None:
        return "unknown"
    if net.low is None or net.high is None:
        return f"{100 * net.value:+.2f} points (no interval)"
    return f"{100 * net.value:+.2f} points [{100 * net.low:+.2f}, {100 * net.high:+.2f}]"


def _items_needed(quant: RankedQuant, n_items: int, margin: float, alpha: float) -> int | None:
    """Items that would show equivalence if net and volume stay as measured; None if the net is outside the margin."""
    if quant.net.value is None or quant.volume.value is None or abs(quant.net.value) >= margin:
        return None
    needed = items_for_equivalence(margin - abs(quant.net.value), quant.volume.value, alpha)
    needed = round(needed * n_items / max(quant.n_effective, 1.0))
    if needed <= n_items:  # the score interval is a little wider than the formula's
        needed = round(1.2 * n_items)
    return round_up(needed)


def round_up(n: int) -> int:
    """To two digits; the plan is no more precise."""
    step = 1
    while n >= 100 * step:
        step *= 10
    return -(-n // step) * step


def _size(quant: RankedQuant) -> float:
    return quant.size_bytes or 0.0


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _join(tasks: Sequence[TaskAnswers]) -> _Answers | None:
    quants = np.array(
        sorted(set.intersection(*(set(task.quants.tolist()) for task in tasks))) if tasks else [], np.int64
    )
    if not len(quants):
        return None
    rows = [np.searchsorted(task.quants, quants) for task in tasks]
    starts = np.cumsum([0, *(int(task.clusters.max()) + 1 for task in tasks)])
    return _Answers(
        quants=quants,
        base=np.concatenate([task.base_correct[row] for task, row in zip(tasks, rows, strict=True)], axis=1),
        correct=np.concatenate([task.correct[row] for task, row in zip(tasks, rows, strict=True)], axis=1),
        clusters=np.concatenate([task.clusters + start for task, start in zip(tasks, starts[:-1], strict=True)]),
        tasks=np.repeat(np.arange(len(tasks)), [task.correct.shape[1] for task in tasks]),
    )


def _accuracy_frontier(panel: Panel, answers: _Answers, how: Resampling) -> dict[int, float]:
    """Resamples clusters of items within each task."""
    sized = np.isfinite(panel.sizes[answers.quants])
    rng = np.random.default_rng(how.seed)
    right = np.zeros((how.n_boot, int(sized.sum())))
    asked = np.zeros(how.n_boot)
    for task in np.unique(answers.tasks):
        inside = answers.tasks == task
        sums, counts = cluster_sums(answers.correct[np.ix_(sized, inside)].astype(np.float64), answers.clusters[inside])
        for start in range(0, how.n_boot, 500):
            weights = draw_weights(len(counts), min(500, how.n_boot - start), rng)
            right[start : start + len(weights)] += weights @ sums.T
            asked[start : start + len(weights)] += weights @ counts
    shares = frontier_share(panel.sizes[answers.quants][sized], right / asked[:, None])
    return {int(q): float(s) for q, s in zip(answers.quants[sized], shares, strict=True)}


def _kld_frontier(panel: Panel, how: Resampling) -> dict[int, float]:
    """Resamples windows within each text; the score is the mean of the texts' mean KLD, negative."""
    if not panel.texts:
        return {}
    quants = np.array(sorted(set.intersection(*(set(text.quants.tolist()) for text in panel.texts))), np.int64)
    quants = quants[np.isfinite(panel.sizes[quants])]
    rng = np.random.default_rng(how.seed)
    scores = np.zeros((how.n_boot, len(quants)))
    for text in panel.texts:
        weights = draw_weights(len(text.counts), how.n_boot, rng)
        sums = text.kld_sums[np.searchsorted(text.quants, quants)]
        scores -= (weights @ sums.T) / (weights @ text.counts)[:, None]
    shares = frontier_share(panel.sizes[quants], scores)
    return {int(q): float(s) for q, s in zip(quants, shares, strict=True)}
