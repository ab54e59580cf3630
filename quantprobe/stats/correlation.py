"""Correlations over a few dozen quants, within families, with p and intervals that know the items they share.

All measures against one target are one matrix product: a cohort has dozens of measures and some hundred quants at most.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from quantprobe.arrays import BoolArray, FloatArray, Int64Array
from quantprobe.stats.item_contrast import ItemNoise
from quantprobe.stats.permutations import block_orders, centre

METHODS = ("spearman", "pearson")
MIN_FOR_INTERVAL = 5
"""Fisher's interval of fewer quants is all but [-1, 1]."""
NO_ITEMS = "no items are known, so the error that they share is unknown"
_CHUNK = 4_000_000
_TIE = 1e-9
"""Two correlations closer than this are the same one, summed in another order."""
_MAX_INFLATION = 25.0
_MOST = 0.999999
"""A Pearson correlation counts as this at most: Fisher's z of 1 is infinite."""


@dataclass(frozen=True)
class Correlation:
    """One correlation over `n` quants; a missing number is None and `reason` says why."""

    method: str
    value: float | None
    low: float | None
    high: float | None
    level: float
    p: float | None
    """The larger of the permutation's and of the joint test's p; None where the items are unknown."""
    n: int
    reason: str = ""


@dataclass(frozen=True)
class Resampling:
    """How many bootstrap resamples and permutations, from which seed, for which level."""

    n_boot: int = 2_000
    n_perm: int = 9_999
    seed: int = 0
    level: float = 0.95


@dataclass(frozen=True, eq=False)
class Target:
    """A number per quant, `[n]`, and how its items make it vary; NaN where a quant has none."""

    values: FloatArray
    noise: ItemNoise | None = None
    """Rows are the quants; a row of NaN is a quant whose items are unknown, which is left out."""


def correlate_all(
    measures: FloatArray,
    targets: Sequence[Target],
    method: str,
    families: Int64Array | None = None,
    how: Resampling | None = None,
) -> list[list[Correlation]]:
    """Correlate each measure with each target within families, over the quants for which both are known.

    Parameters
    ----------
    measures
        `[n_measures, n]` float64; NaN where a quant has no value.
    targets
        Of `[n]` quants each.
    method
        "spearman": average ranks within each family; "pearson". Both are centred within families, so that families
        at different levels make no correlation, and are the ordinary ones for a single family.
    families
        `[n]`; one family if not given.
    how
        The permutations: all orders within families where they are at most `n_perm`, else `n_perm` random ones and
        the observed one; two-sided.

    Returns
    -------
    list
        `result[i][j]` for measures[i] and targets[j]. With fewer than 3 quants beyond one for each family or a constant
        variable the value is None; where the items are unknown there is a value without p and interval.

    Notes
    -----
    p is the larger of the permutation's and of a t test of the target's slope on the ranks (or values), whose error has
    the items and the quants as in `slope.py`, unweighted. The interval is Fisher's, for Spearman with Bonett and
    Wright's variance (1 + r^2 / 2) / (n - 3), widened by the ratio of that joint variance to the one that sees the
    quants alone. It is for the correlation that cohorts of this kind show through so many items, not for one
    without their noise. Where it and p disagree about 0, p decides and the interval is drawn to fit. Ranks in perfect
    order, where Fisher's z is infinite, count as half a swap of two neighbours less, and the interval ends at 1.
    """
    how = how or Resampling()
    families = np.zeros(measures.shape[1], np.int64) if families is None else families
    result = [[Correlation(method, None, None, None, how.level, None, 0)] * len(targets) for _ in measures]
    for mask, rows in _by_mask(np.isfinite(measures)):
        for j, target in enumerate(targets):
            known = mask & np.isfinite(target.values)
            if target.noise is not None:
                known &= np.isfinite(target.noise.residuals[:, :1]).all(1)
            at = np.flatnonzero(known)
            noise = None if target.noise is None else target.noise.take(at)
            cells = _correlate(
                measures[np.ix_(np.array(rows), at)], target.values[at], noise, families[at], method, how
            )
            for i, cell in zip(rows, cells, strict=True):
                result[i][j] = cell
    return result


def correlation_values(x: FloatArray, y: FloatArray, method: str, families: Int64Array | None = None) -> FloatArray:
    """`[n_x]` correlations of the rows of `[n_x, n]` x with y, without NaN in; NaN out where a side is constant."""
    families = np.zeros(len(y), np.int64) if families is None else families
    return _values(*(_centred(side, families, method) for side in (x, y[None])))


def draw_weights(n: int, n_boot: int, rng: np.random.Generator) -> FloatArray:
    """How often each of n things occurs in each bootstrap resample, `[n_boot, n]`."""
    return rng.multinomial(n, np.full(n, 1 / n), size=n_boot).astype(np.float64)


def _by_mask(finite: BoolArray) -> Iterator[tuple[BoolArray, list[int]]]:
    groups: dict[bytes, list[int]] = {}
    for i, row in enumerate(finite):
        groups.setdefault(row.tobytes(), []).append(i)
    for rows in groups.values():
        yield finite[rows[0]], rows


