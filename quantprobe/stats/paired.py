"""Paired statistics of drops and leapfrogs: exact test, score intervals, Holm, and the verdict of an interval.

A verdict is read off the interval of the net change that is shown, and off nothing else (`verdict_of`). Over several
quants the interval is one of a family that holds together (`simultaneous`); for one quant alone it is Tango's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from quantprobe.arrays import BoolArray, FloatArray, Int64Array
from quantprobe.errors import InputError
from quantprobe.stats.design import ItemDesign, as_design
from quantprobe.stats.estimates import MIN_DESIGN_EFFECT, Estimate, cluster_mean

WORSE = "worse"
BETTER = "better"
EQUIVALENT = "equivalent"
NOT_INFERIOR = "not inferior"
NOT_SEPARABLE = "not separable"
VERDICTS = (WORSE, BETTER, EQUIVALENT, NOT_INFERIOR, NOT_SEPARABLE)


def mcnemar_p(drops: ArrayLike, leapfrogs: ArrayLike) -> FloatArray:
    """Exact two-sided McNemar p: 2 P(Bin(b + c, 1/2) <= min(b, c)), at most 1; 1 where nothing changed.

    Arrays broadcast. Equal to `scipy.stats.binomtest(b, b + c).pvalue`.
    """
    # integers: scipy's bdtr deprecates a number of trials of another type
    b, c = np.asarray(drops).astype(np.int64), np.asarray(leapfrogs).astype(np.int64)
    return np.asarray(
        np.minimum(1.0, 2.0 * special.bdtr(np.minimum(b, c).astype(np.float64), b + c, 0.5)), dtype=np.float64
    )


def score_z(drops: ArrayLike, leapfrogs: ArrayLike, n: ArrayLike, net: ArrayLike) -> FloatArray:
    """Tango's score statistic of the net change against a hypothetical `net`: positive where more was found.

    z = (c - b - n net) / sqrt(n (2 q + net (1 - net))), q the maximum-likelihood drop rate under that net
    (Tango, Statistics in Medicine 17, 1998). Counts may be fractional (effective counts). 0 where 0/0.
    """
    return _score(drops, leapfrogs, n, net)[0]


def net_interval(
    drops: ArrayLike, leapfrogs: ArrayLike, n: ArrayLike, level: ArrayLike = 0.95
) -> tuple[FloatArray, FloatArray]:
    """Tango's score interval of the net change (c - b) / n, a fraction in [-1, 1], corrected for skewness.

    The nets whose statistic is within the normal quantile, found by bisection to 2^-52. The statistic is `score_z` or,
    where that is smaller, its skewness-corrected form: the score trusts the end next to 0 of a loss of few leapfrogs
    too much, the more the smaller its error is to be. At 0 both agree, so the test of no change is Tango's. Of 25
    intervals at 99.7 % of losses of 1 point in 1,500 items, all held in 92.6 % without and 94.7 % with it, at 1 % more
    width. With nothing changed the interval is +-z^2 / (n + z^2). Coverage at 95 %: 93.9 to 96 % wherever four or more
    changes are expected.
    """
    b, c, size = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (drops, leapfrogs, n)))
    quantile = special.ndtri((1 + np.asarray(level, dtype=np.float64)) / 2)
    net = (c - b) / size
    inside = np.stack([net, net])
    outside = np.stack([np.full_like(net, -1.0), np.full_like(net, 1.0)])
    for _ in range(52):
        middle = (inside + outside) / 2
        within = _cautious_z(b, c, size, middle) <= quantile
        inside, outside = np.where(within, middle, inside), np.where(within, outside, middle)
    return inside[0], inside[1]


def _cautious_z(drops: FloatArray, leapfrogs: FloatArray, n: FloatArray, net: FloatArray) -> FloatArray:
    """The smaller of |z| and |z| corrected for the skewness g of the score: z - g (z^2 - 1) / 6 + g^2 z^3 / 108, the
    monotone form of the Cornish-Fisher step (Hall, Journal of the Royal Statistical Society B 54, 1992)."""
    z, rate, variance = _score(drops, leapfrogs, n, net)
    third = (rate + net) * (1 - net) ** 3 - rate * (1 + net) ** 3 - (1 - 2 * rate - net) * net**3
    skewness = np.divide(third, np.sqrt(n) * variance**1.5, out=np.zeros_like(z), where=variance > 1e-12)
    corrected = np.sign(z) * (z - skewness * (z**2 - 1) / 6 + skewness**2 * z**3 / 108)
    size = np.abs(z)
    return np.where(size > 1, np.clip(corrected, 0.0, size), size)


def _score(
    drops: ArrayLike, leapfrogs: ArrayLike, n: ArrayLike, net: ArrayLike
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """`score_z`, the drop rate and the variance of one item's change under that net."""
    b, c, size, delta = (np.asarray(x, dtype=np.float64) for x in (drops, leapfrogs, n, net))
    linear = (2 * size + b - c) * delta - b - c
    root = np.sqrt(np.maximum(linear**2 + 8 * size * b * delta * (1 - delta), 0.0))
    rate = (root - linear) / (4 * size)
    variance = np.maximum(2 * rate + delta * (1 - delta), 0.0)
    found = c - b - size * delta
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(found == 0, 0.0, found / np.sqrt(size * variance)), rate, variance


