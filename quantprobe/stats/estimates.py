"""Estimates: a value with its uncertainty, clustered where neighbours are not independent.

The interval of a mean is a t interval on the cluster-robust standard error (CR2, Bell and McCaffrey 2002) within
strata, which for one row per cluster and one stratum is the ordinary s / sqrt(n). Transforms (exp, square root) carry
the ends of the interval over and the standard error by the delta method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TypeAlias

import numpy as np
from scipy import special

from quantprobe.arrays import BoolArray, FloatArray, Int32Array, Int64Array
from quantprobe.errors import InputError
from quantprobe.stats.design import ItemDesign, as_design

Grouping: TypeAlias = ItemDesign | Int32Array | Int64Array
"""How values belong together: a design, or the cluster number of each, `[n]`."""

MIN_DESIGN_EFFECT = 0.05
"""A variance smaller than this part of a simple random sample's is an accident: with few clusters, changes may cancel
within every one. Without a floor an interval of width 0 can happen; with .5, intervals of 3 clusters cover 99 to 100 %
instead of 95 to 97."""


@dataclass(frozen=True)
class Estimate:
    """One number with its uncertainty; the `E` of `results.json`.

    `value` is None where the number does not exist (no rows, no finite rows); `stderr`, `low` and
    `high` are None where there are too few clusters to estimate them. `level` is the coverage that
    the interval `[low, high]` aims at. `n` counts rows or items, `n_clusters` windows or groups.
    """

    value: float | None
    stderr: float | None = None
    low: float | None = None
    high: float | None = None
    level: float = 0.95
    n: int = 0
    n_clusters: int = 0
    unit: str = ""

    def to_dict(self) -> dict[str, float | int | str | None]:
        return asdict(self)


@dataclass(frozen=True)
class ClusterMean:
    """A mean, its cluster-robust standard error, and the degrees of freedom of its t distribution."""

    mean: float
    stderr: float | None
    """None for fewer than two clusters."""
    dof: float
    n: int
    n_clusters: int

    @property
    def p_value(self) -> float | None:
        """Two-sided p of a mean of 0; 1 where nothing differs from 0; None where the error is unknown or 0."""
        if self.mean == 0:
            return 1.0
        if not self.stderr:
            return None
        return float(2 * special.stdtr(self.dof, -abs(self.mean) / self.stderr))

    def estimate(self, unit: str, level: float) -> Estimate:
        """The mean with its symmetric t interval."""
        half = None if self.stderr is None else float(special.stdtrit(self.dof, (1 + level) / 2)) * self.stderr
        low, high = (None, None) if half is None else (self.mean - half, self.mean + half)
        return Estimate(self.mean, self.stderr, low, high, level, self.n, self.n_clusters, unit)


def part_of(grouping: Grouping, mask: BoolArray) -> Grouping:
    """The grouping of the values where `mask` is true."""
    return grouping.keep(mask) if isinstance(grouping, ItemDesign) else grouping[mask]


def cluster_mean(values: FloatArray, grouping: Grouping) -> ClusterMean:
    """Mean of `[n]` float64 values, its standard error within strata and between clusters, and its degrees of freedom.

    With w = n_g / n_h the share of cluster g in its stratum h and e_g the sum of its residuals from the stratum's mean,
    stderr^2 = sum_h V_h / n^2, V_h = sum_g e_g^2 / (1 - w): CR2 of Bell and McCaffrey (2002) for a mean. A stratum has
    1 / (sum w^2 (1 - 2w) / (1 - w)^2 + (sum w^2 / (1 - w))^2) degrees of freedom, theirs for independent values, which
    is the number of clusters less one where sizes are equal; strata are joined by Satterthwaite's rule. Lone clusters
    of strata: see `design`. With clusters of one value in one stratum this is the ordinary t statistic.

    Coverage at 95 % of 3 to 57 clusters with correlations of 0 to .5 inside: 94 to 96 % with equal sizes, 94 to 98 %
    with sizes from 5 to 60 or one cluster as large as all others. Raises `InputError` for no values or one that is not
    finite: who calls counts and leaves those out.
    """
    if len(values) == 0 or not np.isfinite(values).all():
        raise InputError(f"a mean needs finite values; {len(values)} given, not all finite or none at all")
    design = as_design(grouping)
    n, sizes = len(values), np.bincount(design.clusters).astype(np.float64)
    mean = float(np.mean(values))
    if len(sizes) < 2:
        return ClusterMean(mean, None, 0.0, n, len(sizes))
    home = np.zeros(len(sizes), np.int64)
    home[design.clusters] = design.strata
    n_strata = design.n_strata
    home[np.bincount(home)[home] < 2] = n_strata  # lone clusters are measured together
    totals = np.append(np.bincount(design.strata, minlength=n_strata), n).astype(np.float64)
    centres = np.append(np.bincount(design.strata, weights=values, minlength=n_strata) / totals[:-1], mean)
    share = sizes / totals[home]
    residuals = np.bincount(design.clusters, weights=values - centres[home[design.clusters]])
    variance, weight, first, second = (
        np.bincount(home, weights=part, minlength=n_strata + 1)
        for part in (
            residuals**2 / (1 - share),
            share,
            share**2 * (1 - 2 * share) / (1 - share) ** 2,
            share**2 / (1 - share),
        )
    )
    used = weight > 0
    dof = weight[used] ** 2 / (first[used] + second[used] ** 2)
    variance = variance[used]
    total = float(variance.sum())
    joint = 1 / float(((variance / total) ** 2 / dof).sum()) if total > 0 else float(dof.sum())
    return ClusterMean(mean, total**0.5 / n, joint, n, len(sizes))


def mean_estimate(values: FloatArray, clusters: Grouping, unit: str, level: float = 0.95) -> Estimate:
    """The mean over all rows, rows of one cluster being allowed to depend on each other.

    Error and degrees of freedom are those of `cluster_mean`. One cluster gives a value without uncertainty, no rows
    give no value.

    Parameters
    ----------
    values : `[n]` float64, finite
    clusters : `[n]` integers, or a design
        Equal numbers belong together.
    unit : str
        What `value` is measured in.
    level : float
        Coverage that the interval aims at.

    Raises
    ------
    InputError
        Lengths that differ, a value that is not finite, a level outside (0, 1).

    Notes
    -----
    Heavy tails with few clusters make the interval too narrow, as they do every t interval.
    """
    _check_clustered(values, clusters, level)
    if len(values) == 0:
        return Estimate(None, None, None, None, level, 0, 0, unit)
    return cluster_mean(values, clusters).estimate(unit, level)


def fraction_estimate(flags: BoolArray, clusters: Grouping, level: float = 0.95) -> Estimate:
    """The fraction of true flags (0 to 1), with a Wilson interval on the effective number of rows.

    The design effect d is the variance of the design over that of independent rows; Wilson's score interval is
    taken with n / d rows and the t quantile in place of the normal one (Dean and Pagano 2015 compare such
    intervals). It stays inside [0, 1] and has a width also where all flags agree.

    Where all flags agree the spread between clusters cannot be seen: `stderr` is None, and d = 1, the limit for a
    single deviating row. If deviations came in whole clusters, that interval would be too narrow.

    Parameters, errors and missing parts are those of `mean_estimate`.
    """
    _check_clustered(flags, clusters, level)
    if len(flags) == 0:
        return Estimate(None, None, None, None, level, 0, 0, "fraction")
    mean = cluster_mean(flags.astype(np.float64), clusters)
    fraction, stderr = mean.mean, mean.stderr
    if stderr is None:
        return Estimate(fraction, None, None, None, level, mean.n, mean.n_clusters, "fraction")
    n_effective = float(mean.n)
    if 0.0 < fraction < 1.0:
        n_effective = mean.n / max(MIN_DESIGN_EFFECT, stderr**2 * (mean.n - 1) / (fraction * (1.0 - fraction)))
    low, high = _wilson_interval(fraction, n_effective, float(special.stdtrit(mean.dof, 0.5 + 0.5 * level)))
    stderr = stderr if 0.0 < fraction < 1.0 else None
    return Estimate(fraction, stderr, low, high, level, mean.n, mean.n_clusters, "fraction")


def exponential(estimate: Estimate, unit: str) -> Estimate:
    """exp of an estimate: a mean nll becomes a perplexity, a difference of two a ratio of perplexities.

    stderr = exp(value) stderr (delta method); the interval is the exponential of the interval, so not symmetric.
    A part beyond the range of float64 (exp(709.8)) is None.
    """
    value = _exp(estimate.value)
    stderr = None if value is None or estimate.stderr is None else value * estimate.stderr
    low, high = _exp(estimate.low), _exp(estimate.high)
    return Estimate(value, stderr, low, high, estimate.level, estimate.n, estimate.n_clusters, unit)


def rms_estimate(values: FloatArray, clusters: Grouping, unit: str, level: float = 0.95) -> Estimate:
    """The root of the mean square, from `mean_estimate` of the squares.

    stderr = stderr(mean square) / (2 rms) by the delta method (0 where all values are 0); the interval is the root of
    the mean square's interval, cut at 0.
    """
    square = mean_estimate(np.square(values, dtype=np.float64), clusters, unit, level)
    if square.value is None:
        return square
    rms = math.sqrt(square.value)
    if square.stderr is None or square.low is None or square.high is None:
        return Estimate(rms, None, None, None, level, square.n, square.n_clusters, unit)
    stderr = square.stderr / (2.0 * rms) if rms > 0.0 else 0.0
    low, high = math.sqrt(max(0.0, square.low)), math.sqrt(square.high)
    return Estimate(rms, stderr, low, high, level, square.n, square.n_clusters, unit)


def percentiles(values: FloatArray, fractions: Sequence[float]) -> list[float | None]:
    """The given quantiles (0 to 1) of `[n]` values, float64, linear between neighbours (type 7); None without values.

    llama.cpp uses the same rule in float32 (`llama_summary.py`).
    """
    if len(values) == 0:
        return [None] * len(fractions)
    return [float(value) for value in np.quantile(np.asarray(values, dtype=np.float64), fractions)]


def geometric_mean(values: FloatArray) -> float | None:
    """exp of the mean logarithm; 0 if a value is 0, None without values or with a negative one."""
    if len(values) == 0 or np.min(values) < 0.0:
        return None
    if np.min(values) == 0.0:
        return 0.0
    return math.exp(float(np.mean(np.log(values))))


def _check_clustered(values: FloatArray | BoolArray, clusters: Grouping, level: float) -> None:
    numbers = clusters.clusters if isinstance(clusters, ItemDesign) else clusters
    if values.ndim != 1 or values.shape != numbers.shape:
        raise InputError(f"{values.shape} values and {numbers.shape} cluster numbers; expected one cluster per value")
    if not 0.0 < level < 1.0:
        raise InputError(f"a confidence level of {level} is not between 0 and 1; use for example 0.95")
    if not np.all(np.isfinite(values)):
        raise InputError(f"{np.count_nonzero(~np.isfinite(values))} of {len(values)} values are not finite numbers")


def _exp(x: float | None) -> float | None:
    return None if x is None or x > 709.78 else math.exp(x)


def _wilson_interval(fraction: float, n: float, quantile: float) -> tuple[float, float]:
    """Wilson's score interval; the ends that are 0 or 1 in exact arithmetic are so here."""
    square = quantile**2 / n
    center = (fraction + 0.5 * square) / (1.0 + square)
    reach = math.sqrt(square * fraction * (1.0 - fraction) + 0.25 * square**2) / (1.0 + square)
    low = 0.0 if fraction == 0.0 else max(0.0, center - reach)
    high = 1.0 if fraction == 1.0 else min(1.0, center + reach)
    return low, high
