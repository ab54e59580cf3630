"""What a correlation could at most have been: reliability of the scores, and restriction of their range."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from quantprobe.arrays import FloatArray
from quantprobe.stats.correlation import MIN_FOR_INTERVAL, draw_weights


def change_range(r: float, ratio: float) -> float:
    """The correlation after the spread (standard deviation) of one variable has become `ratio` times as large.

    r k / sqrt(1 - r^2 + r^2 k^2), Thorndike's case II: linear, equal scatter everywhere, selection on that variable
    alone. A ratio below 1 restricts the range; a ratio above 1 corrects for a restriction.
    """
    return r * ratio / math.sqrt(1 - r * r + r * r * ratio * ratio) if ratio > 0 else 0.0


def attenuation_ceiling(reliability_x: float, reliability_y: float) -> float:
    """The largest correlation that two scores of these reliabilities can show, sqrt(r_xx r_yy)."""
    return math.sqrt(max(reliability_x, 0.0) * max(reliability_y, 0.0))


@dataclass(frozen=True)
class Reliability:
    """Split-half reliability, 0 to 1; None with a reason where it cannot be computed."""

    value: float | None
    low: float | None
    high: float | None
    level: float
    n_quants: int
    n_clusters: int
    reason: str = ""


def split_half_reliability(
    sums: FloatArray, counts: FloatArray, n_splits: int = 1_000, seed: int = 0, level: float = 0.95
) -> Reliability:
    """How well the mean over one random half of the clusters tells the quants' order on the other half.

    Parameters
    ----------
    sums
        `[n_quants, n_clusters]` sum of the score over each cluster (an item, a subject, a window).
    counts
        `[n_clusters]` how many scores each cluster has.

    Notes
    -----
    Pearson r between the quants' means of both halves, averaged over `n_splits` splits, stepped up to the full
    length by Spearman-Brown, 2r / (1 + r). A negative r is reported as 0: no reliability. The interval is a
    percentile interval over resampled quants, each resample with its own split.
    """
    n_quants, n_clusters = sums.shape
    if n_quants < 3 or n_clusters < 2:
        reason = f"{n_quants} quants and {n_clusters} clusters, at least 3 and 2 are needed"
        return Reliability(None, None, None, level, n_quants, n_clusters, reason)
    rng = np.random.default_rng(seed)
    order = rng.random((n_splits, n_clusters)).argsort(1)
    half = (order < n_clusters // 2).astype(np.float64)
    means = [sums @ side.T / (side @ counts) for side in (half, 1 - half)]  # [n_quants, n_splits]
    r = _columns_r(means[0], means[1], np.ones((n_splits, n_quants)))
    if not np.isfinite(r).any():
        return Reliability(None, None, None, level, n_quants, n_clusters, "all quants have equal scores")
    value = _spearman_brown(float(np.nanmean(r)))
    if n_quants < MIN_FOR_INTERVAL:
        return Reliability(value, None, None, level, n_quants, n_clusters, "too few quants for an interval")
    resampled = _columns_r(means[0], means[1], draw_weights(n_quants, n_splits, rng))
    stepped = np.array([_spearman_brown(v) for v in resampled[np.isfinite(resampled)]])
    low, high = np.quantile(stepped, [(1 - level) / 2, (1 + level) / 2]) if len(stepped) else (math.nan, math.nan)
    if not len(stepped):
        return Reliability(value, None, None, level, n_quants, n_clusters, "all resamples have equal scores")
    return Reliability(value, float(low), float(high), level, n_quants, n_clusters)


def _spearman_brown(r: float) -> float:
    return 2 * r / (1 + r) if r > 0 else 0.0


def _columns_r(a: FloatArray, b: FloatArray, weights: FloatArray) -> FloatArray:
    """Weighted Pearson r of the columns of a and b, `[n, m]` each, with weights `[m, n]`; NaN where constant."""
    w = weights.T / weights.sum(1)
    a, b = a - (w * a).sum(0), b - (w * b).sum(0)
    spread = np.sqrt((w * a * a).sum(0) * (w * b * b).sum(0))
    result = np.full(a.shape[1], np.nan)
    np.divide((w * a * b).sum(0), spread, out=result, where=spread > 1e-15)
    return result
