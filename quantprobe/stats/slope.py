"""The slope of a change on a measure over quants, with an error that knows both the quants and the items they share.

Two parts make the error of a slope b = sum_q w_q y_q:

* the items: w' S w, S the covariance of the quants' means over the items (`item_contrast`);
* the quants: tau^2 w' w, tau^2 the scatter of the quants around the line beyond what the items explain
  (method of moments, not below 0).

Their sum is the variance, with Satterthwaite's degrees of freedom; the p is the larger of that t test's and of a
permutation of the quants, so that a claim needs both. The interval holds exactly the slopes that this test does not
reject. `bench/study_simulation.py` measures both against permutations alone and against the item test alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from quantprobe.arrays import BoolArray, FloatArray, Int64Array
from quantprobe.stats.item_contrast import ItemNoise
from quantprobe.stats.permutations import block_orders, centre, smallest_p

_TIE = 1e-9
_ROUNDS = 3


@dataclass(frozen=True, eq=False)
class Fold:
    """The change of some quants over one set of items."""

    quants: Int64Array
    """Places of the quants among those of the measure, `[n]`."""
    change: FloatArray
    """`[n]` float64."""
    noise: ItemNoise
    """Its rows are those of `change`."""


@dataclass(frozen=True)
class Slope:
    """Change per unit of the measure, in the unit of the change; None with a `reason` where it does not exist."""

    value: float | None
    low: float | None
    high: float | None
    level: float
    narrow_low: float | None
    """The interval of an equivalence test (two one-sided tests), at `narrow_level`."""
    narrow_high: float | None
    narrow_level: float
    p: float | None
    """The larger of the joint t test's p and of `p_quants`."""
    p_quants: float | None
    """Of the permutation of quants alone."""
    detectable: float | None
    """The slope that would be found with 80 % probability."""
    item_share: float | None
    """The items' share of the variance, 0 to 1."""
    n: int
    """Quants."""
    smallest_p: float
    """The smallest p that permuting so few quants can give."""
    reason: str = ""


@dataclass(frozen=True, eq=False)
class SlopeFit:
    """A fitted slope before a level is chosen."""

    value: float
    stderr: float
    dof: float
    item_share: float
    lower: FloatArray
    """For each order of the quants the smallest slope at which it is at least as extreme as the quants' own, sorted."""
    upper: FloatArray
    p_quants: float
    n_extra: int
    """1 where the orders are random, so that the own order is counted besides; 0 where they are all orders."""
    n: int
    smallest_p: float

    @property
    def p(self) -> float:
        """The larger of the two p of a slope of 0."""
        if self.stderr == 0:
            joint = 1.0 if self.value == 0 else 0.0
        else:
            joint = min(1.0, float(2 * special.stdtr(self.dof, -abs(self.value) / self.stderr)))
        return max(joint, self.p_quants)

    def at(self, level: float, narrow_level: float = 0.9) -> Slope:
        """The slope with its interval at `level`, which excludes 0 exactly where p <= 1 - level."""
        low, high = self._interval(level)
        narrow = self._interval(narrow_level)
        quantiles = special.stdtrit(self.dof, np.array([(1 + level) / 2, 0.8]))
        return Slope(
            value=self.value,
            low=low,
            high=high,
            level=level,
            narrow_low=narrow[0],
            narrow_high=narrow[1],
            narrow_level=narrow_level,
            p=self.p,
            p_quants=self.p_quants,
            detectable=float(quantiles.sum()) * self.stderr,
            item_share=self.item_share,
            n=self.n,
            smallest_p=self.smallest_p,
        )

    def _interval(self, level: float) -> tuple[float | None, float | None]:
        alpha = 1 - level
        if self.smallest_p > alpha + _TIE:  # no order of so few quants rejects any slope
            return None, None
        total = len(self.lower) + self.n_extra
        # as many orders must reach a slope that is not rejected
        needed = math.floor(alpha * total - self.n_extra + _TIE) + 1
        half = float(special.stdtrit(self.dof, (1 + level) / 2)) * self.stderr
        low, high = self.value - half, self.value + half
        if 0 < needed <= len(self.lower):
            low = min(low, float(self.lower[needed - 1]))
            high = max(high, float(self.upper[-needed]))
        if self.p > alpha:  # rounding of ties
            low, high = min(low, 0.0), max(high, 0.0)
        return (low if math.isfinite(low) else None), (high if math.isfinite(high) else None)


