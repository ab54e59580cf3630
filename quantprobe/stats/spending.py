"""Group-sequential boundaries: how far out an estimate must lie at each look, when one looks several times.

An estimate that grows by nested sampling has independent increments in information, as a mean that grows by further
items has: for looks j < k the covariance of two Horvitz-Thompson means is the variance of the later one. So the
standardised estimates of all looks have correlations sqrt(t_j / t_k), t the fraction of the final information, and the
boundaries follow by numerical integration (Armitage, McPherson and Rowe, 1969). The error spent up to a look is
fixed by its information fraction alone (Lan and DeMets, 1983), so looks need not be planned, and a run may go on later.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special

from quantprobe.arrays import FloatArray

SPENDING_POWER = 3.0
"""alpha(t) = alpha t^3 (Kim and DeMets, 1987). Six looks at .05 end with 2.13 as against 2.16 with O'Brien and
Fleming's spending, and begin with 3.5 as against 4.3, which decides near and far quants earlier."""

_MAX_QUANTILE = 12.0
_MIN_STEP = 1e-4
_MIN_ERROR = 1e-15


def spent_errors(fractions: Sequence[float], alpha: float) -> FloatArray:
    """The two-sided error spent up to each information fraction in (0, 1]: alpha t^3; `[n_looks]` float64."""
    return alpha * np.minimum(np.asarray(fractions, dtype=np.float64), 1.0) ** SPENDING_POWER


def boundaries(fractions: Sequence[float], spent: FloatArray) -> FloatArray:
    """The normal quantiles c_k with P(|Z_j| > c_j for some j <= k) = spent_k without an effect; `[n_looks]` float64.

    `fractions` are the information fractions, which must not fall; `spent` the errors spent up to each. A look that
    adds less than 1e-4 of the information keeps the boundary of the one before, and leaves its error to the next; a
    first look like that is never crossed (infinity).
    """
    quantiles = np.full(len(fractions), np.inf)
    before, used = _Score(0.0, np.zeros(1), np.ones(1)), 0.0
    steps = np.sqrt(np.maximum(np.diff(fractions, prepend=0.0), _MIN_STEP))
    for k, fraction in enumerate(fractions):
        error = float(spent[k]) - used
        if fraction - before.fraction < _MIN_STEP or error <= _MIN_ERROR:
            quantiles[k] = quantiles[k - 1] if k else np.inf
            continue
        quantiles[k] = before.quantile(fraction, error)
        if k + 1 < len(fractions):
            before = before.advance(fraction, float(quantiles[k]), float(steps[k : k + 2].min()))
        used = float(spent[k])
    return quantiles


@dataclass(frozen=True, eq=False)
class _Score:
    """The score Z sqrt(t) of the runs that no look has stopped yet, as masses at nodes."""

    fraction: float
    nodes: FloatArray
    masses: FloatArray

    def quantile(self, fraction: float, error: float) -> float:
        from scipy import optimize  # most runs stop at no look, and need none of it

        spread = (fraction - self.fraction) ** 0.5

        def excess(quantile: float) -> float:
            reach = quantile * fraction**0.5
            tails = special.ndtr((self.nodes - reach) / spread) + special.ndtr((-reach - self.nodes) / spread)
            return float(self.masses @ tails) - error

        return float(optimize.brentq(excess, 0.0, _MAX_QUANTILE, xtol=1e-9))

    def advance(self, fraction: float, quantile: float, detail: float) -> _Score:
        """The score at a look, nodes being closer than `detail`, the spread of the steps before and after."""
        spread = (fraction - self.fraction) ** 0.5
        reach = quantile * fraction**0.5
        points, weights = _gauss_legendre(min(800, 50 * math.ceil(0.1 * reach / detail)))
        nodes = points * reach
        density = np.exp(-0.5 * ((nodes[:, None] - self.nodes) / spread) ** 2) @ self.masses
        return _Score(fraction, nodes, density * weights * reach / (spread * (2 * np.pi) ** 0.5))


@lru_cache(maxsize=16)
def _gauss_legendre(n: int) -> tuple[FloatArray, FloatArray]:
    points, weights = special.roots_legendre(n)
    return points, weights
