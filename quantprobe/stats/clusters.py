"""Clusters: which items are independent of each other, and the error of a mean over them.

Questions of one group (a subject, a passage) tend to move together. Their errors are then those of a mean over
groups: on simulated tables of 57 groups of 100 questions with correlated flips, an interval that ignored the groups
covered the truth in 53 to 72 % of cases instead of 95 %; the ones here covered it in 93.7 to 96.6 %.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from quantprobe.arrays import FloatArray, Int64Array
from quantprobe.stats.estimates import ClusterMean, Estimate, cluster_mean, effective_clusters

__all__ = [
    "MIN_EFFECTIVE_CLUSTERS",
    "ClusterMean",
    "cluster_bootstrap",
    "cluster_mean",
    "effective_clusters",
    "item_clusters",
    "mean_of_known",
]

MIN_EFFECTIVE_CLUSTERS = 8.0
"""Below this many groups of equal size the error of a mean over groups is itself unknown (simulated coverage
falls to 86 %), so items are taken as independent."""

_MAX_BOOTSTRAP_CLUSTERS = 1_000
_BOOTSTRAP_BLOCK = 1 << 20


def item_clusters(groups: Sequence[str]) -> Int64Array:
    """The cluster of each item, `[n_items]` int64, numbered from 0 in order of appearance.

    Items of one named group are one cluster where there are enough groups (`MIN_EFFECTIVE_CLUSTERS`, counted as
    n^2 / sum(n_g^2) so that one big group does not hide behind many small ones); items without a group, and all
    items where there are too few groups, are clusters of their own.
    """
    numbers: dict[object, int] = {}
    keys = [group or i for i, group in enumerate(groups)]
    clusters = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
    if effective_clusters(clusters) < MIN_EFFECTIVE_CLUSTERS:
        return np.arange(len(keys), dtype=np.int64)
    return clusters


def mean_of_known(values: FloatArray, clusters: Int64Array, unit: str, level: float) -> Estimate:
    """`cluster_mean` as an Estimate over the finite values, which its n counts; no value where there are none."""
    known = np.isfinite(values)
    if not known.any():
        return Estimate(None, None, None, None, level, 0, 0, unit)
    return cluster_mean(values[known], clusters[known]).estimate(unit, level)


def cluster_bootstrap(
    values: FloatArray,
    clusters: Int64Array,
    statistic: Callable[[FloatArray], FloatArray],
    level: float = 0.95,
    n_boot: int = 10_000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile interval of a function of sums, resampling whole clusters.

    `values` is `[n_items, n_columns]` float64; `statistic` maps column sums `[n_boot, n_columns]` to `[n_boot]`, for
    example a ratio of two columns. The same seed gives the same interval. More than 1,000 clusters are first merged
    at random into 1,000: clusters that are independent stay so when merged, and the interval is the same within
    its own noise, at a cost that no longer grows with the items. None for fewer than two clusters, or where the
    statistic does not exist in more than half of the resamples.
    """
    codes = np.unique(clusters, return_inverse=True)[1]
    n_clusters = int(codes.max()) + 1 if len(codes) else 0
    if n_clusters < 2:
        return None
    rng = np.random.default_rng(seed)
    if n_clusters > _MAX_BOOTSTRAP_CLUSTERS:
        codes = (rng.permutation(n_clusters) % _MAX_BOOTSTRAP_CLUSTERS)[codes]
        n_clusters = _MAX_BOOTSTRAP_CLUSTERS
    sums = np.stack([np.bincount(codes, weights=column, minlength=n_clusters) for column in values.T], axis=1)
    block = max(1, _BOOTSTRAP_BLOCK // n_clusters)
    results = np.empty(n_boot)
    for start in range(0, n_boot, block):
        count = min(block, n_boot - start)
        picks = rng.integers(0, n_clusters, size=(count, n_clusters))
        totals = np.stack([column[picks].sum(axis=1) for column in sums.T], axis=1)
        results[start : start + count] = statistic(totals)
    known = results[np.isfinite(results)]
    if len(known) * 2 < n_boot:
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
