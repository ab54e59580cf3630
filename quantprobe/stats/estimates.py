"""Estimates: a value with its uncertainty, clustered where neighbours are not independent.

The interval of a mean is a t interval on the cluster-robust standard error (CR2, Bell and McCaffrey 2002), which for
one row per cluster is the ordinary s / sqrt(n). Transforms (exp, square root) carry
the ends of the interval over and the standard error by the delta method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy import special

from quantprobe.arrays import BoolArray, FloatArray, Int32Array, Int64Array
from quantprobe.errors import InputError


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


def effective_clusters(clusters: Int32Array | Int64Array) -> float:
    """n^2 / sum(n_g^2): the number of clusters of equal size that would tell as much; 0 for no items."""
    sizes = np.unique(clusters, return_counts=True)[1].astype(np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum()) if len(sizes) else 0.0


def cluster_mean(values: FloatArray, clusters: Int32Array | Int64Array) -> ClusterMean:
    """Mean of `[n_items]` float64 values and its cluster-robust standard error.

    stderr^2 = sum_g e_g^2 / (1 - n_g / n) / n^2 with e_g the sum of the residuals of cluster g (the CR2 estimate of
    Bell and McCaffrey, 2002, for a mean), with `effective_clusters` - 1 degrees of freedom. With clusters of one
    item this is the ordinary t statistic: s^2 / n and n - 1. Raises `InputError` for no values or one that is
    not finite: who calls counts and leaves those out.
    """
    if len(values) == 0 or not np.isfinite(values).all():
        raise InputError(f"a mean needs finite values; {len(values)} given, not all finite or none at all")
    codes = np.unique(clusters, return_inverse=True)[1]
    sizes = np.bincount(codes).astype(np.float64)
    n, n_clusters = len(values), len(sizes)
    mean = float(np.mean(values))
    if n_clusters < 2:
        return ClusterMean(mean, None, 0.0, n, n_clusters)
    residuals = np.bincount(codes, weights=values - mean)
    variance = float((residuals**2 / (1 - sizes / n)).sum()) / n**2
    return ClusterMean(mean, variance**0.5, effective_clusters(clusters) - 1, n, n_clusters)


def mean_estimate(values: FloatArray, clusters: Int32Array | Int64Array, unit: str, level: float = 0.95) -> Estimate:
    """The mean over all rows, rows of one cluster being allowed to depend on each other.

    Error and degrees of freedom are those of `cluster_mean`. One cluster gives a value without uncertainty, no rows
    give no value.

    Parameters
    ----------
    values : `[n]` float64, finite
    clusters : `[n]` integers
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


def fraction_estimate(flags: BoolArray, clusters: Int32Array | Int64Array, level: float = 0.95) -> Estimate:
    """The fraction of true flags (0 to 1), with a Wilson interval on the effective number of rows.

    The design effect d is the clustered variance over that of independent rows, at least 1; Wilson's score interval is
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
        n_effective = mean.n / max(1.0, stderr**2 * (mean.n - 1) / (fraction * (1.0 - fraction)))
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


def rms_estimate(values: FloatArray, clusters: Int32Array | Int64Array, unit: str, level: float = 0.95) -> Estimate:
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


def _check_clustered(values: FloatArray | BoolArray, clusters: Int32Array | Int64Array, level: float) -> None:
    if values.ndim != 1 or values.shape != clusters.shape:
        raise InputError(f"{values.shape} values and {clusters.shape} cluster numbers; expected one cluster per value")
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