def no_slope(reason: str, n: int, level: float = 0.95, narrow_level: float = 0.9) -> Slope:
    """A slope that does not exist."""
    return Slope(None, None, None, level, None, None, narrow_level, None, None, None, None, n, 1.0, reason)


def fit_slope(
    x: FloatArray,
    folds: Sequence[Fold],
    families: Int64Array,
    spread: FloatArray | None = None,
    n_perm: int = 9_999,
    seed: int = 0,
) -> SlopeFit | str:
    """One slope common to all families, each with a level of its own; why there is none where it cannot be fitted.

    Parameters
    ----------
    x
        `[n_quants]` finite measure, for example ln KLD.
    folds
        Change of some of the quants over items of its own; the slope is the mean over the folds. Several folds must
        have different items: their item errors are independent, the quants' scatter is taken as the same.
    families
        `[n_quants]`. Quants are compared within families, and permuted within them. A family of one says nothing
        and is left out.
    spread
        `[n_quants]` what the variance of the item noise is taken to be proportional to, for the weights of the fit
        (the answers that change grow with sqrt(KLD)); all alike if not given. It costs precision where wrong,
        never validity.
    n_perm, seed
        Of the permutations; all of them where there are no more.

    Notes
    -----
    Weights are 1 / (item variance + tau^2). The permutation tests the unweighted slope, as its order must not depend
    on the quants; its interval is the set of slopes b at which the order of y - b x is not extreme, which is
    closed-form: for each order the slopes at which it beats the quants' own lie between two roots.
    """
    shape = np.ones(len(x)) if spread is None else spread
    folds = [_without_single(fold, families) for fold in folds]
    fits = []
    for fold in folds:
        n_families = len(np.unique(families[fold.quants]))
        if len(fold.quants) - n_families < 2:
            return f"{len(fold.quants)} quants in {n_families or 'no'} families are too few"
        if np.ptp(centre(x[fold.quants], families[fold.quants])) < _TIE:
            return "all quants have the same KLD"
        fits.append(_weighted_fit(x[fold.quants], fold, families[fold.quants], shape[fold.quants]))
    by_items = np.array([fit.item_variance for fit in fits]) / len(fits) ** 2
    item_dof = np.array([fit.item_dof for fit in fits])
    scatter, observed = (
        np.mean([math.sqrt(part) for part in parts]) ** 2
        for parts in ([fit.scatter for fit in fits], [fit.observed for fit in fits])
    )
    variance = float(by_items.sum() + scatter)
    shares = np.append(by_items, observed) / (variance or 1.0)
    rough = float((shares**2 / np.append(item_dof, min(fit.dof for fit in fits))).sum())
    lower, upper, p_quants, n_extra, least_p = _permute(x, folds, families, n_perm, seed)
    return SlopeFit(
        value=float(np.mean([fit.slope for fit in fits])),
        stderr=math.sqrt(variance),
        dof=1 / rough if rough > 0 else float(item_dof.sum()),
        item_share=float(by_items.sum() / variance) if variance > 0 else 1.0,
        lower=lower,
        upper=upper,
        p_quants=p_quants,
        n_extra=n_extra,
        n=len(np.unique(np.concatenate([fold.quants for fold in folds]))),
        smallest_p=least_p,
    )


@dataclass(frozen=True)
class _Fit:
    slope: float
    item_variance: float
    item_dof: float
    scatter: float
    """tau^2 w' w."""
    observed: float
    """The same before the items' part is taken off; its degrees of freedom are `dof`."""
    dof: int