def share_interval(part: ArrayLike, whole: ArrayLike, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
    """Wilson's score interval of part / whole. Counts may be fractional (effective counts)."""
    k, n = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    z = special.ndtri((1 + level) / 2)
    centre = (k + z**2 / 2) / (n + z**2)
    half = z * np.sqrt(np.maximum(k * (n - k) / n, 0.0) + z**2 / 4) / (n + z**2)
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)


def holm(p_values: ArrayLike) -> FloatArray:
    """Holm's step-down adjusted p, `[m]` float64: p_(j) (m - j + 1), made monotone, at most 1 (Holm, 1979)."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def verdict_of(low: float | None, high: float | None, margin: float) -> str:
    """The verdict of an interval of the net change; `margin` is the smallest change that matters, above 0.

    `equivalent` where the whole interval lies strictly inside the margins: a change that is real but smaller than the
    smallest that matters is equivalent too. Else `worse` or `better` where the interval leaves out 0, `not inferior`
    where it lies above -margin, `not separable` where it does neither or is unknown.
    """
    if low is None or high is None:
        return NOT_SEPARABLE
    if -margin < low and high < margin:
        return EQUIVALENT
    if high < 0:
        return WORSE
    if low > 0:
        return BETTER
    return NOT_INFERIOR if low > -margin else NOT_SEPARABLE


@dataclass(frozen=True)
class PairedChange:
    """The change in correctness between base and quant over the same items."""

    drops: int
    leapfrogs: int
    net: Estimate
    """(leapfrogs - drops) / n; score interval of this change alone."""
    volume: Estimate
    """(drops + leapfrogs) / n; score interval."""
    index_low: float | None
    """Interval of the direction index; None where nothing changed."""
    index_high: float | None
    mcnemar_p: float
    p: float
    """Of this change alone: McNemar's, and where items are clustered the larger of it and the score's t test."""
    n_effective: float
    """Independent items that tell as much: n, or less where the answers of a cluster move together."""
    design_effect: float
    """Variance of the net change over that of a simple random sample; 1 where it is unknown."""
    dof: float | None
    """Degrees of freedom where items are clustered; None for independent items (normal quantiles)."""


def compare_paired(
    base_correct: BoolArray, quant_correct: BoolArray, grouping: ItemDesign | Int64Array, level: float = 0.95
) -> PairedChange:
    """Test and estimate the change of `[n_items]` correctness flags.

    `grouping` is the items' design, or the cluster number of each. Score intervals are taken at effective counts: all
    counts divided by the design effect and, where items are clustered, by the squared ratio of the t to the normal
    quantile (as Korn and Graubard do for one proportion). A design of a single cluster of several items leaves all
    errors unknown. Raises `InputError` for no items.
    """
    n, design = len(base_correct), as_design(grouping)
    if n == 0:
        raise InputError("there is no item that both base and quant answered; nothing can be compared")
    drop, leapfrog = base_correct & ~quant_correct, quant_correct & ~base_correct
    b, c = int(drop.sum()), int(leapfrog.sum())
    exact = float(mcnemar_p(b, c))
    net, volume = (
        _Sample(leapfrog.astype(np.float64) - drop, design),
        _Sample((leapfrog | drop).astype(np.float64), design),
    )
    wide = net.items_per_item(level)
    low, high = share_interval(c / wide, (b + c) / wide, level) if b + c and net.stderr is not None else (None, None)
    own = volume.items_per_item(level)
    clustered = 0.0
    if net.dof is not None and b + c:
        clustered = float(2 * special.stdtr(net.dof, -abs(c - b) / ((b + c) * net.effect) ** 0.5))
    return PairedChange(
        drops=b,
        leapfrogs=c,
        net=net.estimate(net_interval(b / wide, c / wide, n / wide, level), level),
        volume=volume.estimate(share_interval((b + c) / own, n / own, level), level),
        index_low=None if low is None else 2 * float(low) - 1,
        index_high=None if high is None else 2 * float(high) - 1,
        mcnemar_p=exact,
        p=max(exact, clustered) if net.stderr is not None else 1.0,
        n_effective=n / max(1.0, wide),
        design_effect=net.effect,
        dof=net.dof,
    )


class _Sample:
    """Values of one kind over a design: mean, error, and how much its design costs."""

    def __init__(self, values: FloatArray, design: ItemDesign) -> None:
        found = cluster_mean(values, design)
        self.n, self.n_clusters, self.mean, self.stderr = found.n, found.n_clusters, found.mean, found.stderr
        self.dof = found.dof if design.has_clusters else None
        simple = cluster_mean(values, np.arange(len(values))).stderr
        known = simple and self.stderr is not None and not design.is_plain
        self.effect = max(MIN_DESIGN_EFFECT, ((self.stderr or 0.0) / (simple or 1.0)) ** 2) if known else 1.0

    def items_per_item(self, level: float) -> float:
        """How many items tell as much as one independent item; all of them where the error is unknown."""
        if self.stderr is None:
            return float(self.n)
        if self.dof is None:
            return self.effect
        return self.effect * float(special.stdtrit(self.dof, (1 + level) / 2) / special.ndtri((1 + level) / 2)) ** 2

    def estimate(self, bounds: tuple[FloatArray, FloatArray], level: float) -> Estimate:
        low, high = (float(bounds[0]), float(bounds[1])) if self.stderr is not None else (None, None)
        return Estimate(self.mean, self.stderr, low, high, level, self.n, self.n_clusters, "fraction")
