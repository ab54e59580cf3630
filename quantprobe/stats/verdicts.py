"""Verdicts over a report: every quant on every task and on all tasks pooled, each in one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from quantprobe.errors import InputError
from quantprobe.metrics.answers import Answers, check_same_items
from quantprobe.stats.design import ItemDesign
from quantprobe.stats.estimates import Estimate
from quantprobe.stats.paired import EQUIVALENT, NOT_INFERIOR, NOT_SEPARABLE, holm, verdict_of
from quantprobe.stats.power import items_to_settle, observed_mde, round_up, volume_bound
from quantprobe.stats.sign_flips import ChangeTable
from quantprobe.stats.simultaneous import NetIntervals, simultaneous_intervals
from quantprobe.stats.summary_tasks import TaskSummary


@dataclass(frozen=True)
class Judged:
    """One quant on one task, or on all of them: the net change, the verdict of its interval, and what would decide."""

    net: Estimate
    """Fraction, with an interval that holds together with all others of the report at `net.level`."""
    verdict: str
    sentence: str
    drops: int
    leapfrogs: int
    p: float
    """Of this comparison alone."""
    adjusted_p: float
    alpha_star: float
    """1 less the level of this interval by itself."""
    n_effective: float
    """Independent items that tell as much at that level."""
    mde: float | None
    """Smallest net change that so many items find with power 0.8 at `alpha_star`; None where the error is unknown."""
    n_to_settle: int | None
    """Items after which a change of the margin would be found, and no change be shown equivalent (power 0.8)."""


@dataclass(frozen=True)
class Judgement:
    """All verdicts of one report, `[n_quants]` each; None for a quant that did not answer the task.

    `pooled`, all tasks as one, comes first where there are several tasks; else it is None.
    """

    pooled: tuple[Judged | None, ...] | None
    tasks: Mapping[str, tuple[Judged | None, ...]]

    @property
    def first(self) -> tuple[Judged | None, ...]:
        """The first verdict of each quant: pooled, or the only task's."""
        return self.pooled if self.pooled is not None else next(iter(self.tasks.values()), ())


def judge(tasks: Mapping[str, ChangeTable], margin: float = 0.01, level: float = 0.95, seed: int = 0) -> Judgement:
    """Judge every quant on every task and on all tasks pooled, so that all intervals hold together at `level`.

    `margin` is the smallest net change that matters, a fraction, chosen beforehand. The tables have the same quants in
    the same order, with NaN for what a quant did not answer. Raises `InputError` where they do not, for a task without
    items, or a margin or level out of range.
    """
    _check(tasks, margin, level)
    if not any(table.n_quants for table in tasks.values()):
        return Judgement(None, dict.fromkeys(tasks, ()))
    found = simultaneous_intervals(list(tasks.values()), round(1 - level, 12), seed=seed)
    judged = [tuple(_judge_quant(table, q, margin, level) for q in range(len(table.n))) for table in found]
    return Judgement(judged[-1] if len(tasks) > 1 else None, dict(zip(tasks, judged, strict=False)))


def table_of_changes(pairs: Sequence[tuple[Answers, Answers] | None], design: ItemDesign) -> ChangeTable:
    """The changes of all quants on one task, from (base, quant) answers to the same items; None: not measured."""
    values = np.full((len(pairs), design.n_items), np.nan)
    for row, pair in zip(values, pairs, strict=True):
        if pair is not None:
            check_same_items(*pair)
            valid = pair[0].valid & pair[1].valid
            row[valid] = pair[1].correct[valid].astype(np.float64) - pair[0].correct[valid]
    return ChangeTable(values, design)


def correct_over_quants(summaries: Sequence[TaskSummary], judged: Sequence[Judged | None]) -> list[TaskSummary]:
    """The same summaries, in the same order, with what `judge` found about each.

    A summary without a verdict (the base's answers are not known) stays as it is. The p of margin shifts are corrected
    by Holm; those that do not exist are left out.
    """
    known = [i for i, summary in enumerate(summaries) if summary.margin_shift_p is not None]
    shift_p = dict(zip(known, holm([summaries[i].margin_shift_p or 0.0 for i in known]).tolist(), strict=True))
    return [
        summary if found is None else _with_verdict(summary, found, shift_p.get(i))
        for i, (summary, found) in enumerate(zip(summaries, judged, strict=True))
    ]


def _with_verdict(summary: TaskSummary, found: Judged, margin_shift_holm_p: float | None) -> TaskSummary:
    return replace(
        summary,
        net=found.net,
        adjusted_p=found.adjusted_p,
        alpha_star=found.alpha_star,
        noninferior=found.net.low is not None and summary.margin is not None and found.net.low > -summary.margin,
        verdict=found.verdict,
        sentence=found.sentence,
        mde=found.mde,
        n_to_settle=found.n_to_settle,
        margin_shift_holm_p=margin_shift_holm_p,
    )