def _correlate(
    x: FloatArray, y: FloatArray, noise: ItemNoise | None, families: Int64Array, method: str, how: Resampling
) -> list[Correlation]:
    n, n_families = len(y), len(np.unique(families))
    empty = Correlation(method, None, None, None, how.level, None, n, f"{n} quants are too few")
    if n - n_families < 2:
        return [empty] * len(x)
    a, b = (_centred(side, families, method) for side in (x, y[None]))
    values = _values(a, b)
    constant = Correlation(method, None, None, None, how.level, None, n, f"all {n} quants have the same value")
    if noise is None:
        bare = [Correlation(method, float(r), None, None, how.level, None, n, NO_ITEMS) for r in values]
        return [cell if math.isfinite(r) else constant for cell, r in zip(bare, values, strict=True)]
    p_quants = _permutation_p(a, b[0], families, how)
    p_joint, inflation = _joint(a, centre(y, families), noise, families)
    # a swap of two neighbours takes 1 / sum of squares from a rank correlation
    most = 1 - 0.5 / np.maximum((a * a).sum(1), 1.0) if method == "spearman" else np.full(len(x), _MOST)
    cells = []
    for r, p, factor, limit in zip(values, np.maximum(p_quants, p_joint), inflation, most, strict=True):
        if not math.isfinite(r):
            cells.append(constant)
            continue
        low, high = _interval(float(r), float(limit), float(p), float(factor), n - n_families, method, how.level)
        reason = "" if low is not None else f"no interval: {n} quants are too few"
        cells.append(Correlation(method, float(r), low, high, how.level, float(p), n, reason))
    return cells


def _centred(values: FloatArray, families: Int64Array, method: str) -> FloatArray:
    """Values, or their ranks within each family, minus the family's mean, `[n_rows, n]`."""
    if method == "spearman":
        from scipy.stats import rankdata  # takes a third of a second

        ranks = np.empty(values.shape)
        for family in np.unique(families):
            ranks[:, families == family] = rankdata(values[:, families == family], axis=1)
        return centre(ranks, families)
    # centring and scaling first keeps large offsets (perplexities, sizes) from eating the digits
    centred = centre(values - values.mean(1, keepdims=True), families)
    scale = np.abs(centred).max(1, keepdims=True)
    tiny = scale <= 1e-12 * np.abs(values).max(1, keepdims=True)
    scaled: FloatArray = np.divide(centred, scale, out=np.zeros_like(centred), where=~tiny & (scale > 0))
    return scaled


def _values(a: FloatArray, b: FloatArray) -> FloatArray:
    spread = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    values = np.divide((a * b).sum(1), spread, out=np.full(len(a), np.nan), where=spread > _TIE)
    return np.asarray(np.clip(values, -1.0, 1.0), np.float64)


def _permutation_p(a: FloatArray, b: FloatArray, families: Int64Array, how: Resampling) -> FloatArray:
    orders, is_whole = block_orders(families, how.n_perm, how.seed)
    scale = np.sqrt((a * a).sum(1) * (b @ b))
    at_least = np.abs(a @ b) - _TIE * scale
    step = max(1, _CHUNK // max(a.shape))
    n_extreme = sum((np.abs(b[orders[i : i + step]] @ a.T) >= at_least).sum(0) for i in range(0, len(orders), step))
    return np.asarray(n_extreme / len(orders) if is_whole else (n_extreme + 1) / (len(orders) + 1), np.float64)


def _joint(a: FloatArray, y: FloatArray, noise: ItemNoise, families: Int64Array) -> tuple[FloatArray, FloatArray]:
    """p of the slope of y on each row of a, and its joint variance over the one that the quants alone show."""
    size = np.maximum((a * a).sum(1), _TIE)
    slopes = a @ y / size
    item_variance, item_dof = noise.contrast(a / size[:, None])
    n_free = len(y) - len(np.unique(families)) - 1
    # covariance of the centred means: trace of the part that the line leaves
    residuals = centre(noise.residuals.T, families)
    expected = (float((residuals**2).sum()) - size * item_variance) / n_free / size
    observed = np.maximum(float(y @ y) - slopes**2 * size, 0.0) / n_free / size
    variance = item_variance + np.maximum(observed - expected, 0.0)
    is_known = variance > _TIE**2 * float(y @ y) / size
    shares = [np.divide(part, variance, out=np.ones(len(a)), where=is_known) for part in (observed, item_variance)]
    dof = 1 / (shares[0] ** 2 / n_free + shares[1] ** 2 / item_dof)
    ratio = np.divide(np.abs(slopes), np.sqrt(variance), out=np.full(len(a), np.inf), where=is_known)
    ratio[slopes == 0] = 0.0
    inflation = np.divide(variance, observed, out=np.full(len(a), _MAX_INFLATION), where=observed > 0)
    return np.minimum(2 * special.stdtr(dof, -ratio), 1.0), np.clip(inflation, 1.0, _MAX_INFLATION)


def _interval(
    r: float, limit: float, p: float, inflation: float, n: int, method: str, level: float
) -> tuple[float | None, float | None]:
    """Fisher's interval; `n` is the number of quants less the families, `limit` what |r| counts as at most."""
    if n + 1 < MIN_FOR_INTERVAL:
        return None, None
    centre_z = math.atanh(min(max(r, -limit), limit))
    quantile = float(special.ndtri((1 + level) / 2))
    extra = 1 + r * r / 2 if method == "spearman" else 1.0
    half = quantile * math.sqrt(extra * inflation / (n - 2))
    if (abs(centre_z) > half) != (p <= 1 - level):
        half = abs(centre_z) * quantile / max(float(-special.ndtri(p / 2)), 1e-3)
    if p > 1 - level:
        half = max(half, abs(centre_z))
    return min(r, math.tanh(centre_z - half)), max(r, math.tanh(centre_z + half))
