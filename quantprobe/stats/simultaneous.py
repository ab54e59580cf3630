"""Intervals of the net change that hold together: for every quant, on every task and on all tasks pooled.

One report has one family of intervals. With the chosen level (95 %) all of them hold at once, so a verdict that is read
off an interval needs no further correction and cannot contradict it.

Each quant's interval on table k is Tango's at level 1 - alpha*_k, alpha*_k = c_k t. The shares c_k say how much of the
error each table may use: the pool of all tasks 80 %, the tasks the rest in equal parts. t is the alpha-quantile of the
smallest p / c_k of all quants and tables under joint sign flips (`sign_flips`), the single step of Westfall and Young:
near alpha / m for m quants that have nothing in common (Bonferroni), alpha for m copies of one. Changes are counts, so
a quant of few changes cannot have a small p and costs the others nothing.

A table of fewer than `MIN_SIGNS` clusters has too few sign patterns. It takes its share of alpha beforehand, over the
number of quants that differ (Bonferroni), with t quantiles.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from quantprobe.arrays import FloatArray, Int64Array
from quantprobe.stats.paired import net_interval
from quantprobe.stats.sign_flips import ChangeTable, SignFlips, draw_signs, live_clusters, pool_tables

POOL_SHARE = 0.8
"""Share of the error that the pooled verdict may use where there are several tasks."""
MIN_SIGNS = 16
"""Fewer clusters have fewer than 2^15 sign patterns, too coarse for the small levels of single tasks."""
MIN_FLIPS, MAX_FLIPS = 2_000, 10_000
"""Flips of a report: 20,000 over its quants, within these bounds."""
_TIE = 1e-4
"""Two p closer than this part of each other are the same one, summed in another order."""


@dataclass(frozen=True, eq=False)
class NetIntervals:
    """One table of a report; arrays are `[n_quants]`, NaN for a quant without items or an error that is unknown."""

    alpha_star: float
    """1 less the level of each single interval."""
    net: FloatArray
    stderr: FloatArray
    low: FloatArray
    high: FloatArray
    p: FloatArray
    """Two-sided p of each quant by itself."""
    adjusted_p: FloatArray
    """Corrected for all quants and tables of the report; at most alpha exactly where the interval leaves out 0."""
    n: FloatArray
    n_clusters: FloatArray
    n_effective: FloatArray
    """Independent items, at the interval's level, that tell as much; 1 where the error is unknown."""
    n_drops: Int64Array
    n_leapfrogs: Int64Array
    volume: FloatArray


