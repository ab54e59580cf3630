"""Means and ratios of items as estimates, over the items where they are known."""

from __future__ import annotations

import numpy as np
from scipy import special

from quantprobe.arrays import FloatArray
from quantprobe.stats.estimates import Estimate, Grouping, cluster_mean, part_of

__all__ = ["cluster_mean", "mean_of_known", "ratio_of_known"]


def mean_of_known(values: FloatArray, grouping: Grouping, unit: str, level: float) -> Estimate:
    """`cluster_mean` as an Estimate over the finite values, which its n counts; no value where there are none."""
    known = np.isfinite(values)
    if not known.any():
        return Estimate(None, None, None, None, level, 0, 0, unit)
    return cluster_mean(values[known], part_of(grouping, known)).estimate(unit, level)


def ratio_of_known(values: FloatArray, grouping: Grouping, level: float) -> Estimate:
    """sum x / sum |x| over the finite values, -1 to 1; no value where all are 0 or none is known.

    Linearised: the error of R is that of the mean of (x - R |x|), over the mean of |x|. The interval is a t interval of
    artanh R, which keeps it inside -1 to 1.
    """
    known = np.isfinite(values)
    x = values[known]
    size = float(np.abs(x).sum())
    if size == 0:
        return Estimate(None, None, None, None, level, len(x), 0, "ratio")
    ratio = float(x.sum()) / size
    error = cluster_mean(x - ratio * np.abs(x), part_of(grouping, known))
    stderr = None if error.stderr is None else error.stderr * len(x) / size
    low, high = None, None
    if stderr is not None and abs(ratio) < 1:
        half = float(special.stdtrit(error.dof, (1 + level) / 2)) * stderr / (1 - ratio**2)
        low, high = (float(np.tanh(np.arctanh(ratio) + side * half)) for side in (-1, 1))
    return Estimate(ratio, stderr, low, high, level, len(x), error.n_clusters, "ratio")
