"""Two-level designs: which groups are restored in which run, and the contrasts that a design can estimate.

A run is a row of booleans, one for each group, True for restored. In a Hadamard design every run informs every group:
with N runs the effect of a group is the mean of N/2 runs less the mean of the other N/2, so what varies from run to run
by itself enters its variance as 4/N, and one group at a time as 2. The price: effects are averages over the states of
the other groups, and in N runs the effect of a group is confounded with products of two others (resolution III). The
fold-over, the same runs with every state reversed, separates them (resolution IV). Plackett and Burman, Biometrika 33
(1946); Paley, J. Math. Phys. 12 (1933).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from quantprobe.arrays import BoolArray, FloatArray

SINGLE, HADAMARD, FOLDOVER = "single", "hadamard", "foldover"
RESTORED, ALONE, BOTH, AVERAGED = "restored", "alone", "both", "averaged"
_SAME = 1e-9


@dataclass(frozen=True, eq=False)
class Contrasts:
    """Weighted sums of runs; every row of `weights`, `[n, n_runs]`, sums to 0."""

    names: tuple[str, ...]
    weights: FloatArray


@dataclass(frozen=True, eq=False)
class Design:
    """The runs of a design, `[n_runs, n_groups]`; the last two are nothing restored and all restored."""

    kind: str
    runs: BoolArray
    effects: dict[str, FloatArray]
    """By way (`restored`, `alone`, `averaged`), restored less not for every group, `[n_groups, n_runs]`."""

    @property
    def n_groups(self) -> int:
        return int(self.runs.shape[1])

    @property
    def n_hybrids(self) -> int:
        """Different runs that are neither the base nor the quant themselves."""
        return len({row.tobytes() for row in self.runs if row.any() and not row.all()})

    def total(self) -> FloatArray:
        """The contrast of everything restored less nothing, `[n_runs]`."""
        weights = np.zeros(len(self.runs))
        weights[-2:] = -1, 1
        return weights

    def additivity(self) -> Contrasts:
        """Contrasts that are 0 where the effects of groups add up.

        The sum of all effects less the total, and where runs are left over after the effects, as many columns of the
        design as no group has.
        """
        rows = [weights.sum(0) - self.total() for weights in self.effects.values()]
        names = [f"sum of the effects ({way})" for way in self.effects]
        if self.kind == HADAMARD:
            spare = hadamard_matrix(len(self.runs) - 1)[:, self.n_groups + 1 :].T / (len(self.runs) - 1)
            for number, column in enumerate(spare):
                rows.append(_in_hadamard_order(2 * column, len(self.runs)))
                names.append(f"spare column {number + 1}")
        return _independent(names, np.array(rows))

    def interactions(self) -> Contrasts:
        """Of a fold-over, the contrasts of products of two groups, named by their numbers as `3x7, 1x4`.

        Products that the design cannot tell apart are one contrast. Half the difference between the effect of one
        group with the other restored and without it. Other designs have none.
        """
        if self.kind != FOLDOVER:
            return Contrasts((), np.zeros((0, len(self.runs))))
        signs = np.where(self.runs, 1.0, -1.0)
        names: dict[bytes, list[str]] = {}
        rows: list[FloatArray] = []
        for a, b in itertools.combinations(range(self.n_groups), 2):
            row = signs[:, a] * signs[:, b]
            if (row == row[0]).all():  # a product that is the same in every run
                continue
            if row.tobytes() not in names:
                rows.append((row - row.mean()) * 2 / len(signs))
            names.setdefault(row.tobytes(), []).append(f"{a}x{b}")
        return Contrasts(tuple(map(", ".join, names.values())), np.array(rows).reshape(len(rows), len(signs)))


def single_design(n_groups: int, way: str = RESTORED) -> Design:
    """One group at a time: `restored` into the quant, `alone` left of the quant in the base, or `both`."""
    one = np.eye(n_groups, dtype=np.bool_)
    parts = {RESTORED: [one], ALONE: [~one], BOTH: [one, ~one]}[way]
    runs = np.vstack([*parts, np.zeros((1, n_groups), np.bool_), np.ones((1, n_groups), np.bool_)])
    effects: dict[str, FloatArray] = {}
    for start, name in enumerate((RESTORED, ALONE) if way == BOTH else (way,)):
        weights = np.zeros((n_groups, len(runs)))
        own = np.arange(n_groups) + start * n_groups
        weights[np.arange(n_groups), own] = 1 if name == RESTORED else -1
        weights[:, -2 if name == RESTORED else -1] = -1 if name == RESTORED else 1
        effects[name] = weights
    return Design(SINGLE, runs, effects)


def hadamard_design(n_groups: int) -> Design:
    """The smallest Hadamard design for so many groups; its row of all restored is the base, which costs no run."""
    n = hadamard_size(n_groups)
    signs = hadamard_matrix(n)[:, 1 : n_groups + 1]
    runs = _in_order(signs > 0)
    weights = np.array([_in_hadamard_order(column * 2 / n, n + 1) for column in signs.T])
    return Design(HADAMARD, runs, {AVERAGED: weights})


def foldover_design(n_groups: int) -> Design:
    """A Hadamard design and its mirror image: effects are clear of every product of two groups.

    The rows of all and of none are base and quant, so 2 N - 2 hybrids.
    """
    n = hadamard_size(n_groups)
    signs = hadamard_matrix(n)[1:, 1 : n_groups + 1] > 0
    both = [np.zeros((1, n_groups), np.bool_), np.ones((1, n_groups), np.bool_)]
    runs = np.vstack([signs, ~signs, *both])
    weights = np.where(runs, 1.0, -1.0).T / n
    return Design(FOLDOVER, runs, {AVERAGED: weights})


def _in_order(rows: BoolArray) -> BoolArray:
    """The rows of a Hadamard design with the first (all restored) last, and nothing restored before it."""
    none = np.zeros((1, rows.shape[1]), np.bool_)
    return np.vstack([rows[1:], none, rows[:1]])


def _in_hadamard_order(column: FloatArray, n_runs: int) -> FloatArray:
    weights = np.zeros(n_runs)
    weights[:-2], weights[-1] = column[1:], column[0]
    return weights


def _independent(names: list[str], rows: FloatArray) -> Contrasts:
    """Without contrasts that are 0 by construction."""
    kept = np.abs(rows).max(axis=1) > _SAME
    return Contrasts(tuple(name for name, keep in zip(names, kept, strict=True) if keep), rows[kept])


def hadamard_size(n_groups: int) -> int:
    """The smallest order that has a column for each group beside the constant one."""
    n = 4
    while n < n_groups + 1 or not _has_matrix(n):
        n += 4
    return n


def _has_matrix(n: int) -> bool:
    return n & (n - 1) == 0 or (n % 4 == 0 and _is_prime(n - 1))


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % k for k in range(2, int(n**0.5) + 1))


def hadamard_matrix(n: int) -> FloatArray:
    """A matrix of +-1 with orthogonal columns, `[n, n]`, first row and column all 1.

    Sylvester's where n is a power of 2, else Paley's first construction, for n - 1 a prime that leaves 3 modulo 4
    (12, 20, 24, 32, 44, 48, ...): those that Plackett and Burman used.
    """
    if n & (n - 1) == 0:
        return np.asarray(linalg.hadamard(n), np.float64)
    q = n - 1
    squares = {x * x % q for x in range(1, q)}
    jacobsthal = np.array([[0 if a == b else 1 if (b - a) % q in squares else -1 for b in range(q)] for a in range(q)])
    skew = np.zeros((n, n))
    skew[0, 1:], skew[1:, 0], skew[1:, 1:] = 1, -1, jacobsthal
    matrix = np.eye(n) + skew
    matrix *= matrix[:, :1]  # the first column all 1
    return np.asarray(matrix * matrix[:1], np.float64)