def describe_verdict(judged: Judged, margin: float) -> str:
    """The verdict in one sentence, in percentage points."""
    net, verdict = judged.net, judged.verdict
    value, low, high = points_of(net, margin)
    interval = f"[{low}, {high}]" if low and high else "(no interval: too few clusters)"
    limit = f"{100 * margin:g}"
    found = f"{verdict}: {value} points {interval}"
    flips = f"{judged.drops} drops, {judged.leapfrogs} leapfrogs in {net.n:,} items"
    if verdict == EQUIVALENT:
        real = net.high is not None and net.low is not None and (net.high < 0 or net.low > 0)
        tail = f"; a real {'loss' if (net.value or 0) < 0 else 'gain'}, smaller than the margin" if real else ""
        return f"{found}, within ±{limit}; {flips}{tail}"
    if verdict == NOT_INFERIOR:
        return f"{found}, above -{limit}; {flips}"
    if verdict == NOT_SEPARABLE and judged.mde is not None:
        reach = f"these detect a change of {100 * judged.mde:.2g}; about {judged.n_to_settle:,} would settle ±{limit}"
        return f"{found}; {flips}; {reach}"
    return f"{found}; {flips}"


def points_of(net: Estimate, margin: float) -> tuple[str, str, str]:
    """Value, low and high of a net change in percentage points, "" where unknown.

    With one decimal, or as many more as the shown ends need to say what the true ones say about 0 and the margin.
    """
    if net.low is None or net.high is None:
        return ("unknown" if net.value is None else f"{100 * net.value:+.1f}"), "", ""
    for digits in range(1, 9):
        ends = [f"{100 * end:+.{digits}f}" for end in (net.low, net.high)]
        low, high = (float(end) / 100 for end in ends)
        same = _sides(low, high, margin) == _sides(net.low, net.high, margin)
        if same:
            break
    return f"{100 * (net.value or 0.0):+.{digits}f}", ends[0], ends[1]


def _sides(low: float, high: float, margin: float) -> tuple[bool, ...]:
    # 1e-12: a margin of 0.01 and an end that is shown as 1.0 points are the same number
    return (low > 1e-12, high < -1e-12, low > -margin + 1e-12, high < margin - 1e-12, high < -margin - 1e-12)


def _judge_quant(found: NetIntervals, q: int, margin: float, level: float) -> Judged | None:
    if found.n[q] == 0:
        return None
    low, high, stderr = (_known(ends[q]) for ends in (found.low, found.high, found.stderr))
    n, n_clusters = int(found.n[q]), int(found.n_clusters[q])
    net = Estimate(_known(found.net[q]), stderr, low, high, level, n, n_clusters, "fraction")
    return _judged(
        net,
        margin,
        (int(found.n_drops[q]), int(found.n_leapfrogs[q])),
        (float(found.p[q]), float(found.adjusted_p[q])),
        found.alpha_star,
        float(found.n_effective[q]),
        float(found.volume[q]),
    )


def _judged(
    net: Estimate,
    margin: float,
    flips: tuple[int, int],
    p: tuple[float, float],
    alpha_star: float,
    n_effective: float,
    volume: float,
) -> Judged:
    reach, needed, n_effective = None, None, max(1.0, n_effective)
    if net.low is not None:
        reach = observed_mde(n_effective, volume, alpha_star)
        bound = min(1.0, max(volume_bound(volume, n_effective), margin))
        needed = round_up(round(items_to_settle(margin, bound, alpha_star) * net.n / n_effective))
    judged = Judged(
        net=net,
        verdict=verdict_of(net.low, net.high, margin),
        sentence="",
        drops=flips[0],
        leapfrogs=flips[1],
        p=p[0],
        adjusted_p=p[1],
        alpha_star=alpha_star,
        n_effective=n_effective,
        mde=reach,
        n_to_settle=needed,
    )
    return replace(judged, sentence=describe_verdict(judged, margin))


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _check(tasks: Mapping[str, ChangeTable], margin: float, level: float) -> None:
    if not 0 < margin < 1:
        raise InputError(
            f"a margin of {margin} is out of range; give a fraction above 0 (0.01 is one percentage point)"
        )
    if not 0.5 < level < 1:
        raise InputError(f"a level of {level} is out of range; give one between 0.5 and 1 (0.95)")
    for name, table in tasks.items():
        if table.design.n_items == 0:
            raise InputError(f"the task {name!r} has no items; leave it out, or run it again")
    counts = {name: table.n_quants for name, table in tasks.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f"tables of different numbers of quants ({counts}); give one row to each quant in every task")
