"""The part of an error that all quants share: they answer the same items, so their means move together.

Resampling quants cannot see it, and more quants do not shrink it: an item near the boundary pushes every quant the same
way, the more the larger its KLD, which looks like a law of random sign. The covariance of the quants' means over
the items shows it, and the error of any contrast between quants follows from that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quantprobe.arrays import FloatArray, Int64Array
from quantprobe.stats.design import ItemDesign

_MIN_DOF = 0.1
"""Two clusters, one of them nearly all items: the error is all but unknown, and the interval all but endless."""


@dataclass(frozen=True, eq=False)
class ItemNoise:
    """How the means of `[n_rows]` quants over one set of items vary and covary when other items are drawn."""

    residuals: FloatArray
    """`[n_rows, n_clusters]`: the products of two rows sum to the covariance of their means."""
    strata: Int64Array
    """`[n_clusters]`, the stratum of each cluster."""
    dof: FloatArray
    """`[n_strata]`, degrees of freedom of each stratum's variance."""

    def covariance(self) -> FloatArray:
        """`[n_rows, n_rows]`, covariance of the means."""
        return self.residuals @ self.residuals.T

    def take(self, rows: Int64Array) -> ItemNoise:
        """The noise of these rows alone, in this order."""
        return ItemNoise(self.residuals[rows], self.strata, self.dof)

    def contrast(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Variance of weighted sums of the means, and Satterthwaite's degrees of freedom, for `[n, n_rows]` weights.

        The variance is that of the mean over items of u_i = sum over quants of w_q d_iq, within strata and
        between clusters. Where nothing varies the variance is 0 with the degrees of freedom of all strata together.
        """
        squares = (weights @ self.residuals) ** 2
        parts = _sum_by(self.strata, squares, len(self.dof))
        variance, spread = parts.sum(1), (parts**2 / self.dof).sum(1)
        whole = np.full(len(variance), self.dof.sum())
        return variance, np.divide(variance**2, spread, out=whole, where=spread > 0)


def item_noise(values: FloatArray, design: ItemDesign) -> ItemNoise | None:
    """The noise of the means of `[n_rows, n_items]` float64 values; None for fewer than two clusters.

    Within strata and between clusters: e_c = S_c - n_c * (mean of the stratum), scaled by
    1 / sqrt(1 - n_c / n_h) / n, so that for one row without strata the variance is that of Bell and McCaffrey (CR2),
    and for clusters of one item s^2 / n. A stratum has n_h^2 / sum(n_c^2) - 1 degrees of freedom. Strata of a single
    cluster say nothing about their spread; they are taken as one stratum together.
    """
    codes = np.unique(design.clusters, return_inverse=True)[1]
    sizes = np.bincount(codes).astype(np.float64)
    strata = np.zeros(len(sizes), np.int64)
    strata[codes] = design.strata
    if len(sizes) == len(codes):
        sums = np.empty_like(values, dtype=np.float64)
        sums[:, codes] = values
    else:
        sums = _sum_by(codes, values, len(sizes))
    return noise_of_sums(sums, sizes, strata)


def noise_of_sums(sums: FloatArray, sizes: FloatArray, strata: Int64Array | None = None) -> ItemNoise | None:
    """`item_noise` from the sums over each cluster, `[n_rows, n_clusters]`, and the clusters' sizes, `[n_clusters]`."""
    if len(sizes) < 2:
        return None
    strata = _with_company(np.zeros(len(sizes), np.int64) if strata is None else strata)
    in_stratum = np.bincount(strata, sizes)
    means = _sum_by(strata, sums, len(in_stratum)) / in_stratum
    scale = np.sqrt(1 - sizes / in_stratum[strata]) * sizes.sum()
    dof = in_stratum**2 / np.bincount(strata, sizes**2) - 1
    return ItemNoise((sums - means[:, strata] * sizes) / scale, strata, np.maximum(dof, _MIN_DOF))


def _sum_by(codes: Int64Array, rows: FloatArray, n: int) -> FloatArray:
    """Sums of `[n_rows, n_values]` over the values of each code, `[n_rows, n]`."""
    return np.array([np.bincount(codes, row, n) for row in rows]).reshape(len(rows), n)


def _with_company(strata: Int64Array) -> Int64Array:
    """Strata numbered from 0, those of a single cluster joined into one, and that into the first if it is alone."""
    codes, counts = np.unique(strata, return_inverse=True, return_counts=True)[1:]
    lonely = counts[codes] == 1
    if lonely.any():
        codes = np.where(lonely, len(counts), codes)
        if lonely.sum() == 1:
            codes[lonely] = codes[~lonely].min()
    return np.asarray(np.unique(codes, return_inverse=True)[1], np.int64)
