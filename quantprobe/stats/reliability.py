"""How much of the spread between quants another set of items would show again, and what that leaves to find."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from quantprobe.arrays import FloatArray, Int64Array
from quantprobe.stats.item_contrast import ItemNoise
from quantprobe.stats.permutations import centre


@dataclass(frozen=True)
class Reliability:
    """The share of the variance between quants that is not noise of the items, 0 to 1; None with a reason."""

    value: float | None
    low: float | None
    high: float | None
    level: float
    n_quants: int
    reason: str = ""


def reliability(scores: FloatArray, noise: ItemNoise, families: Int64Array, level: float = 0.95) -> Reliability:
    """1 - (variance that the items alone make) / (variance between the quants), within families.

    The expectation of a split-half reliability over all splits, stepped up to all items (`[n_quants]` scores, whose
    noise has the same rows). The interval is that of an intraclass correlation: the ratio of the variances
    over its expectation is about F distributed, with the degrees of freedom of the noise between quants (fewer than
    quants less families, where a few noisy quants make most of it). All three are cut to 0 and 1 at the end, so
    that a low value comes with what it could be instead of a bare 0.
    """
    n = len(scores)
    n_free = n - len(np.unique(families))
    if n_free < 2:
        return Reliability(None, None, None, level, n, f"{n} quants are too few")
    observed = float((centre(scores, families) ** 2).sum()) / n_free
    residuals = centre(noise.residuals.T, families).T
    covariance = residuals @ residuals.T
    expected = float(np.trace(covariance)) / n_free
    if observed == 0 or expected == 0:
        return Reliability(None, None, None, level, n, "all quants have equal scores or no noise at all")
    ratio = observed / expected
    between = max(1.0, float(np.trace(covariance) ** 2 / (covariance**2).sum()))
    tails = special.fdtri(between, float(noise.dof.sum()), np.array([(1 + level) / 2, (1 - level) / 2]))
    value, low, high = (min(max(1 - part, 0.0), 1.0) for part in (1 / ratio, tails[0] / ratio, tails[1] / ratio))
    return Reliability(value, low, high, level, n)


def attenuation_ceiling(a: Reliability, b: Reliability) -> tuple[float | None, float | None]:
    """From where to where the largest correlation lies that scores of these reliabilities can show, sqrt(r_a r_b).

    From both low ends and both high ends, so wider than needed; an unknown reliability of b counts as 1.
    """
    if a.low is None or a.high is None:
        return None, None
    low, high = (1.0, 1.0) if b.low is None or b.high is None else (b.low, b.high)
    return math.sqrt(a.low * low), math.sqrt(a.high * high)
