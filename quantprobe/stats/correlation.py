"""Correlations over a few dozen quants: points, bootstrap intervals, permutation p-values, all pairs at once.

A cohort has 3 to a few hundred quants and dozens of variables, so everything here is a matrix product over all pairs.
A bootstrap resample enters as weights (how often each quant was drawn), which makes ranks and signs of a resample
products of the weights with comparison matrices that are computed once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from quantprobe.arrays import BoolArray, FloatArray, Int64Array

METHODS = ("spearman", "kendall", "pearson")
MIN_FOR_INTERVAL = 5
"""Fewer quants have too few distinct resamples for a percentile interval."""
_CHUNK = 4_000_000
_TIE = 1e-9
"""Two correlations closer than this are the same one, summed in another order."""


@dataclass(frozen=True)
class Correlation:
    """One correlation over `n` quants; a missing number is None and `reason` says why."""

    method: str
    value: float | None
    low: float | None
    high: float | None
    level: float
    p: float | None
    n: int
    reason: str = ""


@dataclass(frozen=True)
class Resampling:
    """How many bootstrap resamples and permutations, from which seed, for which level."""

    n_boot: int = 2_000
    n_perm: int = 9_999
    seed: int = 0
    level: float = 0.95


def correlate(x: FloatArray, y: FloatArray, method: str, how: Resampling | None = None) -> Correlation:
    """`correlate_all` for one pair, `[n]` and `[n]`."""
    return correlate_all(np.asarray(x)[None, :], np.asarray(y)[None, :], method, how)[0][0]


def correlate_all(x: FloatArray, y: FloatArray, method: str, how: Resampling | None = None) -> list[list[Correlation]]:
    """Correlate each row of x with each row of y, over the quants where both are finite.

    Parameters
    ----------
    x, y
        `[n_x, n]` and `[n_y, n]` float64; NaN where a quant has no value.
    method
        "spearman" (average ranks), "kendall" (tau-b) or "pearson".
    how
        Bootstrap: percentile interval over resampled quants; a resample in which a variable is constant is left out,
        and there is no interval when more than half are or when n < 5.
        Permutation p: two-sided, share of permutations with an absolute value at least as large; all n! of them
        when they are at most `n_perm`, else `n_perm` random ones and the observed one.

    Returns
    -------
    list
        `result[i][j]` for x[i] and y[j]. With fewer than 3 quants or a constant variable the value is None.
    """
    how = how or Resampling()
    x, y = np.atleast_2d(np.asarray(x, np.float64)), np.atleast_2d(np.asarray(y, np.float64))
    finite_x, finite_y = np.isfinite(x), np.isfinite(y)
    result = [[_missing(method, how, 0, "no quant has both")] * len(y) for _ in range(len(x))]
    for mask_x, rows_x in _by_mask(finite_x):
        for mask_y, rows_y in _by_mask(finite_y):
            mask = mask_x & mask_y
            block = _correlate_block(x[np.ix_(np.array(rows_x), mask)], y[np.ix_(np.array(rows_y), mask)], method, how)
            for i, row in zip(rows_x, block, strict=True):
                for j, cell in zip(rows_y, row, strict=True):
                    result[i][j] = cell
    return result


def correlation_values(x: FloatArray, y: FloatArray, method: str) -> FloatArray:
    """`[n_x, n_y]` correlations of the rows of x and y, without NaN in; NaN out where a row is constant."""
    values: FloatArray = _weighted(np.ones((1, x.shape[1])), x, y, method)[0]
    return values


def draw_weights(n: int, n_boot: int, rng: np.random.Generator) -> FloatArray:
    """How often each of n quants occurs in each bootstrap resample, `[n_boot, n]`."""
    return rng.multinomial(n, np.full(n, 1 / n), size=n_boot).astype(np.float64)


def _by_mask(finite: BoolArray) -> Iterator[tuple[BoolArray, list[int]]]:
    groups: dict[bytes, list[int]] = {}
    for i, row in enumerate(finite):
        groups.setdefault(row.tobytes(), []).append(i)
    for rows in groups.values():
        yield finite[rows[0]], rows


def _missing(method: str, how: Resampling, n: int, reason: str) -> Correlation:
    return Correlation(method, None, None, None, how.level, None, n, reason)


def _correlate_block(x: FloatArray, y: FloatArray, method: str, how: Resampling) -> list[list[Correlation]]:
    n = x.shape[1]
    if n < 3:
        few = _missing(method, how, n, f"only {n} quants have both, at least 3 are needed")
        return [[few] * len(y) for _ in range(len(x))]
    rng = np.random.default_rng(how.seed)
    values = correlation_values(x, y, method)
    p_values = _permutation_p(x, y, values, method, how.n_perm, rng)
    low, high = _bootstrap_interval(x, y, method, how, rng)
    constant_x, constant_y = (np.ptp(side, axis=1) == 0 for side in (x, y))
    block: list[list[Correlation]] = []
    for i in range(len(x)):
        row: list[Correlation] = []
        for j in range(len(y)):
            if constant_x[i] or constant_y[j] or not math.isfinite(values[i, j]):
                row.append(_missing(method, how, n, f"all {n} quants have the same value"))
                continue
            ends = [float(end[i, j]) if math.isfinite(end[i, j]) else None for end in (low, high)]
            reason = "" if ends[0] is not None else f"no interval: {n} quants give too few distinct resamples"
            row.append(
                Correlation(method, float(values[i, j]), ends[0], ends[1], how.level, float(p_values[i, j]), n, reason)
            )
        block.append(row)
    return block


def _bootstrap_interval(
    x: FloatArray, y: FloatArray, method: str, how: Resampling, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    n = x.shape[1]
    nothing = np.full((len(x), len(y)), np.nan)
    if n < MIN_FOR_INTERVAL:
        return nothing, nothing
    weights = draw_weights(n, how.n_boot, rng)
    step = max(1, _CHUNK // (max(len(x), len(y), n) * n))
    resampled = np.concatenate(
        [_weighted(weights[i : i + step], x, y, method) for i in range(0, how.n_boot, step)]
    ).reshape(how.n_boot, -1)
    tails = [(1 - how.level) / 2, (1 + how.level) / 2]
    finite = np.isfinite(resampled)
    ends = np.full((2, resampled.shape[1]), np.nan)
    whole = finite.all(0)
    if whole.any():
        ends[:, whole] = np.quantile(resampled[:, whole], tails, axis=0)
    for column in np.flatnonzero(~whole & (finite.mean(0) >= 0.5)):
        ends[:, column] = np.quantile(resampled[finite[:, column], column], tails)
    return ends[0].reshape(nothing.shape), ends[1].reshape(nothing.shape)


def _weighted(weights: FloatArray, x: FloatArray, y: FloatArray, method: str) -> FloatArray:
    """Correlations under each row of weights, `[n_weights, n_x, n_y]`; NaN where a variable is constant."""
    if method == "kendall":
        return _weighted_kendall(weights, x, y)
    a, b = (_centred(weights, side, method) for side in (x, y))  # [n_weights, n_x, n]
    products = (a * weights[:, None, :]) @ b.transpose(0, 2, 1)
    spread_a, spread_b = (np.einsum("kin,kin,kn->ki", side, side, weights) for side in (a, b))
    return _divide(products, spread_a, spread_b)


def _centred(weights: FloatArray, values: FloatArray, method: str) -> FloatArray:
    """Values (pearson) or ranks within the resample (spearman), minus their weighted mean, `[n_weights, n_v, n]`."""
    n = weights.sum(1)[:, None, None]
    if method == "spearman":
        # the average rank of i is the weight below i plus half the weight tied with i, and a constant
        below = (values[:, :, None] < values[:, None, :]) + 0.5 * (values[:, :, None] == values[:, None, :])
        ranks: FloatArray = np.einsum("kj,vji->kvi", weights, below, optimize=True) - n / 2
        return ranks
    # centring first keeps large offsets (perplexities, sizes) from eating the digits
    values = values - values.mean(1, keepdims=True)
    scale = np.abs(values).max(1, keepdims=True)
    values = np.divide(values, scale, out=np.zeros_like(values), where=scale > 0)
    centred: FloatArray = values[None] - np.einsum("kn,vn->kv", weights, values, optimize=True)[:, :, None] / n
    return centred


def _weighted_kendall(weights: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    upper = np.triu_indices(x.shape[1], 1)
    signs_x, signs_y = (_pair_signs(side, upper) for side in (x, y))
    pairs = weights[:, upper[0]] * weights[:, upper[1]]
    concordance = np.stack([(pairs * sign) @ signs_y.T for sign in signs_x], axis=1)
    return _divide(concordance, pairs @ np.abs(signs_x).T, pairs @ np.abs(signs_y).T)


def _pair_signs(values: FloatArray, upper: tuple[Int64Array, Int64Array]) -> FloatArray:
    """-1, 0 or 1 for each pair of quants, `[n_v, n_pairs]`."""
    return np.asarray(np.sign(values[:, upper[0]] - values[:, upper[1]]), np.float64)


def _divide(products: FloatArray, spread_a: FloatArray, spread_b: FloatArray) -> FloatArray:
    spread = np.sqrt(spread_a[:, :, None] * spread_b[:, None, :])
    result = np.divide(products, spread, out=np.full_like(products, np.nan), where=spread > 1e-14)
    return np.clip(result, -1.0, 1.0)


def _permutation_p(
    x: FloatArray, y: FloatArray, values: FloatArray, method: str, n_perm: int, rng: np.random.Generator
) -> FloatArray:
    n = x.shape[1]
    exact = n <= 12 and math.factorial(n) <= n_perm
    orders = np.array(list(itertools.permutations(range(n)))) if exact else rng.random((n_perm, n)).argsort(1)
    at_least = np.abs(values) - _TIE
    n_extreme = np.zeros(values.shape)
    width = n * (n - 1) // 2 if method == "kendall" else n
    step = max(1, _CHUNK // max(width, len(x)))
    for start in range(0, len(orders), step):
        for j in range(len(y)):
            permuted = _permuted_values(x, y[j], orders[start : start + step], method)
            n_extreme[:, j] += (np.abs(permuted) >= at_least[:, j]).sum(0)
    return n_extreme / len(orders) if exact else (n_extreme + 1) / (n_perm + 1)


def _permuted_values(x: FloatArray, y: FloatArray, orders: Int64Array, method: str) -> FloatArray:
    """Correlations of each row of x with y in each order, `[n_orders, n_x]`."""
    if method == "kendall":
        upper = np.triu_indices(len(y), 1)
        signs_x, signs_y = _pair_signs(x, upper), np.sign(y[:, None] - y[None, :]).astype(np.float32)
        permuted = signs_y[orders[:, upper[0]], orders[:, upper[1]]]
        concordance = (permuted @ signs_x.T.astype(np.float32)).astype(np.float64)  # whole numbers, exact in float32
        pairs_y = float(np.abs(permuted[0]).sum())
        spread_y, spread_x = np.full((1, len(orders)), pairs_y), np.abs(signs_x).sum(1)[None]
        return np.asarray(_divide(concordance[None], spread_y, spread_x)[0])
    one = np.ones((1, len(y)))
    a, b = _centred(one, x, method)[0], _centred(one, y[None], method)[0, 0]
    spread_y = np.full((1, len(orders)), float(b @ b))
    return np.asarray(_divide((b[orders] @ a.T)[None], spread_y, (a * a).sum(1)[None])[0])