def simultaneous_intervals(
    tasks: Sequence[ChangeTable],
    alpha: float = 0.05,
    *,
    pool_share: float = POOL_SHARE,
    n_flips: int | None = None,
    seed: int = 0,
) -> tuple[NetIntervals, ...]:
    """One `NetIntervals` for each task and, where there are several, a last one for all of them pooled.

    All tables have the same quants in the same order. Seeded: the same tables give the same intervals.
    """
    family = _family(tasks, pool_share)
    p = [np.where(each.flips.n > 0, each.flips.p_values(_observed(each.flips)), np.nan) for each in family]
    stars, adjusted, rest = np.zeros(len(family)), list(p), 1.0
    for k, each in enumerate(family):
        if each.few:
            rest -= each.share
            stars[k] = alpha * each.share / each.n_distinct
            adjusted[k] = np.minimum(1.0, p[k] * alpha / stars[k])
    flipped = [k for k, each in enumerate(family) if not each.few]
    if flipped:
        n_flips = n_flips or int(np.clip(20_000 // max(1, tasks[0].n_quants), MIN_FLIPS, MAX_FLIPS))
        most = max(family[k].share for k in flipped)
        smallest = _smallest_p([family[k] for k in flipped], most, n_flips, seed)
        first = int(np.searchsorted(_chance(np.arange(n_flips // 2), n_flips), alpha * rest, side="right")) - 1
        critical = min(alpha * rest, float(smallest[max(0, first)]) * (1 - _TIE))
        for k in flipped:
            cost = family[k].share / most
            stars[k] = critical * cost
            below = np.searchsorted(smallest, p[k] / cost * (1 + _TIE), side="right")
            chance = np.maximum(_chance(below, n_flips), p[k] / cost) / rest
            adjusted[k] = np.where(np.isnan(p[k]), np.nan, np.minimum(1.0, chance))
    return tuple(
        _intervals(each.flips, float(star), one, both)
        for each, star, one, both in zip(family, stars, p, adjusted, strict=True)
    )


@dataclass(frozen=True, eq=False)
class _Member:
    """One table of the family, its place among all signs and its share of the error."""

    flips: SignFlips
    signs: slice
    share: float
    n_distinct: int
    """Quants that differ in any change; copies of one count once."""

    @property
    def few(self) -> bool:
        return bool(np.isfinite(self.flips.dof).any()) and int(self.flips.n_clusters.max()) < MIN_SIGNS


def _family(tasks: Sequence[ChangeTable], pool_share: float) -> list[_Member]:
    live = [live_clusters(task) for task in tasks]
    starts = np.cumsum([0, *(int(part.sum()) for part in live)]).tolist()
    share = (1 - pool_share if len(tasks) > 1 else 1.0) / max(1, len(tasks))
    places = [slice(a, b) for a, b in itertools.pairwise(starts)]
    family = [
        _Member(SignFlips(task, part), place, share, _n_distinct(task))
        for task, part, place in zip(tasks, live, places, strict=True)
    ]
    if len(tasks) > 1:
        pool = pool_tables(tasks)
        flips = SignFlips(pool, np.concatenate(live))
        family.append(_Member(flips, slice(0, starts[-1]), pool_share, _n_distinct(pool)))
    return family


def _observed(flips: SignFlips) -> FloatArray:
    return np.asarray(flips.statistics(np.ones((1, flips.n_signs), np.float32))[0])


def _chance(n_below: Int64Array, n_flips: int) -> FloatArray:
    """The chance of something that happened in so many flips, and in the observed data; one standard error above its
    estimate, so that the luck of the draw does not lower it."""
    return np.asarray((1 + n_below + np.sqrt(n_below * (1 - n_below / n_flips))) / (n_flips + 1), np.float64)


def _smallest_p(family: Sequence[_Member], most: float, n_flips: int, seed: int) -> FloatArray:
    """Over all quants and tables, the smallest p / (share / most) in each flip, sorted."""
    n_signs = max(each.signs.stop for each in family)
    width = max(len(each.flips.n) for each in family)
    found = []
    for signs in draw_signs(n_flips, n_signs, width, seed):
        smallest = np.full(len(signs), np.inf)
        for each in family:
            statistics = each.flips.statistics(signs[:, each.signs])
            if np.isinf(each.flips.dof).all():  # one distribution for all: its largest statistic has the smallest p
                p = 2 * special.ndtr(-np.abs(statistics).max(axis=1))
            else:
                p = each.flips.p_values(statistics).min(axis=1)
            smallest = np.minimum(smallest, p / (each.share / most))
        found.append(smallest)
    return np.asarray(np.sort(np.concatenate(found)))


def _intervals(flips: SignFlips, alpha_star: float, p: FloatArray, adjusted_p: FloatArray) -> NetIntervals:
    known = (flips.n > 0) & np.isfinite(flips.stderr) & np.isfinite(flips.design_effect)
    quantile = special.ndtri(1 - alpha_star / 2)
    wider = special.stdtrit(np.minimum(flips.dof, 1e9), 1 - alpha_star / 2) / quantile
    wide = np.where(np.isinf(flips.dof), 1.0, wider)
    each = np.where(known, flips.design_effect * wide**2, 1.0) * flips.unit
    low, high = net_interval(flips.drops / each, flips.leapfrogs / each, np.maximum(flips.n, 1) / each, 1 - alpha_star)
    return NetIntervals(
        alpha_star=alpha_star,
        net=flips.net,
        stderr=np.where(known, flips.stderr, np.nan),
        low=np.where(known, low, np.nan),
        high=np.where(known, high, np.nan),
        p=p,
        adjusted_p=adjusted_p,
        n=flips.n,
        n_clusters=flips.n_clusters,
        n_effective=np.where(known, flips.n / each, 1.0),
        n_drops=flips.n_drops,
        n_leapfrogs=flips.n_leapfrogs,
        volume=np.minimum(1.0, (flips.drops + flips.leapfrogs) / np.maximum(flips.n, 1)),
    )


def _n_distinct(table: ChangeTable) -> int:
    return max(1, len({row.tobytes() for row in table.values if np.isfinite(row).any()}))
