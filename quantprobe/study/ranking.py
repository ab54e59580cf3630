"""A ranking that means something: who can be told from whom, who is worth the bytes, and which one to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quantprobe.arrays import BoolArray, FloatArray, Int64Array
from quantprobe.stats.correlation import Resampling, draw_weights
from quantprobe.stats.design import ItemDesign, pool_designs
from quantprobe.stats.estimates import Estimate
from quantprobe.stats.paired import compare_paired
from quantprobe.stats.sign_flips import ChangeTable
from quantprobe.stats.verdicts import Judged, judge
from quantprobe.study.groups import compact_letters, separable_pairs
from quantprobe.study.panel import Panel, TaskAnswers
from quantprobe.study.recommendation import Candidate, Undecided, recommend
from quantprobe.study.zone import cluster_sums

BASE = "base"


@dataclass(frozen=True)
class RankedQuant:
    """One quant over the items of all tasks; `letters`: quants that share one cannot be told apart."""

    name: str
    size_bytes: float | None
    acc: float
    net: Estimate
    """With an interval that holds together with those of all quants and tasks (`verdicts.judge`)."""
    volume: Estimate
    p: float
    """Of the change against the base by itself."""
    adjusted_p: float
    """Corrected for all quants and tasks of the cohort."""
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
    """Pairs that can be told apart: of two quants with Holm's p <= 1 - level, with the base by the quant's interval."""
    margin: float
    recommended: str | None
    recommendation: str
    reason: str = ""
    undecided: tuple[Undecided, ...] = ()
    """Quants smaller than the recommended one that may do, and the items that would show it."""
    ruled_out: tuple[str, ...] = ()
    """Quants shown to lose the margin or more."""


@dataclass(frozen=True)
class _Answers:
    """All tasks side by side: `[n_rows, n_items]` over the quants that answered every task."""

    quants: Int64Array
    base: BoolArray
    correct: BoolArray
    design: ItemDesign
    """Tasks are strata, with their own strata and clusters within."""
    judged: tuple[Judged, ...]
    """Of each quant, over all tasks."""


def rank(panel: Panel, margin: float, how: Resampling) -> Ranking:
    """Compare all quants and the base pairwise, find both frontiers, recommend.

    Groups: for each pair of quants the exact McNemar p, with clustered items the larger of it and the t test's, Holm
    over all pairs; a quant and the base differ where the quant's own interval leaves out 0. Letters by insert and
    absorb (Piepho, 2004): two quants share a letter exactly if they are not separable. Sharing a letter with two quants
    does not make those two equal.
    """
    answers = _join(panel.tasks, margin, how)
    if answers is None or len(panel.tasks) < len(panel.scores.names):
        missing = sorted(set(panel.scores.names) - {task.name for task in panel.tasks})
        reason = f"no item files of {', '.join(missing)}" if missing else "no quant answered every task item by item"
        return Ranking((), "", 0, 0, 0, 0, margin, None, "", reason)
    same_base = bool((answers.base == answers.base[0]).all())
    rows = np.vstack([answers.base[:1], answers.correct]) if same_base else answers.correct
    separable = separable_pairs(rows, answers.design, 1 - how.level)
    if same_base:
        separable[0, 1:] = separable[1:, 0] = [_leaves_out_zero(one.net) for one in answers.judged]
    order = np.argsort(-rows.sum(1), kind="stable")
    letters = compact_letters(separable[np.ix_(order, order)])
    by_row = {int(row): letters[place] for place, row in enumerate(order)}
    quants = _ranked(panel, answers, how, [by_row[row + same_base] for row in range(len(answers.quants))])
    advice = recommend([_candidate(quant, one) for quant, one in zip(quants, answers.judged, strict=True)], margin)
    return Ranking(
        quants=tuple(sorted(quants, key=lambda quant: -quant.acc)),
        base_letters=by_row[0] if same_base else "",
        n_items=answers.correct.shape[1],
        n_clusters=answers.design.n_clusters,
        n_pairs=len(rows) * (len(rows) - 1) // 2,
        n_separable=int(np.triu(separable, 1).sum()),
        margin=margin,
        recommended=advice.name,
        recommendation=advice.sentence,
        undecided=advice.undecided,
        ruled_out=advice.ruled_out,
    )


def _ranked(panel: Panel, answers: _Answers, how: Resampling, letters: Sequence[str]) -> list[RankedQuant]:
    frontier, kld_frontier = _accuracy_frontier(panel, answers, how), _kld_frontier(panel, how)
    return [
        RankedQuant(
            name=panel.names[quant],
            size_bytes=_known(panel.sizes[quant]),
            acc=float(answers.correct[row].mean()),
            net=judged.net,
            volume=compare_paired(answers.base[row], answers.correct[row], answers.design, how.level).volume,
            p=judged.p,
            adjusted_p=judged.adjusted_p,
            verdict=judged.verdict,
            n_effective=judged.n_effective,
            letters=letters[row],
            on_frontier=frontier.get(int(quant)),
            on_kld_frontier=kld_frontier.get(int(quant)),
        )
        for row, (quant, judged) in enumerate(zip(answers.quants, answers.judged, strict=True))
    ]


def _candidate(quant: RankedQuant, judged: Judged) -> Candidate:
    volume = quant.volume.value or 0.0
    return Candidate(quant.name, quant.size_bytes, quant.acc, quant.net, volume, judged.n_effective, judged.alpha_star)


def _leaves_out_zero(net: Estimate) -> bool:
    return net.low is not None and net.high is not None and (net.low > 0 or net.high < 0)


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


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _join(tasks: Sequence[TaskAnswers], margin: float, how: Resampling) -> _Answers | None:
    quants = np.array(
        sorted(set.intersection(*(set(task.quants.tolist()) for task in tasks))) if tasks else [], np.int64
    )
    if not len(quants):
        return None
    rows = [np.searchsorted(task.quants, quants) for task in tasks]
    base = [task.base_correct[row] for task, row in zip(tasks, rows, strict=True)]
    correct = [task.correct[row] for task, row in zip(tasks, rows, strict=True)]
    designs = [task.design for task in tasks]
    tables = {
        task.name: ChangeTable(after.astype(np.float64) - before, design)
        for task, before, after, design in zip(tasks, base, correct, designs, strict=True)
    }
    judged = judge(tables, margin, how.level, how.seed)
    return _Answers(
        quants=quants,
        base=np.concatenate(base, axis=1),
        correct=np.concatenate(correct, axis=1),
        design=pool_designs(designs),
        judged=tuple(one for one in judged.first if one is not None),
    )


def _accuracy_frontier(panel: Panel, answers: _Answers, how: Resampling) -> dict[int, float]:
    """Resamples clusters of items within each stratum."""
    sized = np.isfinite(panel.sizes[answers.quants])
    rng = np.random.default_rng(how.seed)
    right = np.zeros((how.n_boot, int(sized.sum())))
    asked = np.zeros(how.n_boot)
    for stratum in range(answers.design.n_strata):
        inside = answers.design.strata == stratum
        correct = answers.correct[np.ix_(sized, inside)].astype(np.float64)
        sums, counts = cluster_sums(correct, answers.design.clusters[inside])
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