def _without_single(fold: Fold, families: Int64Array) -> Fold:
    codes, counts = np.unique(families[fold.quants], return_inverse=True, return_counts=True)[1:]
    keep = np.flatnonzero(counts[codes] > 1)
    return Fold(fold.quants[keep], fold.change[keep], fold.noise.take(keep))


def _weighted_fit(x: FloatArray, fold: Fold, families: Int64Array, shape: FloatArray) -> _Fit:
    covariance = fold.noise.covariance()
    noise = shape * (np.trace(covariance) / shape.sum())
    codes = np.unique(families, return_inverse=True)[1]
    design = np.column_stack([codes[:, None] == np.arange(codes.max() + 1), x - x.mean()]).astype(np.float64)
    tau = float(noise.mean()) or 1.0
    for _ in range(_ROUNDS):
        weights = 1 / (noise + tau)
        weights /= weights.sum()
        solved = np.linalg.solve(design.T @ (weights[:, None] * design), design.T * weights)
        rest = np.eye(len(x)) - design @ solved
        spread = rest.T @ (weights[:, None] * rest)
        own = float(np.trace(spread))
        found = max(0.0, float(fold.change @ spread @ fold.change))
        tau = max(0.0, (found - float((spread * covariance).sum())) / own)
        if not noise.any() and not tau:
            break
    w = solved[-1]
    variance, dof = fold.noise.contrast(w[None])
    size = float(w @ w)
    n_free = len(x) - design.shape[1]
    return _Fit(float(w @ fold.change), float(variance[0]), float(dof[0]), tau * size, found / own * size, n_free)


def _permute(
    x: FloatArray, folds: Sequence[Fold], families: Int64Array, n_perm: int, seed: int
) -> tuple[FloatArray, FloatArray, float, int, float]:
    """Ends of the slopes that each order does not reject, sorted; p of 0; whether the own order counts besides.

    Quants move among those of their family that are in the same folds. For an order, a and c are the slopes of the
    permuted change and of the permuted measure; a slope b is not rejected by it where |a - b c| >= |a0 - b|.
    """
    n = len(x)
    inside = np.zeros((len(folds), n), np.bool_)
    for row, fold in zip(inside, folds, strict=True):
        row[fold.quants] = True
    used = np.flatnonzero(inside.any(0))
    blocks = np.unique(np.vstack([families, inside])[:, used], axis=1, return_inverse=True)[1].ravel()
    orders, is_whole = block_orders(blocks, n_perm, seed)
    of_change, of_measure, own = np.zeros(len(orders)), np.zeros(len(orders)), 0.0
    for fold in folds:
        centred, change = np.zeros(n), np.zeros(n)
        centred[fold.quants] = centre(x[fold.quants], families[fold.quants])
        centred /= (centred @ centred) * len(folds)
        change[fold.quants] = fold.change
        own += float(centred @ change)
        of_change += change[used][orders] @ centred[used]
        of_measure += x[used][orders] @ centred[used]
    roots = np.stack(
        [(own - of_change) / np.maximum(1 - of_measure, _TIE), (own + of_change) / np.maximum(1 + of_measure, _TIE)]
    )
    lower, upper = np.minimum(*roots), np.maximum(*roots)
    tie = _TIE * max(float(np.abs(of_change).max()), 1e-300)
    # the own order, one that differs by ties alone, and their mirror images are as extreme at every slope
    same: BoolArray = of_measure > 1 - _TIE
    same |= (of_measure < _TIE - 1) & (np.abs(own + of_change) <= tie)
    lower[same], upper[same] = -np.inf, np.inf
    reached = int(((lower <= tie) & (upper >= -tie)).sum())
    n_extra, least = (0 if is_whole else 1), smallest_p(blocks)
    p = (reached + n_extra) / (len(orders) + n_extra)
    return np.sort(lower), np.sort(upper), max(p, least), n_extra, least
